"""Stage `support`: what of a reconstruction the data measured and what the prior filled in, and checks without truth.

Writes beside the uncertainty maps of a solver: support (0 to 1), sd_measured and sd_null (standard deviations of the
samples' measured and null parts) and unsupported (detail that the reconstruction is sure of and the data do not
support), as solvers/null_space.py defines them, and flag (probability that the mean is wrong about a structure, as
solvers/structure_doubt.py defines it). checks.json holds the residual chi2 of the samples and, where views or k-space
lines were kept from the reconstruction, how well the samples predict them. With a second prior, epistemic is the spread
between the two priors' estimates.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from data.atomic import write_text
from data.errors import InputError
from data.nifti import read_volume, write_volume
from models.prior import load_prior
from pipeline.cli import json_object, main_wrapper
from pipeline.doubt import doubt_maps
from pipeline.evaluate import read_json
from pipeline.machine import choose_device
from pipeline.measurement import read_tensors
from pipeline.problem import load_problem
from pipeline.settings import UncertaintySettings, build, require_range
from pipeline.uncertainty import find_path
from pipeline.units import HeldOut, Units
from solvers.null_space import smooth, support_maps
from solvers.problem import Problem
from solvers.registry import solver_settings
from solvers.run import run_solver

DESCRIPTIONS = {
    "support": "share of the detail that the data measured",
    "sd_measured": "standard deviation of the samples' measured parts",
    "sd_null": "standard deviation of the samples' null-space parts",
    "flag": "probability of a wrong structure",
    "unsupported": "null-space detail over its standard deviation",
    "epistemic": "standard deviation between the estimates with two priors",
}
# Millimetres over which the map of the share between priors is averaged.
SHARE_WIDTH_MM = 6.0


@dataclass(frozen=True)
class Draws:
    """Samples (K z y x) in prior units; `exact` where they are what the solver drew, not magnitudes with a borrowed
    phase."""

    samples: Tensor
    exact: bool

    @property
    def mean(self) -> Tensor:
        return self.samples.mean(dim=0)


def read_draws(reconstruction: Path, problem: Problem, units: Units) -> Draws:
    """Samples of a reconstruction as the solver drew them.

    MR files hold magnitudes; where they lack the phase of every sample, that of the smoothed start stands in, which is
    good enough for maps but not to predict k-space.
    """
    tensors = read_tensors(reconstruction / "samples.safetensors")[0]
    samples = torch.from_numpy(tensors["samples"]) / units.scale
    if not problem.dtype.is_complex:
        return Draws(samples.to(problem.device), True)
    if "phase" in tensors:
        phase = torch.from_numpy(tensors["phase"].astype(np.float32))
        return Draws(torch.polar(samples, phase).to(problem.device), True)
    start = problem.x_init.cpu().numpy()
    parts = [smooth(part, 2.0, problem.spacing_mm) for part in (start.real, start.imag)]
    phase = torch.from_numpy(np.arctan2(parts[1], parts[0])).float()
    return Draws(torch.polar(samples, phase.expand_as(samples)).to(problem.device), False)


def point_estimate(reconstruction: Path, draws: Draws, units: Units) -> Tensor:
    """The run's point estimate (z y x) in prior units, with the phase of the samples' mean; their mean where the solver
    made none."""
    path = reconstruction / "point.nii.gz"
    mean = draws.mean
    if not path.is_file():
        return mean
    values = torch.from_numpy(read_volume(path).array_zyx.astype(np.float32)).to(mean.device) / units.scale
    return torch.polar(values.abs(), mean.angle()) if mean.is_complex() else values


def heldout_check(heldout: HeldOut, samples: Tensor, interval: float = 0.9) -> dict[str, float]:
    """How well samples (K z y x) predict data that the reconstruction did not see; needs no truth.

    Every datum y_i, each real component by itself, has the prediction mean_i with variance v_i = s_i^2 (1 + 1/K) + n_i:
    spread of the samples' predictions and noise.

    z2            sum (y_i - mean_i)^2 / sum v_i: 1 when right, above when the samples are too sure; pooled, because the
                  ratio of single variances from few samples has no mean
    coverage90    share of y_i inside mean_i +- t sqrt(v_i), t with Welch-Satterthwaite degrees of freedom
    worst_share   share that the worst hundredth of the y_i has in sum (y_i - mean_i)^2 / v_i; a tenth or so when errors
                  are spread evenly, near 1 when one place is wrong
    noise_share   sum n_i / sum v_i: near 1 the check sees noise alone and says little of the samples
    count         data that were predicted
    """
    draws = samples.shape[0]
    predicted = torch.stack([_parts(heldout.A(sample)) for sample in samples])
    measured = (heldout.weights > 0).expand(heldout.y.shape)
    weights = heldout.weights.expand(heldout.y.shape)[measured].double()
    if samples.is_complex():
        weights = weights[:, None].expand(-1, 2)
    y = _parts(heldout.y)[measured].double()
    predicted = predicted[:, measured].double()
    spread, noise = predicted.var(dim=0) * (1 + 1 / draws), 1 / weights
    error2 = (y - predicted.mean(dim=0)).square()
    variance = spread + noise
    freedom = ((draws - 1) * (variance / spread.clamp_min(1e-30)).square()).clamp(max=1e9)
    limit = stats.t.ppf(0.5 + interval / 2, freedom.cpu().numpy())
    inside = error2.sqrt().cpu().numpy() <= limit * variance.sqrt().cpu().numpy()
    scores = (error2 / variance).sort(descending=True).values
    worst = scores[: -(-scores.numel() // 100)]
    return {
        "z2": float(error2.sum() / variance.sum()),
        f"coverage{100 * interval:g}": float(inside.mean()),
        "worst_share": float(worst.sum() / scores.sum().clamp_min(1e-30)),
        "noise_share": float(noise.sum() / variance.sum()),
        "count": int(inside.size),
    }


def _parts(data: Tensor) -> Tensor:
    """Data with a last axis of real and imaginary part where they are complex."""
    return torch.view_as_real(data.resolve_conj()) if data.is_complex() else data


def second_estimate(
    problem: Problem, units: Units, record: dict[str, Any], folder: Path, device: str, modality: str
) -> np.ndarray:
    """The run's solver with another prior: its point estimate, or one sample of a solver without; (z y x), physical."""
    prior = load_prior(folder, device)
    prior.check_fits(modality, problem.spacing_mm[2])
    values = dict(record["solver_settings"])
    point = record["point"] is not None
    if point:
        values["mode"] = "point"
    settings = solver_settings(record["solver"], values)
    problem = replace(problem, sigma_init=record["sigma_init"])
    sample = "point" if point else 0
    result = run_solver(record["solver"], problem, prior, settings, seed=record["seed"], sample=sample)
    return units.to_physical(result.estimate)


