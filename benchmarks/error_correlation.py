"""How far the denoiser's error is correlated, as samples assume it: what it does to them, on training patients.

    python -m benchmarks.error_correlation --ct chest.nii.gz --mr head.nii.gz --mr-thin thin_slices.nii.gz

Writes docs/results/error_correlation.md: PSNR of mean and sample, z-jump, calibration ratio and coverage of PaM's
samples for several choices of the card's `error`, and the correlation that the errors of denoised volumes really have.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.measured_error import Case, load_case
from benchmarks.score import score_image, score_samples
from benchmarks.series import machine
from data.atomic import write_text
from models.denoised import Denoised
from models.prior import SlicePrior, load_prior
from pipeline.cli import main_wrapper
from solvers.run import run_solver
from solvers.wrapped_prior import WrappedPrior

SAMPLES = 2
LAGS = (1, 2, 3)
# Beyond this quantile errors count as that large: a few edges must not decide what all voxels have in common.
HEAVY_TAIL = 0.99
TASKS = {"ct": ("ct30", "ct8", "ct_la90"), "mr": ("mr8", "mr4_2d"), "mr_thin": ("mr4",)}
# (length along z in mm, broad share, iterations of conjugate gradients): a broad share needs more of these.
CHOICES = {
    "ct": ((6.0, 0.0, 30), (15.0, 0.0, 30), (15.0, 0.3, 30), (15.0, 0.3, 80)),
    "mr": ((0.0, 0.0, 30), (2.0, 0.0, 30), (6.0, 0.0, 30), (6.0, 0.0, 80)),
}


class ListeningPrior(WrappedPrior):
    """A prior that keeps the error of every volume that it denoises, over its predicted standard deviation."""

    def __init__(self, inner: SlicePrior, truth: Tensor) -> None:
        super().__init__(inner)
        self.truth = truth
        self.errors: list[Tensor] = []

    def denoise(self, x, sigma, spacing_mm, noise_correlation=0.0) -> Denoised:
        denoised = super().denoise(x, sigma, spacing_mm, noise_correlation)
        h = denoised.mean.abs() if denoised.mean.is_complex() else denoised.mean
        self.errors.append((self.truth - h) / denoised.variance.sqrt())
        return denoised


def lag_correlation(error: Tensor, axis: int, lag: int) -> float:
    """Correlation of an error (z y x) with itself `lag` voxels on along an axis, heavy tails clipped."""
    most = float(torch.quantile(error.abs().flatten()[::7], HEAVY_TAIL))
    error = error.clamp(-most, most)
    count = error.shape[axis] - lag
    here, there = error.narrow(axis, 0, count), error.narrow(axis, lag, count)
    return float((here * there).mean() / (here.square().mean() * there.square().mean()).sqrt())


def measured_lags(case: Case) -> list[float]:
    """Mean over levels of the correlation at LAGS along z, then at LAGS along y and x together, of a point run."""
    truth = torch.from_numpy(case.truth) / case.units.scale
    listening = ListeningPrior(case.prior, truth)
    run_solver("pam", case.problem, listening, {"mode": "point", "reflect": False, "paths": 1})
    rows = []
    for error in listening.errors:
        along_z = [lag_correlation(error, 0, lag) for lag in LAGS]
        rows.append(along_z + [(lag_correlation(error, 1, lag) + lag_correlation(error, 2, lag)) / 2 for lag in LAGS])
    return torch.tensor(rows).mean(0).tolist()


def sampled(case: Case, choice: tuple[float, float, int]) -> list[str]:
    """Cells of a choice: PSNR of mean and sample, z-jump of a sample, calibration ratio, coverage."""
    length_mm, share, iterations = choice
    settings = {"error_length_mm": length_mm, "broad_share": share, "cg_iterations": iterations}
    runs = [run_solver("pam", case.problem, case.prior, settings, sample=k).estimate for k in range(SAMPLES)]
    values = torch.stack([torch.from_numpy(case.units.to_physical(x)) for x in runs]).numpy()
    figures, _ = score_samples(values, case.truth, case.units.modality)
    z_jump = score_image(values[0], case.truth, case.units.modality)["z_jump"]
    mean, sample = (case.psnr_db(run) for run in (torch.stack(runs).mean(0), runs[0]))
    return [
        f"{mean:.2f}", f"{sample:.2f}", f"{z_jump:.2f}", f"{figures['calibration_ratio']:.2f}",
        f"{figures['coverage90']:.3f}",
    ]  # fmt: skip


def rows(key: str, volume: Path, prior: SlicePrior, slices: int, bar: tqdm) -> Iterator[tuple[str, str]]:
    """(row of the table of choices, row of the measured correlations) for every task and choice of a volume."""
    for name in TASKS[key]:
        case = load_case(volume, name, prior, slices)
        label = f"{name}, {volume.name.split('.')[0]}, {case.problem.spacing_mm[0]:.2g} mm"
        lags = " | ".join(f"{value:.2f}" for value in measured_lags(case))
        bar.update()
        for choice in CHOICES[prior.modality]:
            cells = [*(f"{value:g}" for value in choice), *sampled(case, choice)]
            yield f"| {label} | {' | '.join(cells)} |", f"| {label} | {lags} |"
            bar.update(SAMPLES)


def page(found: list[tuple[str, str]], volumes: list[tuple[str, Path]], slices: int, seconds: float) -> str:
    """The page's text."""
    names = " ".join(f"--{key.replace('_', '-')} {path.name}" for key, path in volumes)
    choices, lags = ([pair[i] for pair in found] for i in range(2))
    lines = [
        "# How far the denoiser's error is correlated",
        "",
        f"Command: `python -m benchmarks.error_correlation {names} --slices {slices}`. Seed 0, {slices} slices, "
        f"{SAMPLES} samples. {machine()}. {seconds / 60:.0f} minutes.",
        "",
        "A draw of PaM adds an error of the predicted variance to the denoised volume, correlated between neighbouring",
        "voxels (solvers/correction.py). An error that is drawn rougher than real errors are is rough in the sample:",
        "slices jump, means of few samples are noisy. What was not measured is wrong over many voxels at once: a share",
        "of the variance, the broad one, may reach 8 pixels and 20 mm. CG: iterations of conjugate gradients at most;",
        "too few leave the drawn error, and with it the spread, too small. The cards' `error` says what samples use.",
        "These are training patients, the benchmark is in [bench.md](bench.md).",
        "",
        "| task | length along z, mm | broad share | CG | mean, dB | sample, dB | z-jump of a sample "
        "| calibration ratio | coverage 90 % |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *choices,
        "",
        "Correlation that the errors of denoised volumes have, over the predicted standard deviation, at a distance of",
        "one to three voxels, mean over the levels of a point run:",
        "",
        "| task | z 1 | z 2 | z 3 | in the slice 1 | 2 | 3 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *dict.fromkeys(lags),
    ]
    return "\n".join(lines) + "\n"


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.error_correlation", description=__doc__.split("\n")[0])
    root = Path(__file__).parent.parent
    parser.add_argument("--ct", type=Path, required=True, help="training patient's CT volume")
    parser.add_argument("--mr", type=Path, required=True, help="training patient's MR volume")
    parser.add_argument("--mr-thin", type=Path, required=True, help="MR volume of a training patient with thin slices")
    parser.add_argument("--slices", type=int, default=6)
    parser.add_argument("--priors", type=Path, default=root / "models" / "weights")
    parser.add_argument("--docs", type=Path, default=root / "docs" / "results")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    volumes = [("ct", arguments.ct), ("mr", arguments.mr), ("mr_thin", arguments.mr_thin)]
    count = sum(len(TASKS[key]) * (1 + SAMPLES * len(CHOICES[key[:2]])) for key, _ in volumes)
    found = []
    with tqdm(total=count, unit="run", desc="error correlation") as bar:
        for key, volume in volumes:
            found += rows(key, volume, load_prior(arguments.priors / key[:2]), arguments.slices, bar)
        seconds = bar.format_dict["elapsed"]
    write_text(arguments.docs / "error_correlation.md", page(found, volumes, arguments.slices, seconds))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
