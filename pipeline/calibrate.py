"""Fits what a prior's predicted error variance has to be multiplied with in reconstructions, and writes it on its card.

    python -m pipeline.calibrate --prior DIR --series DIR [--series DIR ...] --settings JSON

Every series is an ingested volume of a patient that the prior was not trained on; tasks are its measurements. For point
estimates PaM is run and, at every noise level, the squared error of the denoised volume against the truth is compared
with the predicted variance: their ratio, averaged over tasks in the logarithm, is the table r2_scale["point"]. Two
passes, since the ratio shapes the path; then one factor, the correlation of the error (card `error`) and the factor
again are chosen by PSNR. For samples, whose path is that of white noise, one number serves all levels: the one at which
spread equals error, (1 + 1/K) V / B = 1. Last, how large the measured part of the error is on these tasks
(solvers/measured_error.py): on other studies the table is scaled with theirs (card `measured`).
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.atomic import atomic_path
from data.errors import InputError
from models.denoised import Denoised
from models.prior import CARD, SlicePrior, load_prior
from pipeline import measure
from pipeline.cli import json_object, main_wrapper
from pipeline.problem import load_problem
from solvers.correction import ErrorModel, error_correlation
from solvers.draws import Draws
from solvers.measured_error import error_scale
from solvers.pam import MEASURED_LEVEL
from solvers.problem import Problem
from solvers.run import run_solver
from solvers.wrapped_prior import WrappedPrior

FACTORS = {"point": (0.25, 0.5, 1.0, 2.0), "sample": (1.0, 2.0, 4.0, 8.0)}
# Correlation lengths of the denoiser's error. The fit starts at FIRST_ERROR: streaks of CT go through several slices.
ERRORS = tuple({"length_mm": length, "pixels": pixels} for length in (6.0, 0.0) for pixels in (1.0, 2.0, 3.0))
FIRST_ERROR = {"ct": ERRORS[0], "mr": ERRORS[3]}
# Samples accumulate what is left out here: benchmarks/error_correlation.py compares these with others.
SAMPLE_ERROR = {
    "ct": {"length_mm": 15.0, "pixels": 1.0, "broad_share": 0.0, "broad_length_mm": 20.0, "broad_pixels": 8.0},
    "mr": {"length_mm": 0.0, "pixels": 1.0},
}
PASSES = 2
# A residual below the noise measures no error at all.
LEAST_SCALE = 0.01
GRID = tuple(float(s) for s in np.geomspace(0.02, 1.5, 12))


@dataclass(frozen=True)
class Task:
    """One measurement with its truth (z y x), in prior units; magnitudes for MR."""

    name: str
    problem: Problem
    truth: Tensor


class RecordingPrior(WrappedPrior):
    """A prior that notes (sigma, mean squared error, mean predicted variance) whenever it denoises unreflected volumes,
    and keeps the denoised volume of level MEASURED_LEVEL."""

    def __init__(self, inner: SlicePrior, truth: Tensor) -> None:
        super().__init__(inner)
        self.truth = truth
        self.rows: list[tuple[float, float, float]] = []
        self.measured: Denoised | None = None

    def denoise(self, x, sigma, spacing_mm, noise_correlation=0.0) -> Denoised:
        denoised = super().denoise(x, sigma, spacing_mm, noise_correlation)
        if len(self.rows) == MEASURED_LEVEL:
            self.measured = denoised
        inside = body(self.truth)
        error = squared_error(denoised.mean, self.truth)[inside].mean()
        self.rows.append((sigma, float(error), float(denoised.variance[inside].mean())))
        return denoised


def squared_error(x: Tensor, truth: Tensor) -> Tensor:
    """Per real component: of the values for CT, of the magnitude for MR (the component along the image's phase)."""
    return ((x.abs() if x.is_complex() else x) - truth) ** 2


def body(truth: Tensor) -> Tensor:
    """Voxels that are neither air around the patient nor background: the upper half of the value range's first
    fifth."""
    return truth > truth.min() + 0.05 * (torch.quantile(truth.flatten()[::7], 0.995) - truth.min())


def fit_table(rows: list[list[tuple[float, float, float]]]) -> dict[str, list[float]]:
    """r2_scale on GRID: mean over tasks of ln(error / variance), each interpolated in ln sigma."""
    curves = []
    for task in rows:
        sigma, error, variance = np.array(sorted(task)).T
        curves.append(np.interp(np.log(GRID), np.log(sigma), np.log(error / variance)))
    return {"sigma": list(GRID), "scale": [round(float(s), 4) for s in np.exp(np.mean(curves, axis=0))]}


def load_tasks(series: list[Path], measures: list[dict[str, Any]], modality: str, folder: Path) -> list[Task]:
    tasks = []
    for s, path in enumerate(series):
        for m, section in enumerate(measures):
            out = folder / f"{s}_{m}"
            arguments = [
                "--input",
                str(path),
                "--out",
                str(out),
                "--settings",
                json.dumps(section | {"modality": modality}),
            ]
            if measure.main(arguments) != 0:
                raise InputError(f"{path} could not be measured with {section}; correct the settings.")
            problem, units = load_problem(out)
            truth = np.asarray(nibabel.load(out / "truth.nii.gz").dataobj).transpose(2, 1, 0) / units.scale
            tasks.append(Task(json.dumps(section), problem, torch.from_numpy(truth.astype(np.float32))))
    return tasks


def score(task: Task, estimates: list[Tensor], purpose: str) -> float:
    """Mean squared error in dB below 1 for a point estimate; ln((1 + 1/K) V / B) inside the body for samples."""
    values = torch.stack([e.abs() if e.is_complex() else e for e in estimates])
    error = ((values.mean(0) - task.truth) ** 2)[body(task.truth)].mean()
    if purpose == "point":
        return float(-10 * torch.log10(error))
    spread = values.var(0)[body(task.truth)].mean()
    return float(torch.log((1 + 1 / len(estimates)) * spread / error))


@dataclass
class Fit:
    """A calibration under way: runs PaM on every task and keeps what was tried."""

    prior: SlicePrior
    tasks: list[Task]
    settings: dict[str, Any]
    samples: int
    bar: tqdm

    def mean_scores(self, purpose: str, factor: float) -> list[float]:
        """Score of every task with the card as it is and r^2 times `factor`."""
        chosen = self.settings | {"mode": purpose, "trust": factor}
        scores = []
        for task in self.tasks:
            count = self.samples if purpose == "sample" else 1
            estimates = [run_solver("pam", task.problem, self.prior, chosen, sample=k).estimate for k in range(count)]
            scores.append(score(task, estimates, purpose))
            self.bar.update(count)
        return scores

    def trajectory_table(self) -> dict[str, Any]:
        """r2_scale["point"] on GRID along the paths that the card as it is leads to."""
        recorders = [RecordingPrior(self.prior, task.truth) for task in self.tasks]
        for task, recorder in zip(self.tasks, recorders, strict=True):
            self.run_recorded(task, recorder, "point")
        return fit_table([recorder.rows for recorder in recorders])

    def run_recorded(self, task: Task, recorder: RecordingPrior, purpose: str) -> None:
        """PaM in the volume's own frame, as the recorder compares with the truth there."""
        chosen = {"mode": purpose, "trust": 1.0, "reflect": False, "paths": 1}
        run_solver("pam", task.problem, recorder, self.settings | chosen)
        self.bar.update()

    def measured(self, purpose: str) -> float:
        """Card `measured`: the inverse of the geometric mean over tasks of `error_scale`, with the card as settled."""
        scales = []
        for task in self.tasks:
            recorder = RecordingPrior(self.prior, task.truth)
            self.run_recorded(task, recorder, purpose)
            sigma = recorder.rows[MEASURED_LEVEL][0]
            variance = self.prior.r2_scale(sigma, purpose) * recorder.measured.variance
            error = ErrorModel(variance.sqrt(), *error_correlation(task.problem, self.prior.card, purpose))
            scales.append(max(error_scale(task.problem, recorder.measured.mean, error, Draws(0)), LEAST_SCALE))
        return round(float(np.exp(-np.mean(np.log(scales)))), 3)

    def point(self) -> dict[str, Any]:
        """Table, factor and error correlation of point estimates; the correlation goes onto the prior's card."""
        card = self.prior.card
        first = FIRST_ERROR[self.prior.modality]
        card["error"] = {"point": dict(first), "sample": SAMPLE_ERROR[self.prior.modality]}
        card["r2_scale"] = {"point": {"sigma": list(GRID), "scale": [1.0] * len(GRID)}}
        for _ in range(PASSES):
            card["r2_scale"]["point"] = self.trajectory_table()
        scores = {factor: self.mean_scores("point", factor) for factor in FACTORS["point"]}
        factor = best_factor(scores, "point")
        errors = {json.dumps(first): scores[factor]}
        for error in (e for e in ERRORS if e != first):
            card["error"]["point"] = dict(error)
            errors[json.dumps(error)] = self.mean_scores("point", factor)
        card["error"]["point"] = json.loads(max(errors, key=lambda name: float(np.mean(errors[name]))))
        if card["error"]["point"] != first:
            again = (factor / 2, factor, factor * 2)
            scores = {f: self.mean_scores("point", f) for f in again}
            factor = best_factor(scores, "point")
        kept = {"factor": factor, "scores": {str(k): v for k, v in scores.items()}, "errors": errors}
        return card["r2_scale"]["point"] | kept

    def sample(self) -> dict[str, Any]:
        """One factor for all levels of samples."""
        table = {"sigma": list(GRID), "scale": [1.0] * len(GRID)}
        self.prior.card["r2_scale"]["sample"] = table
        scores = {factor: self.mean_scores("sample", factor) for factor in FACTORS["sample"]}
        return table | {"factor": best_factor(scores, "sample"), "scores": {str(k): v for k, v in scores.items()}}

    def runs(self) -> int:
        """Solver runs at most."""
        point = PASSES + len(FACTORS["point"]) + len(ERRORS) - 1 + 3
        return len(self.tasks) * (point + self.samples * len(FACTORS["sample"]) + 2)


def best_factor(scores: dict[float, list[float]], purpose: str) -> float:
    """Factor with the highest mean score (point), or where the mean log-ratio crosses zero (sample), in ln factor."""
    factors = sorted(scores)
    means = [float(np.mean(scores[f])) for f in factors]
    if purpose == "point":
        return factors[int(np.argmax(means))]
    return round(float(np.exp(np.interp(0.0, means, np.log(factors)))), 4)


def settled(fitted: dict[str, Any]) -> dict[str, Any]:
    """The table with its factor multiplied in."""
    return fitted | {"scale": [round(s * fitted["factor"], 4) for s in fitted["scale"]]}


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", type=Path, required=True)
    parser.add_argument("--series", type=Path, action="append", required=True, help="ingested series (volume.nii.gz)")
    parser.add_argument("--settings", required=True, help='JSON: {"measure": [...], "pam": {...}, "samples": 4}')
    arguments = parser.parse_args(argv)
    settings = json_object(arguments.settings)
    prior = load_prior(arguments.prior)
    samples = settings.get("samples", 4)
    with tempfile.TemporaryDirectory() as folder:
        tasks = load_tasks(arguments.series, settings["measure"], prior.modality, Path(folder))
        fit = Fit(prior, tasks, settings.get("pam", {}), samples, tqdm(unit="run", desc="calibrate"))
        fit.bar.total = fit.runs()
        fitted = {"point": fit.point(), "sample": fit.sample()}
        prior.card["r2_scale"] = {purpose: settled(table) for purpose, table in fitted.items()}
        measured = {purpose: fit.measured(purpose) for purpose in fitted}
        fit.bar.close()
    card = prior.card | {"measured": measured}
    card["calibration"] = {"settings": settings, "series": [path.parent.name for path in arguments.series]}
    with atomic_path(arguments.prior / CARD) as part:
        part.write_text(json.dumps(card, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
