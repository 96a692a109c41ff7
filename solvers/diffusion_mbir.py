"""DiffusionMBIR (Chung et al., CVPR 2023): ADMM-TV along z whose variables are shared by all noise levels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from solvers.draws import Draws
from solvers.problem import Problem
from solvers.schedule import geometric_levels, karras_levels
from solvers.settings import require
from solvers.slice_coupling import ar1_draw, coupling_coefficient
from solvers.split_tv import SplitTv, data_step, following, starting_point
from solvers.state import State

if TYPE_CHECKING:
    from models.prior import SlicePrior


@dataclass(frozen=True)
class DiffusionMbirSettings:
    """form "denoised" corrects the denoised volume, "noisy" the iterate itself as in the paper (two calls a level).

    gamma: weight of the data against the denoised volume in units of sigma_y^2, null for early-stopped CG alone (the
    paper). eta: share of fresh noise, 1 is the ancestral sampler. rho, threshold: ADMM along z (rho in 1/sigma_y^2,
    threshold in image units). snr: step of the Langevin corrector ("noisy" only).
    """

    form: str = "denoised"
    levels: int = 15
    sigma_max: float | None = None
    sigma_min: float = 0.01
    gamma: float | None = 30.0
    eta: float = 1.0
    cg_iterations: int = 5
    rho: float = 0.025
    threshold: float = 0.004
    snr: float = 0.16
    noise_length_mm: float = 0.0
    pure_noise: bool = False

    def __post_init__(self) -> None:
        require(self.form in ("denoised", "noisy"), "form must be 'denoised' or 'noisy'.")
        require(self.levels >= 1 and self.cg_iterations >= 1, "levels and cg_iterations must be at least 1.")
        require(self.gamma is None or self.gamma > 0, "gamma must be positive or null.")
        require(0 <= self.eta <= 1, "eta must lie in [0, 1].")
        require(self.rho > 0 and self.threshold >= 0, "rho must be positive and threshold not negative.")


def diffusion_mbir(
    problem: Problem, prior: SlicePrior, settings: DiffusionMbirSettings, draws: Draws, state: State | None = None
) -> Iterator[State]:
    """Yield a State after every noise level.

    "denoised": h = D(x, sigma); one ADMM sweep of TV along z with the data from h, d and u kept between levels;
    x' = x^ + sqrt(sigma'^2 - s^2) (x - h) / sigma + s z with s = eta sigma' sqrt(1 - sigma'^2 / sigma^2).
    "noisy": predictor and corrector of the variance-exploding SDE (algorithm 1), then the same sweep on the iterate.
    """
    steps = _denoised_form if settings.form == "denoised" else _noisy_form
    yield from steps(problem, prior, settings, draws, state)


def _noise(problem: Problem, draws: Draws, c: float, *tags: int | str) -> Tensor:
    return ar1_draw(draws.normal(problem.shape, problem.dtype, *tags).to(problem.device), c)


def _denoised_form(
    problem: Problem, prior: SlicePrior, settings: DiffusionMbirSettings, draws: Draws, state: State | None
) -> Iterator[State]:
    tv = SplitTv(settings.rho, settings.threshold)
    c = coupling_coefficient(problem.spacing_mm[0], settings.noise_length_mm)
    sigmas = karras_levels(settings.sigma_max or problem.sigma_init, settings.sigma_min, settings.levels)
    if state is None:
        x = starting_point(problem, sigmas[0], _noise(problem, draws, c, 0, "noise"), settings.pure_noise)
        state = State(0, x, problem.x_init, tv.start(x))
    for level, sigma, sigma_next in following(sigmas, state.level):
        h = prior.denoise(state.x, sigma, problem.spacing_mm, noise_correlation=c).mean
        x, split = data_step(problem, h, settings.gamma, settings.cg_iterations, tv, state.extra)
        fresh = settings.eta * sigma_next * sqrt(1 - (sigma_next / sigma) ** 2)
        noisy = x
        if sigma_next > 0:
            kept = sqrt(sigma_next**2 - fresh**2) * (state.x - h) / sigma
            noisy = x + kept + fresh * _noise(problem, draws, c, level + 1, "noise")
        state = State(level + 1, noisy, x, split, state.network_calls + 1)
        yield state


def _noisy_form(
    problem: Problem, prior: SlicePrior, settings: DiffusionMbirSettings, draws: Draws, state: State | None
) -> Iterator[State]:
    """x <- x + (sigma^2 - sigma'^2) s(x) + sqrt(sigma^2 - sigma'^2) z; x <- x + e s(x) + sqrt(2 e) z with
    e = 2 (snr |z| / |s|)^2; ADMM sweep by CG from x; at the end x <- x + A^T (y - A x) / A^T A 1 for real volumes."""
    tv = SplitTv(settings.rho, settings.threshold)
    c = coupling_coefficient(problem.spacing_mm[0], settings.noise_length_mm)
    sigmas = geometric_levels(settings.sigma_max or problem.sigma_init, settings.sigma_min, settings.levels)

    def score(x: Tensor, sigma: float) -> Tensor:
        return (prior.denoise(x, sigma, problem.spacing_mm, noise_correlation=c).mean - x) / sigma**2

    if state is None:
        x = starting_point(problem, sigmas[0], _noise(problem, draws, c, 0, "noise"), settings.pure_noise)
        state = State(0, x, problem.x_init, tv.start(x))
    for level, sigma, sigma_next in following(sigmas, state.level):
        step = sigma**2 - sigma_next**2
        x = state.x + step * score(state.x, sigma)
        if sigma_next > 0:
            x = x + sqrt(step) * _noise(problem, draws, c, level + 1, "predictor")
            z, s = _noise(problem, draws, c, level + 1, "corrector"), score(x, sigma_next)
            size = 2 * (settings.snr * float(torch.linalg.vector_norm(z) / torch.linalg.vector_norm(s))) ** 2
            x = x + size * s + sqrt(2 * size) * z
        x, split = data_step(problem, x, settings.gamma, settings.cg_iterations, tv, state.extra)
        if sigma_next == 0 and not x.is_complex():
            x = kaczmarz_step(problem, x)
        state = State(level + 1, x, x, split, state.network_calls + (2 if sigma_next > 0 else 1))
        yield state


def kaczmarz_step(problem: Problem, x: Tensor) -> Tensor:
    """x + A^T (y - A x) / (A^T A 1), voxels that no ray sees unchanged; for operators without negative entries."""
    seen = problem.A.gram(torch.ones_like(x))
    correction = problem.A.adjoint(problem.y - problem.A(x))
    return x + torch.where(seen > 1e-6 * seen.max(), correction / seen.clamp_min(1e-12), 0)
