"""PnP-DM: split Gibbs sampling with a diffusion model as denoising posterior (Wu et al., NeurIPS 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from solvers.correction import ErrorModel, correct
from solvers.daps import inner_levels
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
class PnpDmSettings:
    """sigma_max, sigma_min: first and last coupling rho; the last one acts as noise rho^2 A A^H added to the data.

    sde_steps: network calls of the denoising posterior at every level; few of them lose spread. noise_length_mm:
    correlation length of all noise along z, 0 for independent slices. pure_noise drops x_init.
    """

    levels: int = 15
    sigma_max: float | None = None
    sigma_min: float = 0.03
    sde_steps: int = 3
    cg_iterations: int = 20
    cg_tolerance: float = 1e-3
    noise_length_mm: float = 0.0
    pure_noise: bool = False

    def __post_init__(self) -> None:
        require(self.levels >= 1 and self.cg_iterations >= 1, "levels and cg_iterations must be at least 1.")
        require(self.sde_steps >= 1, "sde_steps must be at least 1.")


def pnp_dm(
    problem: Problem, prior: SlicePrior, settings: PnpDmSettings, draws: Draws, state: State | None = None
) -> Iterator[State]:
    """Yield a State after every coupling rho of p(x, z | y) ~ p(y | z) p(x) exp(-|x - z|^2 / (2 rho^2)) (algorithm 1):

    x ~ p(x) N(z; x, rho^2 C)                 prior step: reverse SDE from (z, rho) to 0
    z ~ N(z; x, rho'^2 C) N(y; A z, W^-1)     likelihood step: exact, one conjugate-gradient solve

    C is the identity, or AR(1) along z with noise_length_mm. z starts at x_init + rho_0 n. The x of the last level is
    the estimate: for a fixed rho it samples the posterior of data with noise W^-1 + rho^2 A C A^H.
    """
    c = coupling_coefficient(problem.spacing_mm[0], settings.noise_length_mm)
    rhos = karras_levels(settings.sigma_max or problem.sigma_init, settings.sigma_min, settings.levels)

    def noise(*tags: int) -> Tensor:
        return ar1_draw(draws.normal(problem.shape, problem.dtype, *tags, "noise").to(problem.device), c)

    def reverse_sde(x: Tensor, sigmas: list[float], level: int) -> Tensor:
        """Ancestral steps x' = h + (s'^2 / s^2) (x - h) + s' sqrt(1 - s'^2 / s^2) n with h = D(x, s), to s' = 0."""
        for step, sigma, sigma_next in following(sigmas, 0):
            h = prior.denoise(x, sigma, problem.spacing_mm, noise_correlation=c).mean
            kept = (sigma_next / sigma) ** 2
            x = h + kept * (x - h)
            if sigma_next > 0:
                x = x + sigma_next * sqrt(1 - kept) * noise(level, step)
        return x

    if state is None:
        state = State(0, starting_point(problem, rhos[0], noise(0), settings.pure_noise), problem.x_init)
    for level, rho, rho_next in following(rhos, state.level):
        x = reverse_sde(state.x, inner_levels(rho, settings.sde_steps), level)
        z = x
        if rho_next > 0:
            error = ErrorModel(torch.tensor(rho_next, device=x.device), (c, 0.0, 0.0))
            z = correct(problem, x, error, settings.cg_iterations, settings.cg_tolerance, draws, (level,))
        state = State(level + 1, z, x, {}, state.network_calls + settings.sde_steps)
        yield state
