"""DreamSampler (Kim, Park and Ye, ECCV 2024): regularised Tweedie step, in sampling and in score-distillation form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import exp, log, sqrt
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from solvers.draws import Draws
from solvers.problem import Problem
from solvers.regularisers import REGULARISERS, regularised_data_step
from solvers.schedule import karras_levels
from solvers.settings import require
from solvers.slice_coupling import ar1_draw, coupling_coefficient
from solvers.split_tv import SplitTv, data_step, following, starting_point
from solvers.state import State

if TYPE_CHECKING:
    from models.prior import SlicePrior

FORMS = ("sampling", "distillation")


@dataclass(frozen=True)
class DreamSamplerSettings:
    """data_weight: lambda_DC in units of sigma_y^2; tv, rho, threshold: slice term R_z = |Dz x|_1, one ADMM sweep.

    form: "sampling" along falling noise levels, or "distillation" at random ones with steps of length `step` (0 to 1).
    blend: mix the regularised and the plain estimate by abar. noise_length_mm: correlation length of noise along z.
    regulariser: a name of solvers.regularisers in place of the ADMM term, weighted by regulariser_weight (in units of
    1/sigma_y^2, as rho) and smoothed below regulariser_smoothing (image units); newton_steps of cg_iterations each.
    """

    levels: int = 15
    form: str = "sampling"
    sigma_max: float | None = None
    sigma_min: float = 0.01
    data_weight: float = 100.0
    blend: bool = True
    cg_iterations: int = 10
    tv: bool = True
    rho: float = 0.025
    threshold: float = 0.01
    regulariser: str | None = None
    regulariser_weight: float = 1e-4
    regulariser_smoothing: float = 0.01
    newton_steps: int = 3
    step: float = 0.5
    noise_length_mm: float = 0.0
    pure_noise: bool = False

    def __post_init__(self) -> None:
        require(self.levels >= 1 and self.cg_iterations >= 1, "levels and cg_iterations must be at least 1.")
        require(self.form in FORMS, f"form must be one of {', '.join(FORMS)}.")
        require(self.data_weight > 0, "data_weight must be positive.")
        require(self.rho > 0 and self.threshold >= 0, "rho must be positive and threshold not negative.")
        known = ", ".join(REGULARISERS)
        require(self.regulariser is None or self.regulariser in REGULARISERS, f"regulariser must be one of {known}.")
        require(self.regulariser_weight >= 0, "regulariser_weight must not be negative.")
        require(self.regulariser_smoothing > 0, "regulariser_smoothing must be positive.")
        require(self.newton_steps >= 1 and 0 < self.step <= 1, "newton_steps must be at least 1, step in (0, 1].")


def dreamsampler(
    problem: Problem, prior: SlicePrior, settings: DreamSamplerSettings, draws: Draws, state: State | None = None
) -> Iterator[State]:
    """Yield a State after every noise level sigma, with h = D(x_sigma, sigma) and eps = (x_sigma - h) / sigma:

    x_y = argmin_x |x - h|^2 + lambda_DC sigma_y^2 |y - A x|^2_W + lambda_z R_z(x)
    x^  = abar x_y + (1 - abar) h

    sampling:      x' = x^ + sigma' (sqrt(1 - abar) eps + sqrt(abar) z)         at falling sigma
    distillation:  x <- x - step (x - x^),   x_sigma = x + sigma z              at random sigma

    abar = 1 / (1 + (sigma / sigma_data)^2) is the signal share of a variance-preserving network on data of unit
    variance: data and fresh noise take over as sigma falls. The paper reads the proximal step as score
    distillation: with x_sigma = x + sigma z, grad_x |x - h|^2 / 2 = x - h = sigma (eps - z), the residual that score
    distillation sampling (Poole et al., ICLR 2023, eq. 3) descends with weight sigma. Both forms minimise the same
    objective; the second does it for one volume x that meets every noise level again and again, and its step is taken
    implicitly (towards the minimiser x^), which is stable for any weight of the data.
    """
    solve = _sampling if settings.form == "sampling" else _distillation
    yield from solve(problem, prior, settings, draws, state)


def _sampling(
    problem: Problem, prior: SlicePrior, settings: DreamSamplerSettings, draws: Draws, state: State | None
) -> Iterator[State]:
    c, sigmas, noise = _chain(problem, settings, draws)
    if state is None:
        x = starting_point(problem, sigmas[0], noise(0), settings.pure_noise)
        state = State(0, x, problem.x_init, _split(settings, x))
    for level, sigma, sigma_next in following(sigmas, state.level):
        h = prior.denoise(state.x, sigma, problem.spacing_mm, noise_correlation=c).mean
        abar = 1 / (1 + (sigma / prior.sigma_data) ** 2)
        x, split = _regularised(problem, settings, h, abar, state.extra)
        noisy = x
        if sigma_next > 0:
            direction = (state.x - h) / sigma
            noisy = x + sigma_next * (sqrt(1 - abar) * direction + sqrt(abar) * noise(level + 1))
        state = State(level + 1, noisy, x, split, state.network_calls + 1)
        yield state


def _distillation(
    problem: Problem, prior: SlicePrior, settings: DreamSamplerSettings, draws: Draws, state: State | None
) -> Iterator[State]:
    """sigma is log-uniform between the ends of the schedule; State.x is the volume itself, without noise."""
    c, sigmas, noise = _chain(problem, settings, draws)
    if state is None:
        x = torch.zeros_like(problem.x_init) if settings.pure_noise else problem.x_init
        state = State(0, x, problem.x_init, _split(settings, x))
    for level in range(state.level, settings.levels):
        share = float(torch.rand((), generator=draws.generator(level, "sigma")))
        sigma = exp(log(sigmas[0]) + share * (log(settings.sigma_min) - log(sigmas[0])))
        noisy = state.x + sigma * noise(level)
        h = prior.denoise(noisy, sigma, problem.spacing_mm, noise_correlation=c).mean
        abar = 1 / (1 + (sigma / prior.sigma_data) ** 2)
        target, split = _regularised(problem, settings, h, abar, state.extra)
        x = state.x - settings.step * (state.x - target)
        state = State(level + 1, x, x, split, state.network_calls + 1)
        yield state


def _chain(problem: Problem, settings: DreamSamplerSettings, draws: Draws):
    """(lag-1 correlation of the noise along z, noise levels, noise (z y x) of a level)."""
    c = coupling_coefficient(problem.spacing_mm[0], settings.noise_length_mm)
    sigmas = karras_levels(settings.sigma_max or problem.sigma_init, settings.sigma_min, settings.levels)

    def noise(level: int) -> Tensor:
        return ar1_draw(draws.normal(problem.shape, problem.dtype, level, "noise").to(problem.device), c)

    return c, sigmas, noise


def _split_tv(settings: DreamSamplerSettings) -> SplitTv | None:
    return SplitTv(settings.rho, settings.threshold) if settings.tv and settings.regulariser is None else None


def _split(settings: DreamSamplerSettings, x: Tensor) -> dict[str, Tensor]:
    tv = _split_tv(settings)
    return tv.start(x) if tv else {}


def _regularised(
    problem: Problem, settings: DreamSamplerSettings, h: Tensor, abar: float, split: dict[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The regularised Tweedie estimate x^ (z y x) and the new split variables."""
    if settings.regulariser is None:
        x, split = data_step(problem, h, settings.data_weight, settings.cg_iterations, _split_tv(settings), split)
    else:
        function = REGULARISERS[settings.regulariser]

        def penalty(volume: Tensor) -> Tensor:
            value = function(volume, problem.spacing_mm, settings.regulariser_smoothing)
            return settings.regulariser_weight * value

        x = regularised_data_step(
            problem, h, settings.data_weight, penalty, settings.newton_steps, settings.cg_iterations
        )
    return (abar * x + (1 - abar) * h if settings.blend else x), split
