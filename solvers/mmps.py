"""MMPS: moment-matching posterior sampling, second-order Tweedie (Rozet, Andry, Lanusse and Louppe, NeurIPS 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from solvers.conjugate_gradient import real_inner
from solvers.draws import Draws
from solvers.guidance import VJP_CALLS, DenoiserJacobian, GuidedSettings, ddim_step, start_chain
from solvers.problem import Problem
from solvers.settings import require
from solvers.split_tv import following
from solvers.state import State

if TYPE_CHECKING:
    from models.prior import SlicePrior


@dataclass(frozen=True)
class MmpsSettings(GuidedSettings):
    """cg_iterations: of the system in data space, one Jacobian product each; cg_tolerance ends them early."""

    cg_iterations: int = 5
    cg_tolerance: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.cg_iterations >= 1, "cg_iterations must be at least 1.")


def mmps(
    problem: Problem, prior: SlicePrior, settings: MmpsSettings, draws: Draws, state: State | None = None
) -> Iterator[State]:
    """Yield a State after every noise level sigma, with h = D(x, sigma), J = dD/dx (1 + 2 cg_iterations calls at most):

    C = Cov[x | x_sigma] = sigma^2 J,    x^ = h + C A^H (A C A^H + W^-1)^-1 (y - A h),    x' = DDIM(x, x^)

    The paper's moment matching: the denoiser's own covariance in place of PiGDM's r^2 I. Exact for Gaussian volumes
    when CG converges; truncated CG starts at 0 and stops short of the data, which later levels repair. The update must
    keep marginals: DDS's full re-noise of the same x^ loses three tenths of the spread.
    """
    chain, state = start_chain(problem, settings, draws, state)
    for level, sigma, sigma_next in following(chain.sigmas, state.level):
        jacobian = DenoiserJacobian(prior, state.x, sigma, problem.spacing_mm, chain.correlation)
        shift, products = covariance_shift(problem, jacobian, sigma, settings.cg_iterations, settings.cg_tolerance)
        estimate = jacobian.mean + shift
        x = ddim_step(state.x, estimate, sigma, sigma_next, settings.eta, lambda at=level + 1: chain.noise(at))
        state = State(level + 1, x, estimate, {}, state.network_calls + 1 + VJP_CALLS * products)
        yield state


def covariance_shift(
    problem: Problem, jacobian: DenoiserJacobian, sigma: float, iterations: int, tolerance: float
) -> tuple[Tensor, int]:
    """(C A^H (A C A^H + W^-1)^-1 (y - A h) (z y x), Jacobian products spent), C = sigma^2 J^T.

    Conjugate gradients on (I + B C B^H) v = W^(1/2) (y - A h), B = W^(1/2) A, from v = 0; C B^H v is summed along with
    v, so that k iterations cost k products. J is symmetric for an exact denoiser and taken as symmetric here; a
    direction of no positive curvature, which only an inexact one has, ends the iteration.
    """
    root = torch.as_tensor(problem.weights).sqrt()
    r = root * (problem.y - problem.A(jacobian.mean))
    shift = torch.zeros_like(jacobian.mean)
    p, rr, limit, products = r, real_inner(r, r), tolerance**2 * real_inner(r, r), 0
    while products < iterations and rr > limit:
        cp = sigma**2 * jacobian.transpose(problem.A.adjoint(root * p))
        q = p + root * problem.A(cp)
        products += 1
        curvature = real_inner(p, q)
        if curvature <= 0:
            break
        alpha = float(rr / curvature)
        shift = shift + alpha * cp
        r = r - alpha * q
        rr_next = real_inner(r, r)
        p, rr = r + float(rr_next / rr) * p, rr_next
    return shift, products
