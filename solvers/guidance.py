"""What the solvers that look through the network's derivative share: schedule, Jacobian products, the DDIM update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from solvers.draws import Draws
from solvers.problem import Problem
from solvers.schedule import karras_levels
from solvers.settings import require
from solvers.slice_coupling import ar1_draw, coupling_coefficient
from solvers.split_tv import starting_point
from solvers.state import State

if TYPE_CHECKING:
    from models.prior import SlicePrior

VJP_CALLS = 2  # network calls that a vector-Jacobian product is counted as


@dataclass(frozen=True)
class GuidedSettings:
    """levels, sigma_max (null: problem.sigma_init), sigma_min: Karras schedule. pure_noise drops x_init.

    eta: share of fresh noise in the DDIM update, 0 (deterministic) to 1 (ancestral). noise_length_mm: correlation
    length of the noise along z, 0 for independent slices.
    """

    levels: int = 15
    sigma_max: float | None = None
    sigma_min: float = 0.01
    eta: float = 1.0
    noise_length_mm: float = 0.0
    pure_noise: bool = False

    def __post_init__(self) -> None:
        require(self.levels >= 1, "levels must be at least 1.")
        require(0 <= self.eta <= 1, "eta must lie in [0, 1].")
        require(self.noise_length_mm >= 0, "noise_length_mm must not be negative.")


class Chain(NamedTuple):
    """Noise levels, lag-1 correlation of the noise along z, and the noise (z y x) of every level."""

    sigmas: list[float]
    correlation: float
    noise: Callable[[int], Tensor]


def start_chain(
    problem: Problem, settings: GuidedSettings, draws: Draws, state: State | None, **extra: Tensor
) -> tuple[Chain, State]:
    """The schedule of a run, and its state: the given one or a fresh one at level 0 that carries `extra`."""
    c = coupling_coefficient(problem.spacing_mm[0], settings.noise_length_mm)
    sigmas = karras_levels(settings.sigma_max or problem.sigma_init, settings.sigma_min, settings.levels)

    def noise(level: int) -> Tensor:
        return ar1_draw(draws.normal(problem.shape, problem.dtype, level, "noise").to(problem.device), c)

    if state is None:
        x = starting_point(problem, sigmas[0], noise(0), settings.pure_noise)
        state = State(0, x, problem.x_init, extra)
    return Chain(sigmas, c, noise), state


class DenoiserJacobian:
    """mean = D(x; sigma) (z y x) and products with the transpose of J = dD/dx, real inner product Re<a, b>."""

    def __init__(self, prior: SlicePrior, x: Tensor, sigma: float, spacing_mm, noise_correlation: float) -> None:
        with torch.enable_grad():
            self._point = x.detach().clone().requires_grad_()
            self._mean = prior.denoise(self._point, sigma, spacing_mm, noise_correlation=noise_correlation).mean
        self.mean = self._mean.detach()

    def transpose(self, v: Tensor) -> Tensor:
        """J^T v, shape (z y x). An exact denoiser has J = J^T = Cov[x | x_sigma] / sigma^2."""
        return torch.autograd.grad(self._mean, self._point, v, retain_graph=True)[0]


def ddim_step(
    x: Tensor, estimate: Tensor, sigma: float, sigma_next: float, eta: float, noise: Callable[[], Tensor]
) -> Tensor:
    """x^ + sqrt(sigma'^2 - s^2) (x - x^) / sigma + s z with s = eta sigma' sqrt(1 - sigma'^2 / sigma^2).

    Song, Meng and Ermon, ICLR 2021, eq. 12 and 16, variance exploding: keeps the marginals of the diffusion for every
    eta. `noise` is called for z only where s > 0; sigma' = 0 gives x^.
    """
    if sigma_next == 0:
        return estimate
    fresh = eta * sigma_next * sqrt(1 - (sigma_next / sigma) ** 2)
    following = estimate + (sqrt(sigma_next**2 - fresh**2) / sigma) * (x - estimate)
    return following + fresh * noise() if fresh > 0 else following
