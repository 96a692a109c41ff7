"""DDS: decomposed diffusion sampling (Chung, Lee and Ye, ICLR 2024), noisy branch and TV along z."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

from solvers.draws import Draws
from solvers.problem import Problem
from solvers.schedule import karras_levels
from solvers.settings import require
from solvers.slice_coupling import ar1_draw, coupling_coefficient
from solvers.split_tv import SplitTv, data_step, following, starting_point
from solvers.state import State

if TYPE_CHECKING:
    from models.prior import SlicePrior


@dataclass(frozen=True)
class DdsSettings:
    """gamma: weight of the data against the denoised volume in units of sigma_y^2; null is the noise-free branch.

    eta: share of fresh noise in the re-noise, 0 to 1. tv, rho, threshold: ADMM-TV along z with shared variables.
    noise_length_mm: correlation length of fresh noise along z, 0 for independent slices. pure_noise drops x_init.
    """

    levels: int = 15
    sigma_max: float | None = None
    sigma_min: float = 0.01
    gamma: float | None = 30.0
    eta: float = 0.85
    cg_iterations: int = 5
    tv: bool = False
    rho: float = 0.025
    threshold: float = 0.01
    noise_length_mm: float = 0.0
    pure_noise: bool = False

    def __post_init__(self) -> None:
        require(self.levels >= 1 and self.cg_iterations >= 1, "levels and cg_iterations must be at least 1.")
        require(self.gamma is None or self.gamma > 0, "gamma must be positive or null.")
        require(0 <= self.eta <= 1, "eta must lie in [0, 1].")
        require(self.rho > 0 and self.threshold >= 0, "rho must be positive and threshold not negative.")


def dds(
    problem: Problem, prior: SlicePrior, settings: DdsSettings, draws: Draws, state: State | None = None
) -> Iterator[State]:
    """Yield a State after every noise level sigma, with h = D(x, sigma) and eps = (x - h) / sigma:

    x^ = CG_n(I + gamma sigma_y^2 A^H W A, h + gamma sigma_y^2 A^H W y)      (gamma null: CG_n(A^H W A, A^H W y))
    x' = x^ + sigma' (eta z + sqrt(1 - eta^2) eps)                           (the paper's update, variance exploding)

    With `tv`, A^H W A and A^H W y gain rho Dz^T Dz and rho Dz^T (d - u), one ADMM sweep a level, d and u kept.
    """
    tv = SplitTv(settings.rho, settings.threshold) if settings.tv else None
    c = coupling_coefficient(problem.spacing_mm[0], settings.noise_length_mm)
    sigmas = karras_levels(settings.sigma_max or problem.sigma_init, settings.sigma_min, settings.levels)

    def noise(level: int):
        return ar1_draw(draws.normal(problem.shape, problem.dtype, level, "noise").to(problem.device), c)

    if state is None:
        x = starting_point(problem, sigmas[0], noise(0), settings.pure_noise)
        state = State(0, x, problem.x_init, tv.start(x) if tv else {})
    for level, sigma, sigma_next in following(sigmas, state.level):
        h = prior.denoise(state.x, sigma, problem.spacing_mm, noise_correlation=c).mean
        x, split = data_step(problem, h, settings.gamma, settings.cg_iterations, tv, state.extra)
        noisy = x
        if sigma_next > 0:
            direction = (state.x - h) / sigma
            mixed = settings.eta * noise(level + 1) + sqrt(1 - settings.eta**2) * direction
            noisy = x + sigma_next * mixed
        state = State(level + 1, noisy, x, split, state.network_calls + 1)
        yield state
