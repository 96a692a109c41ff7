"""The denoiser's error measured on the study itself: what it gains over one calibrated scale, on training patients.

    python -m benchmarks.measured_error --ct chest.nii.gz --mr head.nii.gz

For every task PaM's point estimate is run with fixed factors on the card's error variance and with the measured one
(solvers/measured_error.py), and so are samples, whose calibration ratio (1 + 1/K) V / B is taken inside the body.
Writes docs/results/measured_error.md.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.score import mean_psnr_db
from benchmarks.series import machine, measure_slab
from benchmarks.tasks import TASKS, TUNING_SLABS
from data.atomic import write_text
from data.nifti import read_volume
from models.prior import SlicePrior, load_prior
from pipeline.calibrate import body
from pipeline.cli import main_wrapper
from pipeline.problem import load_problem
from pipeline.units import Units
from solvers.problem import Problem
from solvers.run import run_solver

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
SAMPLES = 3
NAMES = {"ct": ("ct60", "ct30", "ct15", "ct8", "ct_la90", "ct_lowdose"), "mr": ("mr4_2d", "mr4", "mr8")}


@dataclass(frozen=True, eq=False)
class Case:
    """One task's measurement; truth (z y x) in physical units."""

    problem: Problem
    units: Units
    truth: np.ndarray
    prior: SlicePrior

    def point_db(self, trust: float | None) -> float:
        """PSNR, mean of the three planes."""
        done = run_solver("pam", self.problem, self.prior, {"mode": "point", "trust": trust})
        return self.psnr_db(done.estimate)

    def psnr_db(self, x: Tensor) -> float:
        return self.psnr_of(self.units.to_physical(x))

    def psnr_of(self, array: np.ndarray) -> float:
        """The same of (z y x) in physical units."""
        return mean_psnr_db(array, self.truth, self.units.modality)

    def draws(self, trust: float | None) -> Tensor:
        """SAMPLES samples (k z y x) in physical units."""
        settings = {"mode": "sample", "trust": trust}
        runs = [run_solver("pam", self.problem, self.prior, settings, sample=k).estimate for k in range(SAMPLES)]
        return torch.stack([torch.from_numpy(self.units.to_physical(x)) for x in runs])

    def ratio(self, values: Tensor) -> float:
        """Calibration ratio (1 + 1/K) V / B of samples (k z y x), inside the body."""
        truth = torch.from_numpy(self.truth)
        inside = body(truth)
        error = ((values.mean(0) - truth) ** 2)[inside].mean()
        return float((1 + 1 / len(values)) * values.var(0)[inside].mean() / error)

    def samples(self, trust: float | None) -> tuple[float, float]:
        """(PSNR of the mean, calibration ratio) of SAMPLES samples."""
        values = self.draws(trust)
        return self.psnr_of(values.mean(0).numpy()), self.ratio(values)


def load_case(volume: Path, name: str, prior: SlicePrior, slices: int) -> Case:
    first, last = TUNING_SLABS[prior.modality]
    start = (first + last - slices) // 2
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "measurement"
        measure_slab(volume, (start, start + slices), TASKS[name].section(0), out)
        problem, units = load_problem(out)
        truth = read_volume(out / "truth.nii.gz").array_zyx
    return Case(problem, units, truth.astype(np.float32), prior)


def rows(volume: Path, prior: SlicePrior, slices: int, bar: tqdm) -> Iterator[str]:
    """Table rows of a modality's tasks."""
    for name in NAMES[prior.modality]:
        case = load_case(volume, name, prior, slices)
        fixed = {}
        for factor in FACTORS:
            fixed[factor] = case.point_db(factor)
            bar.update()
        found, best = case.point_db(None), max(fixed, key=fixed.__getitem__)
        plain, measured = case.samples(1.0), case.samples(None)
        bar.update(1 + 2 * SAMPLES)
        cells = [f"{fixed[1.0]:.2f}", f"{found:.2f}", f"{fixed[best]:.2f} ({best:g})"]
        cells += [f"{value:.2f}" for pair in zip(plain, measured, strict=True) for value in pair]
        yield f"| {name} | {' | '.join(cells)} |"


def page(table: list[str], volumes: list[Path], slices: int, seconds: float) -> str:
    """The page's text."""
    names = " ".join(f"--{key} {path.name}" for key, path in zip(("ct", "mr"), volumes, strict=True))
    lines = [
        "# The denoiser's error, measured on the study itself",
        "",
        f"Command: `python -m benchmarks.measured_error {names} --slices {slices}`. Seed 0, {slices} slices, "
        f"{SAMPLES} samples. {machine()}. {seconds / 60:.0f} minutes.",
        "",
        "PaM's one weight is the variance that it gives the denoiser's error: the network's own prediction times a",
        "factor from the prior's card, which is fitted on a few tasks. On other tasks, and on other patients, the",
        "error is smaller or larger; the residual of the second level tells by how much (solvers/measured_error.py).",
        "`measured` is the default; `fixed` is the card's factor alone; the best of the factors "
        + ", ".join(f"{factor:g}" for factor in FACTORS)
        + " needs the truth",
        "and is what a measurement could reach. PSNR in dB, mean of the three planes; calibration ratio 1 is right.",
        "These are the patients that settings are found on: the benchmark is in [bench.md](bench.md).",
        "",
        "| task | point, fixed | point, measured | point, best factor | mean, fixed | mean, measured | ratio, fixed "
        "| ratio, measured |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *table,
    ]
    return "\n".join(lines) + "\n"


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.measured_error", description=__doc__.split("\n")[0])
    root = Path(__file__).parent.parent
    parser.add_argument("--ct", type=Path, required=True, help="training patient's CT volume")
    parser.add_argument("--mr", type=Path, required=True, help="training patient's MR volume")
    parser.add_argument("--slices", type=int, default=4)
    parser.add_argument("--priors", type=Path, default=root / "models" / "weights")
    parser.add_argument("--docs", type=Path, default=root / "docs" / "results")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    count = sum(len(names) for names in NAMES.values()) * (len(FACTORS) + 1 + 2 * SAMPLES)
    table = []
    with tqdm(total=count, unit="run", desc="measured error") as bar:
        for modality, volume in (("ct", arguments.ct), ("mr", arguments.mr)):
            table += rows(volume, load_prior(arguments.priors / modality), arguments.slices, bar)
        seconds = bar.format_dict["elapsed"]
    text = page(table, [arguments.ct, arguments.mr], arguments.slices, seconds)
    write_text(arguments.docs / "measured_error.md", text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
