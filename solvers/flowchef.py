"""FlowChef: steering a rectified flow without its derivative (Patel, Wen, Metaxas and Yang, ICCV 2025)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from solvers.draws import Draws
from solvers.guidance import GuidedSettings, ddim_step, start_chain
from solvers.problem import Problem
from solvers.settings import require
from solvers.split_tv import following
from solvers.state import State

if TYPE_CHECKING:
    from models.prior import SlicePrior


@dataclass(frozen=True)
class FlowChefSettings(GuidedSettings):
    """descents: gradient steps a level, each `step` long where 2 is the most that is stable. eta 0 is the flow."""

    eta: float = 0.0
    descents: int = 10
    step: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.descents >= 0, "descents must not be negative.")
        require(0 < self.step < 2, "step must lie between 0 and 2.")


def flowchef(
    problem: Problem, prior: SlicePrior, settings: FlowChefSettings, draws: Draws, state: State | None = None
) -> Iterator[State]:
    """Yield a State after every noise level sigma, with h = D(x, sigma) (one network call):

    d = -step sum of `descents` gradients of |y - A (h + d)|^2_W / 2 max W;   x' = DDIM(x, h) + (1 + sigma' / s) d

    The paper moves x_t by the gradient at x0^ ("gradient skipping": dx0^/dx_t is taken for I) and then along the
    velocity, x_t' = x_t + d + (t' - t) v (arXiv:2412.00100, algorithm 1); here with v held while d is found. Its flow
    has x_t = (1 - t) x0 / s + t n, so x = (sigma + s) x_t with t = sigma / (sigma + s) and s = prior.sigma_data; the
    step along v is then the DDIM step of eta 0. The operator has norm one, so a step of one is a Landweber step. Any
    denoiser will do; `preconditioning: flow` trains one as a flow. The error of h is nowhere in the step.
    """
    chain, state = start_chain(problem, settings, draws, state)
    for level, sigma, sigma_next in following(chain.sigmas, state.level):
        h = prior.denoise(state.x, sigma, problem.spacing_mm, noise_correlation=chain.correlation).mean
        move = descent(problem, h, settings)
        x = ddim_step(state.x, h, sigma, sigma_next, settings.eta, lambda at=level + 1: chain.noise(at))
        x = x + (1 + sigma_next / prior.sigma_data) * move
        state = State(level + 1, x, h + move, {}, state.network_calls + 1)
        yield state


def descent(problem: Problem, h: Tensor, settings: FlowChefSettings) -> Tensor:
    """What `descents` Landweber steps on the data add to h (z y x)."""
    weights = problem.weights / problem.weights.max()
    x = h
    for _ in range(settings.descents):
        x = x + settings.step * problem.A.adjoint(weights * (problem.y - problem.A(x)))
    return x - h
