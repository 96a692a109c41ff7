"""RED-diff: variational regularisation by denoising (Mardani et al., ICLR 2024), a point estimate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from solvers.draws import Draws
from solvers.problem import Problem
from solvers.schedule import karras_levels
from solvers.settings import require
from solvers.slice_coupling import ar1_draw, coupling_coefficient
from solvers.split_tv import following
from solvers.state import State

if TYPE_CHECKING:
    from models.prior import SlicePrior

BETAS = (0.9, 0.99)
EPSILON = 1e-8


@dataclass(frozen=True)
class RedDiffSettings:
    """weight: lambda of the paper, weight of the prior against data in units of sigma_y^2 W.

    step: learning rate of Adam, in image units. noise_length_mm: correlation length of the probing noise along z,
    0 for independent slices. pure_noise starts at sigma noise in place of x_init.
    """

    levels: int = 50
    sigma_max: float | None = None
    sigma_min: float = 0.01
    weight: float = 0.05
    step: float = 0.02
    noise_length_mm: float = 0.0
    pure_noise: bool = False

    def __post_init__(self) -> None:
        require(self.levels >= 1, "levels must be at least 1.")
        require(self.weight > 0 and self.step > 0, "weight and step must be positive.")


def red_diff(
    problem: Problem, prior: SlicePrior, settings: RedDiffSettings, draws: Draws, state: State | None = None
) -> Iterator[State]:
    """Yield a State after every noise level sigma, one step of Adam on mu (algorithm 1, variance exploding):

    x = mu + sigma z,   eps^ = (x - D(x, sigma)) / sigma
    gradient = sigma_y^2 A^H W (A mu - y) + lambda sigma (eps^ - z),   with sigma = 1 / SNR

    The variational distribution is a point: runs with other seeds scatter far less than the posterior.
    """
    c = coupling_coefficient(problem.spacing_mm[0], settings.noise_length_mm)
    sigmas = karras_levels(settings.sigma_max or problem.sigma_init, settings.sigma_min, settings.levels)
    variance, backprojection = problem.noise_variance(), problem.backprojection()

    def noise(level: int) -> Tensor:
        return ar1_draw(draws.normal(problem.shape, problem.dtype, level, "noise").to(problem.device), c)

    if state is None:
        mu = sigmas[0] * noise(-1) if settings.pure_noise else problem.x_init
        zeros = torch.zeros_like(_real(mu))
        state = State(0, mu, mu, {"first": zeros, "second": zeros.clone()})
    for level, sigma, _ in following(sigmas, state.level):
        mu, z = state.x, noise(level)
        h = prior.denoise(mu + sigma * z, sigma, problem.spacing_mm, noise_correlation=c).mean
        prior_gradient = mu - h  # sigma (eps^ - z)
        gradient = variance * (problem.normal(mu) - backprojection) + settings.weight * prior_gradient
        move, moments = adam(_real(gradient), state.extra, level + 1)
        mu = mu - settings.step * (torch.view_as_complex(move) if mu.is_complex() else move)
        state = State(level + 1, mu, mu, moments, state.network_calls + 1)
        yield state


def adam(gradient: Tensor, moments: dict[str, Tensor], count: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Direction of step number `count` (from 1) and the new moments, for real tensors (Kingma and Ba 2015)."""
    first = BETAS[0] * moments["first"] + (1 - BETAS[0]) * gradient
    second = BETAS[1] * moments["second"] + (1 - BETAS[1]) * gradient.square()
    scale = (second / (1 - BETAS[1] ** count)).sqrt() + EPSILON
    return first / (1 - BETAS[0] ** count) / scale, {"first": first, "second": second}


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x).clone() if x.is_complex() else x
