"""Fits what a prior's predicted error variance has to be multiplied with in reconstructions, and writes it on its card.

    python -m pipeline.calibrate --prior DIR --series DIR [--series DIR ...] --settings JSON

Every series is an ingested volume of a patient that the prior was not trained on; tasks are its measurements. For point
estimates PaM is run and, at every noise level, the squared error of the denoised volume against the truth is compared
with the predicted variance: their ratio, averaged over tasks in the logarithm, is the table r2_scale["point"]. Two
passes, since the ratio shapes the path; then one factor is chosen by PSNR. For samples, whose path is that of white
noise, one number serves all levels: the one at which spread equals error, (1 + 1/K) V / B = 1.
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
from solvers.problem import Problem
from solvers.run import run_solver

FACTORS = {"point": (0.5, 1.0, 2.0, 4.0), "sample": (1.0, 2.0, 4.0)}
PASSES = 2
GRID = tuple(float(s) for s in np.geomspace(0.02, 1.5, 12))


@dataclass(frozen=True)
class Task:
    """One measurement with its truth (z y x), in prior units; magnitudes for MR."""

    name: str
    problem: Problem
    truth: Tensor


class RecordingPrior:
    """A prior that notes (sigma, mean squared error, mean predicted variance) whenever it denoises."""

    def __init__(self, prior: SlicePrior, truth: Tensor):
        self.prior, self.truth = prior, truth
        self.rows: list[tuple[float, float, float]] = []

    def denoise(self, x, sigma, spacing_mm, noise_correlation=0.0) -> Denoised:
        denoised = self.prior.denoise(x, sigma, spacing_mm, noise_correlation)
        inside = body(self.truth)
        error = squared_error(denoised.mean, self.truth)[inside].mean()
        self.rows.append((sigma, float(error), float(denoised.variance[inside].mean())))
        return denoised

    def r2_scale(self, sigma: float, purpose: str) -> float:
        return self.prior.r2_scale(sigma, purpose)


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


def fit(
    prior: SlicePrior, tasks: list[Task], settings: dict[str, Any], purpose: str, samples: int, bar: tqdm
) -> dict[str, Any]:
    """r2_scale of one purpose on GRID, before its factor, with the factor and the scores it was chosen by."""
    table: dict[str, Any] = {"sigma": list(GRID), "scale": [1.0] * len(GRID)}
    prior.card.setdefault("r2_scale", {})[purpose] = table
    for _ in range(PASSES if purpose == "point" else 0):
        recorders = [RecordingPrior(prior, task.truth) for task in tasks]
        for task, recorder in zip(tasks, recorders, strict=True):
            run_solver("pam", task.problem, recorder, settings | {"mode": purpose, "trust": 1.0})
            bar.update()
        table = prior.card["r2_scale"][purpose] = fit_table([recorder.rows for recorder in recorders])
    count = samples if purpose == "sample" else 1
    scores: dict[float, list[float]] = {}
    for factor in FACTORS[purpose]:
        chosen = settings | {"mode": purpose, "trust": factor}
        scores[factor] = []
        for task in tasks:
            estimates = [run_solver("pam", task.problem, prior, chosen, sample=k).estimate for k in range(count)]
            scores[factor].append(score(task, estimates, purpose))
            bar.update(count)
    return table | {"factor": best_factor(scores, purpose), "scores": {str(k): v for k, v in scores.items()}}


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
        total = len(tasks) * (PASSES + len(FACTORS["point"]) + samples * len(FACTORS["sample"]))
        with tqdm(total=total, unit="run", desc="calibrate") as bar:
            fitted = {p: fit(prior, tasks, settings.get("pam", {}), p, samples, bar) for p in ("point", "sample")}
    card = prior.card | {"r2_scale": {purpose: settled(table) for purpose, table in fitted.items()}}
    card["calibration"] = {"settings": settings, "series": [path.parent.name for path in arguments.series]}
    with atomic_path(arguments.prior / CARD) as part:
        part.write_text(json.dumps(card, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
