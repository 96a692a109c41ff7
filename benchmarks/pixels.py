"""One CT prior on finer and coarser pixels: denoising and 30-view reconstruction of one native scan on several grids.

    python -m benchmarks.pixels --study DICOM_FOLDER --slices 20 28

The study's slices are ingested with their native pixels and averaged over area to every working matrix. For each, the
prior denoises the truth under white noise, and total variation, PaM's point estimate and its samples reconstruct 30
noisy views. Total variation has the best of WEIGHTS on this very volume; ours has its defaults.
Writes docs/results/pixels.md and pixels.jpg.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.score import score_image, score_samples
from benchmarks.series import ingest_study, machine, measure_series
from benchmarks.tasks import TASKS
from data.atomic import atomic_path, write_text
from data.nifti import read_volume
from models.prior import SlicePrior, load_prior
from pipeline.calibrate import body
from pipeline.cli import main_wrapper
from pipeline.problem import load_problem
from pipeline.units import Units
from solvers.classical.registry import CLASSICAL
from solvers.problem import Problem
from solvers.run import run_solver

SIGMAS = (0.05, 0.2, 0.8)
WEIGHTS = (0.5, 1.0, 2.0, 4.0)
SAMPLES = 2
WINDOW_HU = (-1000.0, 400.0)


@dataclass(frozen=True, eq=False)
class Grid:
    """30 views of the slab on one working grid; truth (z y x) in HU."""

    problem: Problem
    units: Units
    truth: np.ndarray

    @property
    def pixel_mm(self) -> float:
        return self.problem.spacing_mm[2]

    def hu(self, x: Tensor) -> np.ndarray:
        return self.units.to_physical(x)


def measured(series: Path, matrix: int, folder: Path) -> Grid:
    out = folder / f"measurement_{matrix}"
    measure_series(series, TASKS["ct30"].section(0) | {"working_matrix": matrix}, out)
    problem, units = load_problem(out)
    return Grid(problem, units, read_volume(out / "truth.nii.gz").array_zyx.astype(np.float32))


def denoising(grid: Grid, prior: SlicePrior) -> list[str]:
    """For each of SIGMAS "rmse in HU (predicted over true mean squared error)", inside the patient."""
    clean = torch.from_numpy(grid.truth) / grid.units.scale
    inside, generator = body(clean), torch.Generator().manual_seed(0)
    cells = []
    for sigma in SIGMAS:
        noisy = clean + sigma * torch.randn(clean.shape, generator=generator)
        done = prior.denoise(noisy, sigma, grid.problem.spacing_mm)
        error = float((done.mean - clean)[inside].square().mean())
        ratio = float(done.variance[inside].mean()) / error
        cells.append(f"{1000 * error**0.5:.1f} ({ratio:.2f})")
    return cells


def best_tv(grid: Grid) -> tuple[float, np.ndarray]:
    """(weight, image in HU) with the highest axial PSNR against the truth."""
    images = {weight: grid.hu(CLASSICAL["tv"](grid.problem, {"weight": weight})) for weight in WEIGHTS}
    best = max(WEIGHTS, key=lambda weight: axial_db(images[weight], grid.truth))
    return best, images[best]


def axial_db(image: np.ndarray, truth: np.ndarray) -> float:
    return score_image(image, truth, "ct")["psnr_db"]["axial"]


def reconstruction(grid: Grid, prior: SlicePrior) -> tuple[list[str], list[np.ndarray]]:
    """(cells, middle slices of TV and of the point estimate in HU)."""
    weight, tv = best_tv(grid)
    point = grid.hu(run_solver("pam", grid.problem, prior, {"mode": "point"}).estimate)
    runs = [run_solver("pam", grid.problem, prior, {"mode": "sample"}, sample=k).estimate for k in range(SAMPLES)]
    samples = np.stack([grid.hu(x) for x in runs])
    spread, _ = score_samples(samples, grid.truth, "ct")
    values = [axial_db(image, grid.truth) for image in (tv, point, samples.mean(axis=0))]
    cells = [f"{values[0]:.2f} ({weight:g})", f"{values[1]:.2f}", f"{values[2]:.2f}"]
    cells += [f"{spread['coverage90']:.3f}", f"{spread['calibration_ratio']:.2f}"]
    return cells, [image[len(image) // 2] for image in (tv, point)]


def picture(rows: dict[int, list[np.ndarray]], path: Path) -> None:
    """Truth, total variation and ours, a row a grid."""
    figure, axes = plt.subplots(len(rows), 3, figsize=(9, 3 * len(rows)), squeeze=False, layout="constrained")
    for line, (matrix, images) in zip(axes, rows.items(), strict=True):
        for axis, image, name in zip(line, images, ("truth", "total variation", "PaM, point"), strict=True):
            axis.imshow(image, cmap="gray", vmin=WINDOW_HU[0], vmax=WINDOW_HU[1])
            axis.set_axis_off()
            axis.set_title(f"{name}, {matrix} x {matrix}", fontsize=8)
    with atomic_path(path) as part:
        figure.savefig(part, format="jpg", dpi=110, pil_kwargs={"quality": 85})
    plt.close(figure)


def page(rows: list[str], prior: SlicePrior, study: Path, arguments: argparse.Namespace, seconds: float) -> str:
    low, high = prior.card["pixel_mm"]
    first, last = arguments.slices
    matrices = " ".join(str(matrix) for matrix in arguments.matrices)
    weights = ", ".join(f"{weight:g}" for weight in WEIGHTS)
    head = ["matrix", "pixel mm", *(f"sigma {sigma:g}" for sigma in SIGMAS)]
    head += ["TV (weight)", "point", "mean", "cov. 90", "calibration"]
    lines = [
        "# Pixels that the training never had",
        "",
        f"Command: `python -m benchmarks.pixels --study {study.name} --slices {first} {last} --matrices {matrices}`. "
        f"Seed 0, {last - first} slices. {machine()}. Prior {prior.card['sha256'][:12]}. {seconds / 60:.0f} minutes.",
        "",
        f"The CT prior was trained on pixels of {low:g} to {high:g} mm; scanners write 0.6 to 1 mm. A study with its",
        "native pixels, of a patient that no prior and no setting was made on, is averaged over area to coarser grids.",
        "On each the prior denoises the truth under white noise of standard deviation sigma (1 is 1000 HU): root mean",
        "square error in HU inside the patient, in brackets its predicted mean square over the true one. Then 30",
        "views with noise of 1 % of the largest ray are reconstructed: axial PSNR in dB, total variation with the best",
        f"of its weights ({weights}) on this volume, ours with its defaults; 90 % coverage and calibration",
        f"ratio of {SAMPLES} samples. Bins are as wide as a pixel: finer grids have more rays of the same noise.",
        "",
        f"| {' | '.join(head)} |",
        "|" + " --- |" * len(head),
        *rows,
        "",
        "![truth, total variation and ours on each grid](pixels.jpg)",
    ]
    notes = arguments.docs / "pixels_notes.md"
    if notes.is_file():
        lines += ["", notes.read_text(encoding="utf-8").strip()]
    return "\n".join(lines) + "\n"


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pixels", description=__doc__.split("\n")[0])
    root = Path(__file__).parent.parent
    parser.add_argument("--study", type=Path, required=True, help="folder with a CT series of native pixels")
    parser.add_argument("--slices", type=int, nargs=2, required=True, help="half-open range of axial slices")
    parser.add_argument("--matrices", type=int, nargs="+", default=[512, 384, 256, 170])
    parser.add_argument("--prior", type=Path, default=root / "models" / "weights" / "ct")
    parser.add_argument("--docs", type=Path, default=root / "docs" / "results")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    prior = load_prior(arguments.prior)
    rows, images = [], {}
    with tempfile.TemporaryDirectory() as folder, tqdm(arguments.matrices, unit="grid", desc="pixels") as bar:
        series = ingest_study(arguments.study, "ct", tuple(arguments.slices), Path(folder) / "ingest")
        for matrix in bar:
            grid = measured(series, matrix, Path(folder))
            cells, pictures = reconstruction(grid, prior)
            cells = [f"{matrix}", f"{grid.pixel_mm:.3g}", *denoising(grid, prior), *cells]
            rows.append(f"| {' | '.join(cells)} |")
            images[matrix] = [grid.truth[len(grid.truth) // 2], *pictures]
        seconds = bar.format_dict["elapsed"]
    arguments.docs.mkdir(parents=True, exist_ok=True)
    picture(images, arguments.docs / "pixels.jpg")
    write_text(arguments.docs / "pixels.md", page(rows, prior, arguments.study, arguments, seconds))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
