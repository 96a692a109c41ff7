"""Simulation-based calibration: are posterior samples right when the prior is right?

    python -m benchmarks.sbc --prior models/weights/ct

Truths x* are drawn from the prior itself (unconditional reverse diffusion with the same network), measured with exactly
the operator and noise that the sampler is told, and sampled K times. Among x* and its samples the rank of any statistic
is then uniform on 0 ... K if the sampler is exact (Talts et al. 2018, theorem 1), whatever the prior's quality: what
the test finds is the sampler's own error, apart from the prior's misfit to patients. Every replicate is one small slice
of its own. The same is done with a Gaussian prior, whose exact posterior is the control. Writes docs/results/sbc.md.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from benchmarks.methods import methods
from benchmarks.sbc_page import write_page
from benchmarks.series import machine
from benchmarks.settings import method_settings, read_tuned
from benchmarks.tasks import TASKS
from models.denoised import Denoised
from models.gaussian import GaussianPrior
from models.prior import SlicePrior, load_prior
from operators.ct_geometry import ImageGrid, ParallelBeam, view_angles
from operators.ct_projector import CtProjector
from operators.norm import normalise
from pipeline.cli import main_wrapper
from pipeline.problem_ct import smooth_start
from pipeline.start_level import LEAST_SIGMA_INIT
from solvers.draws import Draws
from solvers.problem import Problem
from solvers.run import run_solver
from solvers.schedule import karras_levels

ROOT = Path(__file__).parent.parent
# Replicates are slices of one stack; so far apart, no solver's coupling along z reaches from one to the next.
APART_MM = 1e4
PRIOR_SIGMA_MAX, PRIOR_SIGMA_MIN, PRIOR_LEVELS = 10.0, 0.01, 40
METHODS = ("pam", "dds", "diffpir")
EXACT_STD = 0.5
# PaM is exact where its error model is true and it starts from noise that drowns the prior.
EXACT = {
    "sigma_max": 10.0,
    "sigma_min": 0.01,
    "error_pixels": 0.0,
    "error_length_mm": 0.0,
    "cg_tolerance": 1e-6,
    "cg_iterations": 100,
}


@dataclass(frozen=True)
class Setting:
    """Size of the test: square slices of `side` pixels, `replicates` of them, `samples` (K) each; `views` of a CT."""

    side: int = 64
    pixel_mm: float = 1.5
    slice_mm: float = 2.5
    views: int = 16
    noise_of_largest: float = 0.01
    replicates: int = 40
    samples: int = 7
    seed: int = 0


class SeparateSlices:
    """A slice prior for a stack of unrelated slices: each is denoised as a volume of its own."""

    def __init__(self, prior: SlicePrior, slice_mm: float, pixel_mm: float, correlation: float):
        self.prior, self.spacing_mm, self.correlation = prior, (slice_mm, pixel_mm, pixel_mm), correlation
        self.card, self.sigma_data = prior.card, prior.sigma_data

    def denoise(self, x: Tensor, sigma: float, spacing_mm=None, noise_correlation: float = 0.0) -> Denoised:
        """Moments (z y x); spacing and correlation are those of the test, not the stack's."""
        parts = [self.prior.denoise(plane[None], sigma, self.spacing_mm, self.correlation) for plane in x]
        return Denoised(torch.cat([p.mean for p in parts]), torch.cat([p.variance for p in parts]))

    def r2_scale(self, sigma: float, purpose: str) -> float:
        return self.prior.r2_scale(sigma, purpose)


def prior_draws(prior: Any, shape: tuple[int, int, int], draws: Draws, levels: int = PRIOR_LEVELS) -> Tensor:
    """Truths (z y x): reverse diffusion of the variance-exploding SDE from sigma_max to the prior, no data.

    With h, V = D(x) and q = sigma'^2 / sigma^2 one step is x' ~ N(h + q (x - h), sigma'^2 (1 - q) + (1 - q)^2 V), the
    exact mean and variance of the reverse kernel (Bao et al., ICLR 2022, theorem 1; here a variance by voxel).
    """
    sigmas = [*karras_levels(PRIOR_SIGMA_MAX, PRIOR_SIGMA_MIN, levels), 0.0]
    x = sigmas[0] * draws.normal(shape, torch.float32, "truth", 0)
    for level, (sigma, following) in enumerate(pairwise(sigmas)):
        h, variance = prior.denoise(x, sigma)
        q = (following / sigma) ** 2
        width = (following**2 * (1 - q) + (1 - q) ** 2 * variance).sqrt()
        x = h + q * (x - h) + width * draws.normal(shape, torch.float32, "truth", level + 1)
    return x