def between_priors(
    first: np.ndarray, second: np.ndarray, std: np.ndarray, spacing_mm: tuple[float, float, float]
) -> tuple[np.ndarray, float]:
    """(standard deviation between two priors' estimates (z y x), its share of all variance, over the volume).

    Two values have the variance (a - b)^2 / 2, here averaged over a few millimetres; all variance is that plus the
    samples' within one prior.
    """
    between = np.maximum(smooth((first.astype(np.float64) - second) ** 2 / 2, SHARE_WIDTH_MM, spacing_mm), 0)
    total = between.sum() + float(np.sum(std.astype(np.float64) ** 2))
    return np.sqrt(between), float(between.sum() / total) if total > 0 else 0.0


def run(measurement: Path, reconstruction: Path, out: Path, settings: UncertaintySettings) -> None:
    """Write the maps as NIfTI and checks.json into a folder; see the module's docstring."""
    require_range(settings.structure_mm, 1, 50, "uncertainty.structure_mm")
    record = read_json(reconstruction / "run.json")
    device = choose_device(record["settings"]["device"])
    problem, units = load_problem(measurement, device)
    draws = read_draws(reconstruction, problem, units)
    if draws.samples.shape[0] < 2:
        raise InputError("reconstruct.samples: one sample has no spread; set samples to 2 or more for uncertainty.")
    maps = support_maps(problem, draws.mean, draws.samples)
    best = point_estimate(reconstruction, draws, units)
    card, sizes = record.get("prior") or {}, (settings.structure_mm,)
    maps["flag"] = doubt_maps(problem, units.modality, card, draws.mean, best, draws.samples, sizes)[sizes[0]]
    for name in ("sd_measured", "sd_null"):
        maps[name] = maps[name] * units.scale
    heldout = units.heldout if draws.exact else None
    checks: dict[str, Any] = {
        "chi2": [float(value) for value in record["chi2"]],
        "measured_share": measured_share(maps),
        "heldout": heldout_check(heldout, draws.samples) if heldout else None,
    }
    if settings.second_prior:
        own = reconstruction / "point.nii.gz"
        first = read_volume(own).array_zyx if own.is_file() else units.to_physical(draws.mean)
        second = second_estimate(problem, units, record, find_path(settings.second_prior), device, units.modality)
        shown = draws.samples.abs() if draws.samples.is_complex() else draws.samples
        std = units.to_physical(shown.std(dim=0))
        maps["epistemic"], share = between_priors(first, second, std, problem.spacing_mm)
        checks["epistemic_share"] = share
    out.mkdir(parents=True, exist_ok=True)
    for name, description in DESCRIPTIONS.items():
        path = out / f"{name}.nii.gz"
        if name in maps:
            write_volume(path, maps[name].astype(np.float32), units.affine, np.float32, description)
        else:
            path.unlink(missing_ok=True)
    write_text(out / "checks.json", json.dumps(checks, indent=1) + "\n")


def measured_share(maps: dict[str, np.ndarray]) -> float:
    """Share of the samples' variance that lies in what the data measured: small when noise is not what limits."""
    measured, null = (float(np.sum(maps[name].astype(np.float64) ** 2)) for name in ("sd_measured", "sd_null"))
    return measured / (measured + null) if measured + null > 0 else 0.0


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline.support", description=__doc__.split("\n")[0])
    parser.add_argument("--measurement", type=Path, required=True, help="folder with measurement.safetensors")
    parser.add_argument("--reconstruction", type=Path, required=True, help="folder with samples.safetensors, run.json")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--settings", default="{}", help="JSON object: the cohort's `uncertainty` section")
    arguments = parser.parse_args(argv)
    settings = build(UncertaintySettings, json_object(arguments.settings), "uncertainty")
    run(arguments.measurement, arguments.reconstruction, arguments.out, settings)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
