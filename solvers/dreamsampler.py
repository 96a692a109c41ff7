"""DreamSampler (Kim, Park and Ye, ECCV 2024): regularised Tweedie step with a data and a slice term."""

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
class DreamSamplerSettings:
    """data_weight: lambda_DC in units of sigma_y^2; tv, rho, threshold: slice term R_z = |Dz x|_1, one ADMM sweep.

    blend: mix the regularised and the plain estimate by abar. noise_length_mm: correlation length of noise along z.
    """

    levels: int = 15
    sigma_max: float | None = None
    sigma_min: float = 0.01
    data_weight: float = 100.0
    blend: bool = True
    cg_iterations: int = 10
    tv: bool = True
    rho: float = 0.025
    threshold: float = 0.01
    noise_length_mm: float = 0.0
    pure_noise: bool = False

    def __post_init__(self) -> None:
        require(self.levels >= 1 and self.cg_iterations >= 1, "levels and cg_iterations must be at least 1.")
        require(self.data_weight > 0, "data_weight must be positive.")
        require(self.rho > 0 and self.threshold >= 0, "rho must be positive and threshold not negative.")


def dreamsampler(
    problem: Problem, prior: SlicePrior, settings: DreamSamplerSettings, draws: Draws, state: State | None = None
) -> Iterator[State]:
    """Yield a State after every noise level sigma, with h = D(x, sigma) and eps = (x - h) / sigma:

    x_y = argmin_x |x - h|^2 + lambda_DC sigma_y^2 |y - A x|^2_W + lambda_z R_z(x)
    x^  = abar x_y + (1 - abar) h,    x' = x^ + sigma' (sqrt(1 - abar) eps + sqrt(abar) z)

    abar = 1 / (1 + (sigma / sigma_data)^2) is the signal share of a variance-preserving network on data of unit
    variance: data and fresh noise take over as sigma falls.
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
        x, split = data_step(problem, h, settings.data_weight, settings.cg_iterations, tv, state.extra)
        abar = 1 / (1 + (sigma / prior.sigma_data) ** 2)
        if settings.blend:
            x = abar * x + (1 - abar) * h
        noisy = x
        if sigma_next > 0:
            direction = (state.x - h) / sigma
            noisy = x + sigma_next * (sqrt(1 - abar) * direction + sqrt(abar) * noise(level + 1))
        state = State(level + 1, noisy, x, split, state.network_calls + 1)
        yield state