def make_problem(truth: Tensor, setting: Setting) -> Problem:
    """y = A truth + white noise on the very grid and operator of the reconstruction: nothing is mis-specified."""
    grid = ImageGrid(setting.side, setting.side, setting.pixel_mm)
    beam = ParallelBeam.covering(grid, view_angles(setting.views, 180.0))
    draws = Draws(setting.seed).child("measurement")
    A = normalise(CtProjector(grid, beam), (1, setting.side, setting.side), torch.float32, draws.generator("norm"))
    clean = A(truth)
    # Rays through water alone are the unit: their data are those of HU 0.
    sigma = setting.noise_of_largest * float(A(torch.ones(1, setting.side, setting.side)).max())
    y = clean + sigma * draws.normal(tuple(clean.shape), clean.dtype, "noise")
    weights = torch.full((1, 1, 1), sigma**-2)
    start = smooth_start(A, y, weights.expand(1, *y.shape[1:]), tuple(truth.shape))
    spacing = (APART_MM, setting.pixel_mm, setting.pixel_mm)
    return Problem(A, y, weights, start, LEAST_SIGMA_INIT, spacing)


def statistics_of(x: Tensor) -> dict[str, np.ndarray]:
    """Statistics (z,) of every slice of (z y x): a voxel, a block's mean, the slice's mean, energies of two scales."""
    side = x.shape[-1]
    middle, part = side // 2, max(2, side // 8)
    block = x[:, middle : middle + part, middle : middle + part]
    down, across = torch.diff(x, dim=1), torch.diff(x, dim=2)
    return {
        "voxel": x[:, middle, middle].numpy(),
        "voxel off centre": x[:, side // 4, side // 3].numpy(),
        "block mean": block.mean((1, 2)).numpy(),
        "slice mean": x.mean((1, 2)).numpy(),
        "gradient energy": ((down**2).mean((1, 2)) + (across**2).mean((1, 2))).numpy(),
        "block contrast": block.std((1, 2)).numpy(),
    }


def ranks(truth: Tensor, samples: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """Rank 0 ... K of every replicate's truth among its samples, by statistic."""
    own, drawn = statistics_of(truth), [statistics_of(sample) for sample in samples]
    return {name: sum((other[name] < value).astype(int) for other in drawn) for name, value in own.items()}


def uniformity(rank: np.ndarray, samples: int) -> dict[str, float]:
    """Chi-square p-value of uniform ranks, and their shape.

    spread: variance of the ranks over that of uniform ones, above 1 when samples are too narrow, below when too wide.
    mean: mean rank over K, 1/2 without bias.
    """
    counts = np.bincount(rank, minlength=samples + 1)
    expected = ((samples + 1) ** 2 - 1) / 12
    return {
        "p": float(stats.chisquare(counts).pvalue),
        "spread": float(np.mean((rank - samples / 2) ** 2) / expected),
        "mean": float(rank.mean() / samples),
    }


def exact_samples(problem: Problem, std: float, count: int, draws: Draws) -> list[Tensor]:
    """Draws from the exact posterior of white Gaussian slices N(0, std^2 I), by Cholesky of the dense precision."""
    count_z, side, _ = problem.shape
    eye = torch.eye(side * side).reshape(-1, side, side)
    precision = problem.normal(eye).reshape(side * side, -1).double()
    precision = (precision + precision.T) / 2 + torch.eye(side * side, dtype=torch.float64) / std**2
    factor = torch.linalg.cholesky(precision)
    right = problem.backprojection().reshape(count_z, -1).double().T
    mean = torch.cholesky_solve(right, factor)
    out = []
    for k in range(count):
        white = draws.normal(tuple(mean.shape), torch.float64, "exact", k)
        deviation = torch.linalg.solve_triangular(factor.T, white, upper=True)
        out.append((mean + deviation).T.reshape(problem.shape).float())
    return out


Sampler = Callable[[Problem, Any, int], list[Tensor]]


def solver_sampler(name: str, settings: Mapping[str, Any], seed: int) -> Sampler:
    """K samples of a registered solver."""

    def draw(problem: Problem, prior: Any, count: int) -> list[Tensor]:
        return [run_solver(name, problem, prior, settings, seed, k).estimate for k in range(count)]

    return draw


def gaussian_samplers(seed: int) -> dict[str, Sampler]:
    """The control: the exact posterior; ours with an error model that is true of white Gaussians; DDS."""
    return {
        "exact posterior": lambda problem, prior, count: exact_samples(problem, EXACT_STD, count, Draws(seed)),
        "pam": solver_sampler("pam", {"levels": 12, **EXACT}, seed),
        "dds": solver_sampler("dds", {"levels": 12, "gamma": 1.0, "sigma_max": 10.0}, seed),
    }


def run(truth: Tensor, problem: Problem, prior: Any, samplers: Mapping[str, Sampler], samples: int) -> dict[str, Any]:
    """Ranks, their uniformity and the calibration ratio (1 + 1/K) V / B of every sampler."""
    out = {}
    for name, draw in samplers.items():
        began = time.perf_counter()
        drawn = draw(problem, prior, samples)
        stack = torch.stack(drawn).double()
        spread, error = stack.var(0).mean(), (stack.mean(0) - truth).square().mean()
        by_statistic = ranks(truth, drawn)
        out[name] = {
            "ranks": {key: np.bincount(rank, minlength=samples + 1).tolist() for key, rank in by_statistic.items()},
            "uniformity": {key: uniformity(rank, samples) for key, rank in by_statistic.items()},
            "calibration_ratio": float((1 + 1 / samples) * spread / error),
            "rmse": float(error.sqrt()),
            "seconds": time.perf_counter() - began,
        }
    return out


def gaussian_part(setting: Setting) -> dict[str, Any]:
    """The closed-form version: white Gaussian slices."""
    shape = (setting.replicates, setting.side, setting.side)
    prior = GaussianPrior.independent(EXACT_STD)
    truth = prior.draw(Draws(setting.seed).normal(shape, torch.float32, "gaussian"))
    return run(truth, make_problem(truth, setting), prior, gaussian_samplers(setting.seed), setting.samples)


def network_part(setting: Setting, prior: SlicePrior, names: Sequence[str]) -> tuple[dict[str, Any], Tensor]:
    """(figures, truths): the trained prior's own draws measured and reconstructed; solvers as on patients."""
    correlation = float(np.exp(-setting.slice_mm / 4.0))
    stack = SeparateSlices(prior, setting.slice_mm, setting.pixel_mm, correlation)
    truth = prior_draws(stack, (setting.replicates, setting.side, setting.side), Draws(setting.seed))
    known, tuned = methods(), read_tuned()
    samplers = {}
    for name in names:
        if name in known:
            settings, _ = method_settings(TASKS["ct30"], known[name], tuned)
            samplers[name] = solver_sampler(known[name].solver, settings, setting.seed)
    return run(truth, make_problem(truth, setting), stack, samplers, setting.samples), truth


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", type=Path, default=ROOT / "models" / "weights" / "ct")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(METHODS))
    for name, kind in (("side", int), ("views", int), ("replicates", int), ("samples", int), ("seed", int)):
        parser.add_argument(f"--{name}", type=kind, default=getattr(Setting, name))
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    arguments = parser.parse_args(argv)
    sizes = {name: getattr(arguments, name) for name in ("side", "views", "replicates", "samples", "seed")}
    setting = Setting(**sizes)
    small = replace(setting, side=16, views=8, replicates=8 * setting.replicates)
    prior = load_prior(arguments.prior)
    with torch.no_grad():
        gaussian = gaussian_part(small)
        figures, truth = network_part(setting, prior, arguments.methods)
    options = " ".join(f"--{key} {value}" for key, value in sizes.items())
    command = f"python -m benchmarks.sbc --methods {','.join(arguments.methods)} {options}"
    conditions = {"command": command, "machine": machine(), "prior": prior.card["sha256"]}
    print(json.dumps({name: row["uniformity"] for name, row in (gaussian | figures).items()}, indent=1))
    write_page(arguments.out, conditions, {"gaussian": (small, gaussian), "network": (setting, figures)}, truth)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
