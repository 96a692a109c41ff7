"""DDNM+: range and null space refined apart, noise-aware (Wang, Yu and Zhang, ICLR 2023)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from solvers.conjugate_gradient import conjugate_gradient
from solvers.draws import Draws
from solvers.problem import Problem
from solvers.schedule import karras_levels
from solvers.settings import require
from solvers.slice_coupling import ar1_draw, coupling_coefficient
from solvers.split_tv import following, starting_point
from solvers.state import State

if TYPE_CHECKING:
    from models.prior import SlicePrior


@dataclass(frozen=True)
class DdnmSettings:
    """noise_aware: shrink the range-space step as noise of the data outgrows sigma (DDNM+); false is DDNM.

    cg_iterations: of A^+; few of them leave weakly measured directions to the prior, many amplify noise.
    noise_length_mm: correlation length of fresh noise along z, 0 for independent slices. pure_noise drops x_init.
    """

    levels: int = 15
    sigma_max: float | None = None
    sigma_min: float = 0.01
    noise_aware: bool = True
    cg_iterations: int = 10
    cg_tolerance: float = 1e-3
    noise_length_mm: float = 0.0
    pure_noise: bool = False

    def __post_init__(self) -> None:
        require(self.levels >= 1 and self.cg_iterations >= 1, "levels and cg_iterations must be at least 1.")


def ddnm(
    problem: Problem, prior: SlicePrior, settings: DdnmSettings, draws: Draws, state: State | None = None
) -> Iterator[State]:
    """Yield a State after every noise level sigma, with h = D(x, sigma), a = 1 - sigma'^2 / sigma^2, P = A^+ A:

    x^ = h + lambda A^+ (y - A h),   lambda = min(1, sigma' / (sqrt(a) s))                (scaled range-space step)
    x' = (sigma'^2 / sigma^2) x + a x^ + (sqrt(a) sigma' (I - P) + gamma P) z             (scaled fresh noise)
    gamma^2 = a sigma'^2 - (a lambda s)^2

    Exact where all singular values of A but zeros are equal. Approximate elsewhere: s, the standard deviation of A^+ n,
    is one number, measured on a draw of n (the paper: sigma_y / s_i in direction i); A^+ is CG on A^H W A v = A^H W b
    from 0, regularised by stopping. After the last level lambda is 0: the estimate is the denoised volume.
    """
    c = coupling_coefficient(problem.spacing_mm[0], settings.noise_length_mm)
    sigmas = karras_levels(settings.sigma_max or problem.sigma_init, settings.sigma_min, settings.levels)

    def noise(level: int) -> Tensor:
        return ar1_draw(draws.normal(problem.shape, problem.dtype, level, "noise").to(problem.device), c)

    def inverse(b: Tensor) -> Tensor:
        return pseudo_inverse(problem, b, settings.cg_iterations, settings.cg_tolerance)

    if state is None:
        x = starting_point(problem, sigmas[0], noise(0), settings.pure_noise)
        spread = pseudo_inverse_noise(problem, inverse, draws) if settings.noise_aware else torch.zeros(1)
        state = State(0, x, problem.x_init, {"spread": spread})
    spread = float(state.extra["spread"])
    for level, sigma, sigma_next in following(sigmas, state.level):
        h = prior.denoise(state.x, sigma, problem.spacing_mm, noise_correlation=c).mean
        a = 1 - (sigma_next / sigma) ** 2
        budget, carried = sqrt(a) * sigma_next, a * spread
        weight = min(1.0, budget / carried) if carried > 0 else 1.0
        x = noisy = h + weight * inverse(problem.y - problem.A(h)) if weight > 0 else h
        if sigma_next > 0:
            z, gamma = noise(level + 1), sqrt(max(0.0, budget**2 - (weight * carried) ** 2))
            held = (budget - gamma) * inverse(problem.A(z)) if carried > 0 else 0.0
            noisy = (1 - a) * state.x + a * x + budget * z - held
        state = State(level + 1, noisy, x, state.extra, state.network_calls + 1)
        yield state


def pseudo_inverse(problem: Problem, b: Tensor, iterations: int, tolerance: float) -> Tensor:
    """A^+ b, (z y x): the least-norm minimiser of |b - A v|_W, by at most `iterations` CG steps from 0."""
    # CG in units of 1 / sigma_y^2 keeps float32 inner products of order one.
    scale = problem.noise_variance()
    right = scale * problem.A.adjoint(problem.weights * b)
    return conjugate_gradient(
        lambda v: scale * problem.normal(v), right, torch.zeros_like(right), iterations, tolerance
    )


def pseudo_inverse_noise(problem: Problem, inverse: Callable[[Tensor], Tensor], draws: Draws) -> Tensor:
    """s (1): standard deviation of A^+ n per real component and range direction, |A^+ n| / |A^+ A w| for one draw of
    the data's noise n ~ N(0, W^-1) and one of white w."""
    measured = problem.weights > 0
    noise = draws.normal(tuple(problem.y.shape), problem.y.dtype, "pseudo-inverse", "data").to(problem.device)
    carried = inverse(torch.where(measured, problem.weights.clamp_min(1e-30).rsqrt(), 0.0) * noise)
    white = draws.normal(problem.shape, problem.dtype, "pseudo-inverse", "range").to(problem.device)
    range_part = inverse(problem.A(white))
    return (torch.linalg.vector_norm(carried) / torch.linalg.vector_norm(range_part)).reshape(1).cpu()
