"""DAPS: decoupled annealing posterior sampling (Zhang et al., CVPR 2025), with the exact draw of linear problems."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from solvers.correction import ErrorModel, correct
from solvers.draws import Draws
from solvers.problem import Problem
from solvers.schedule import karras_levels
from solvers.settings import require
from solvers.slice_coupling import ar1_draw, coupling_coefficient
from solvers.split_tv import following, starting_point
from solvers.state import State

if TYPE_CHECKING:
    from models.prior import SlicePrior


LOWEST_SIGMA = 0.003


@dataclass(frozen=True)
class DapsSettings:
    """ode_steps: network calls of the probability-flow ODE at every level.

    r_scale: standard deviation r of x0 around the ODE's end, in units of sigma: 1 (the paper's) is too wide
    where nothing is measured, less leaves measured directions too wide but suits the few levels used here better.
    noise_length_mm: correlation length of the re-noise along z, 0 for independent slices. pure_noise drops x_init.
    """

    levels: int = 15
    sigma_max: float | None = None
    sigma_min: float = 0.01
    ode_steps: int = 3
    r_scale: float = 0.3
    cg_iterations: int = 20
    cg_tolerance: float = 1e-3
    noise_length_mm: float = 0.0
    pure_noise: bool = False

    def __post_init__(self) -> None:
        require(self.levels >= 1 and self.cg_iterations >= 1, "levels and cg_iterations must be at least 1.")
        require(self.ode_steps >= 1, "ode_steps must be at least 1.")
        require(self.r_scale > 0, "r_scale must be positive.")


def daps(
    problem: Problem, prior: SlicePrior, settings: DapsSettings, draws: Draws, state: State | None = None
) -> Iterator[State]:
    """Yield a State after every noise level sigma (algorithm 1, proposition 1):

    x0^ = probability-flow ODE from (x, sigma) to 0
    x0 ~ p(x0 | x, y), proportional to N(x0; x0^, r^2 I) N(y; A x0, W^-1),   r = r_scale sigma
    x' = x0 + sigma' z

    The paper samples the second line by Langevin dynamics; A is linear here, so one conjugate-gradient solve draws
    from it exactly. With r = sigma, wider than p(x0 | x) wherever the prior knows something, samples come out too wide.
    """
    c = coupling_coefficient(problem.spacing_mm[0], settings.noise_length_mm)
    sigmas = karras_levels(settings.sigma_max or problem.sigma_init, settings.sigma_min, settings.levels)

    def noise(level: int) -> Tensor:
        return ar1_draw(draws.normal(problem.shape, problem.dtype, level, "noise").to(problem.device), c)

    if state is None:
        state = State(0, starting_point(problem, sigmas[0], noise(0), settings.pure_noise), problem.x_init)
    for level, sigma, sigma_next in following(sigmas, state.level):
        steps = inner_levels(sigma, settings.ode_steps)
        h = flow_to_zero(problem, prior, state.x, steps, c)
        error = ErrorModel(torch.tensor(settings.r_scale * sigma, device=h.device))
        x = correct(problem, h, error, settings.cg_iterations, settings.cg_tolerance, draws, (level,))
        noisy = x + sigma_next * noise(level + 1) if sigma_next > 0 else x
        state = State(level + 1, noisy, x, {}, state.network_calls + len(steps))
        yield state


def inner_levels(sigma: float, steps: int) -> list[float]:
    """Levels of a sampler inside one level: from `sigma` to a tenth of it, but not below what priors are trained on."""
    return karras_levels(sigma, min(sigma, max(sigma / 10, LOWEST_SIGMA)), steps)


def flow_to_zero(problem: Problem, prior: SlicePrior, x: Tensor, sigmas: list[float], correlation: float) -> Tensor:
    """Euler steps of dx / d sigma = (x - D(x, sigma)) / sigma along `sigmas`, the last one to 0 (z y x)."""
    for _, sigma, sigma_next in following(sigmas, 0):
        h = prior.denoise(x, sigma, problem.spacing_mm, noise_correlation=correlation).mean
        x = h + (sigma_next / sigma) * (x - h)
    return x
