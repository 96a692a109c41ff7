"""Denoise, correct by the mode, update by name: what the update rules are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from solvers.correction import ErrorModel, correct, error_correlation
from solvers.draws import Draws
from solvers.problem import Problem
from solvers.schedule import karras_levels
from solvers.settings import require
from solvers.slice_coupling import ar1_draw, coupling_coefficient
from solvers.split_tv import following, starting_point
from solvers.state import State
from solvers.updates import Noise, Point, ddim, dds, dpmpp_2m, evodiff, full

if TYPE_CHECKING:
    from models.prior import SlicePrior

UPDATES = ("ddim", "dds", "full", "dpmpp_2m", "evodiff")


@dataclass(frozen=True)
class OdeSettings:
    """update: "ddim", "dds", "full", "dpmpp_2m" or "evodiff". eta: share of fresh noise of the first two.

    trust: factor on the predicted error variance on top of the prior's own calibration for samples. error_length_mm,
    error_pixels: correlation length of the denoiser's error along z and in the slice; null: the prior's card.
    noise_length_mm: of fresh noise along z, 0 for independent slices. pure_noise drops x_init.
    """

    levels: int = 15
    sigma_max: float | None = None
    sigma_min: float = 0.01
    update: str = "dpmpp_2m"
    eta: float = 0.0
    trust: float = 1.0
    error_length_mm: float | None = None
    error_pixels: float | None = None
    cg_iterations: int = 30
    cg_tolerance: float = 1e-3
    noise_length_mm: float = 0.0
    pure_noise: bool = False

    def __post_init__(self) -> None:
        require(self.levels >= 1 and self.cg_iterations >= 1, "levels and cg_iterations must be at least 1.")
        require(self.update in UPDATES, f"update must be one of {', '.join(UPDATES)}.")
        require(0 <= self.eta <= 1, "eta must lie in [0, 1].")
        require(self.trust > 0, "trust must be positive.")
        require(self.eta == 0 or self.update in ("ddim", "dds"), f"eta has no place in update {self.update}.")


def ode(
    problem: Problem, prior: SlicePrior, settings: OdeSettings, draws: Draws, state: State | None = None
) -> Iterator[State]:
    """Yield a State after every noise level sigma (1 network call):

    h, V = D(x, sigma),   X = argmin_x |x - h|^2 / (2 V) + |y - A x|^2_W / 2,   x' = update(x, X)

    X estimates E[x | x_sigma, y]: with DDIM, DPM-Solver++ 2M and EVODiff the path is the probability-flow ODE of the
    posterior (Song et al. 2021, eq. 13, with the conditional score (X - x) / sigma^2) from a random start, exact for
    white Gaussian volumes. It says nothing about directions in which V is not the covariance of x given x_sigma.
    """
    c = coupling_coefficient(problem.spacing_mm[0], settings.noise_length_mm)
    error_c = error_correlation(problem, prior.card, "sample", settings.error_length_mm, settings.error_pixels)
    sigmas = karras_levels(settings.sigma_max or problem.sigma_init, settings.sigma_min, settings.levels)

    def noise(level: int) -> Tensor:
        return ar1_draw(draws.normal(problem.shape, problem.dtype, level, "noise").to(problem.device), c)

    if state is None:
        state = State(0, starting_point(problem, sigmas[0], noise(0), settings.pure_noise), problem.x_init)
    for level, sigma, sigma_next in following(sigmas, state.level):
        h, variance = prior.denoise(state.x, sigma, problem.spacing_mm, noise_correlation=c)
        r = (settings.trust * prior.r2_scale(sigma, "sample") * variance).sqrt()
        estimate = correct(problem, h, ErrorModel(r, *error_c), settings.cg_iterations, settings.cg_tolerance)
        past = _past(sigmas, level, state.extra)
        here, x = _step(settings, Point(sigma, state.x, estimate), h, past, sigma_next, lambda at=level + 1: noise(at))
        extra = {"x": here.x, "estimate": estimate}
        if past:
            extra["estimate before"] = past[0].estimate
        state = State(level + 1, x, estimate, extra, state.network_calls + 1)
        yield state


def _past(sigmas: list[float], level: int, extra: dict[str, Tensor]) -> list[Point]:
    """The points of the last two levels, latest first; of the earlier one the estimate alone counts."""
    points = []
    if level >= 1:
        points.append(Point(sigmas[level - 1], extra["x"], extra["estimate"]))
    if level >= 2:
        points.append(Point(sigmas[level - 2], torch.empty(0), extra["estimate before"]))
    return points


def _step(
    settings: OdeSettings, here: Point, denoised: Tensor, past: list[Point], sigma_next: float, noise: Noise
) -> tuple[Point, Tensor]:
    """(this level's point, refined where the rule does so; x at the next level)."""
    before, earlier = (*past, None, None)[:2]
    if settings.update == "ddim":
        return here, ddim(here, sigma_next, settings.eta, noise)
    if settings.update == "dds":
        return here, dds(here, denoised, sigma_next, settings.eta, noise)
    if settings.update == "full":
        return here, full(here, sigma_next, noise)
    if settings.update == "dpmpp_2m":
        return here, dpmpp_2m(here, before, sigma_next)
    refined, x = evodiff(here, before, earlier, sigma_next)
    return here._replace(x=refined), x
