"""DPS: diffusion posterior sampling (Chung, Kim, McCann, Klasky and Ye, ICLR 2023)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

from torch import Tensor

from solvers.draws import Draws
from solvers.guidance import VJP_CALLS, DenoiserJacobian, GuidedSettings, ddim_step, start_chain
from solvers.problem import Problem
from solvers.settings import require
from solvers.split_tv import following
from solvers.state import State

if TYPE_CHECKING:
    from models.prior import SlicePrior


@dataclass(frozen=True)
class DpsSettings(GuidedSettings):
    """zeta: largest move toward the data in one level, root mean square over voxels in units of prior.sigma_data."""

    levels: int = 100
    zeta: float = 0.03

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.zeta >= 0, "zeta must not be negative.")


def dps(
    problem: Problem, prior: SlicePrior, settings: DpsSettings, draws: Draws, state: State | None = None
) -> Iterator[State]:
    """Yield a State after every noise level sigma, with h = D(x, sigma) and J = dD/dx (3 network calls):

    x' = DDIM(x, h) - zeta' / sqrt(abar abar') grad_x |y - A D(x)|_W,   grad = -J^T A^H W (y - A h) / |y - A h|_W

    Algorithm 1 of the paper with its step zeta_i = zeta' / |y - A h|. Its network preserves variance: abar =
    1 / (1 + (sigma / sigma_data)^2) carries the step over to x = x_vp / sqrt(abar). The norm runs over the volume, so
    zeta' = zeta sigma_y sigma_data sqrt(voxels) makes the same move for one slice and for many. The error of h is
    nowhere in the step: measured directions collapse to a spread far below the posterior's.
    """
    chain, state = start_chain(problem, settings, draws, state)
    voxels = problem.x_init.numel()
    for level, sigma, sigma_next in following(chain.sigmas, state.level):
        jacobian = DenoiserJacobian(prior, state.x, sigma, problem.spacing_mm, chain.correlation)
        h = jacobian.mean
        shares = [1 / (1 + (s / prior.sigma_data) ** 2) for s in (sigma, sigma_next)]
        length = settings.zeta * prior.sigma_data * sqrt(voxels / (shares[0] * shares[1]))
        move = length * jacobian.transpose(data_direction(problem, h))
        x = ddim_step(state.x, h, sigma, sigma_next, settings.eta, lambda at=level + 1: chain.noise(at)) + move
        estimate = x if sigma_next == 0 else h
        state = State(level + 1, x, estimate, {}, state.network_calls + 1 + VJP_CALLS)
        yield state


def data_direction(problem: Problem, h: Tensor) -> Tensor:
    """sigma_y A^H W r / |r|_W with r = y - A h: descent direction (z y x) of the data's norm, length at most 1."""
    residual = problem.y - problem.A(h)
    norm = float((problem.weights * residual.abs().square()).sum().sqrt())
    return problem.A.adjoint(problem.weights * residual) * (sqrt(problem.noise_variance()) / max(norm, 1e-30))
