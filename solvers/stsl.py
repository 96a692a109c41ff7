"""STSL: second-order Tweedie by a surrogate loss (Rout, Chen, Kumar, Caramanis, Shakkottai and Chu, CVPR 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from solvers.draws import Draws
from solvers.guidance import VJP_CALLS, Chain, DenoiserJacobian, GuidedSettings, ddim_step, start_chain
from solvers.problem import Problem
from solvers.settings import require
from solvers.split_tv import following
from solvers.state import State

if TYPE_CHECKING:
    from models.prior import SlicePrior


@dataclass(frozen=True)
class StslSettings(GuidedSettings):
    """inner_steps: gradient steps at every noise level. zeta: their length, at most 1 is stable whatever the data.

    kappa: weight of the trace term; |A|_F^2 / voxels, between 0 and 1, by Jensen's bound. probe: length of the probe of
    the trace as a share of sigma.
    """

    levels: int = 20
    inner_steps: int = 3
    zeta: float = 1.0
    kappa: float = 0.1
    probe: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.inner_steps >= 1, "inner_steps must be at least 1.")
        require(self.zeta > 0 and self.probe > 0, "zeta and probe must be positive.")
        require(self.kappa >= 0, "kappa must not be negative.")


def stsl(
    problem: Problem, prior: SlicePrior, settings: StslSettings, draws: Draws, state: State | None = None
) -> Iterator[State]:
    """Yield a State after every noise level sigma: `inner_steps` times (6 network calls each; 3 where kappa is 0)

    x <- x - zeta / abar grad_x [ sigma_y^2 |y - A D(x)|^2_W / 2 + kappa sigma^4 tr(grad^2 log p_sigma(x)) / 2 ],

    then x' = DDIM(x, D(x)) (1 call). The paper's second-order surrogate: Jensen's bound of log p(y | x_sigma) needs
    tr(A Cov A^H), Cov = sigma^2 (I + sigma^2 grad^2 log p), of which the trace is kept. abar = 1 / (1 + (sigma /
    sigma_data)^2) undoes the shrinking of dD/dx. The trace's gradient is 0 for Gaussian volumes: there the method is
    gradient descent on the data, and what its few steps reach decides the spread.
    """
    chain, state = start_chain(problem, settings, draws, state)
    calls_of_step = (1 + VJP_CALLS) * (2 if settings.kappa > 0 else 1)
    for level, sigma, sigma_next in following(chain.sigmas, state.level):
        x, length = state.x, settings.zeta * (1 + (sigma / prior.sigma_data) ** 2)
        for step in range(settings.inner_steps):
            z = draws.normal(problem.shape, problem.dtype, level, step, "probe").to(problem.device)
            x = x - length * surrogate_gradient(problem, prior, x, sigma, settings, chain, z)
        h = prior.denoise(x, sigma, problem.spacing_mm, noise_correlation=chain.correlation).mean
        following_x = ddim_step(x, h, sigma, sigma_next, settings.eta, lambda at=level + 1: chain.noise(at))
        calls = state.network_calls + settings.inner_steps * calls_of_step + 1
        state = State(level + 1, following_x, h, {}, calls)
        yield state


def surrogate_gradient(
    problem: Problem, prior: SlicePrior, x: Tensor, sigma: float, settings: StslSettings, chain: Chain, z: Tensor
) -> Tensor:
    """Gradient (z y x) of the surrogate loss; `z` (z y x) is the unit Gaussian probe of the trace.

    sigma^4 tr(grad^2 log p) = sigma^2 (tr J - voxels) with z^T (D(x + d z) - D(x)) / d for tr J (Hutchinson, one
    probe), whose gradient is (J(x + d z) - J(x))^T z / d.
    """
    arguments = (sigma, problem.spacing_mm, chain.correlation)
    here = DenoiserJacobian(prior, x, *arguments)
    residual = problem.y - problem.A(here.mean)
    gradient = here.transpose(-problem.noise_variance() * problem.A.adjoint(problem.weights * residual))
    if settings.kappa == 0:
        return gradient
    d = settings.probe * sigma
    there = DenoiserJacobian(prior, x + d * z, *arguments)
    return gradient + (settings.kappa * sigma**2 / (2 * d)) * (there.transpose(z) - here.transpose(z))
