"""SITCOM: step-wise triple-consistent sampling (Alkhouri, Liang, Huang, Dai, Qu, Ravishankar and Wang, ICML 2025)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from solvers.draws import Draws
from solvers.guidance import VJP_CALLS, Chain, DenoiserJacobian, GuidedSettings, start_chain
from solvers.problem import Problem
from solvers.settings import require
from solvers.split_tv import following
from solvers.state import State

if TYPE_CHECKING:
    from models.prior import SlicePrior


@dataclass(frozen=True)
class SitcomSettings(GuidedSettings):
    """inner_steps, learning_rate: Adam on the network's input, in units of that input's standard deviation.

    weight: lambda, pull of the input towards x. stop_chi2: a level ends once D(v) explains the data that well.
    """

    levels: int = 10
    inner_steps: int = 5
    learning_rate: float = 0.02
    weight: float = 0.01
    stop_chi2: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.inner_steps >= 1, "inner_steps must be at least 1.")
        require(self.learning_rate > 0, "learning_rate must be positive.")
        require(self.weight >= 0 and self.stop_chi2 >= 0, "weight and stop_chi2 must not be negative.")
        require(self.eta == 1, "eta has no place here: the re-noise is always fresh.")


def sitcom(
    problem: Problem, prior: SlicePrior, settings: SitcomSettings, draws: Draws, state: State | None = None
) -> Iterator[State]:
    """Yield a State after every noise level sigma (1 + 3 inner_steps network calls at most):

    v^ = argmin_v sigma_y^2 |y - A D(v)|^2_W + lambda abar |x - v|^2,     x^ = D(v^),     x' = x^ + sigma' z

    The paper's three consistencies (measurement, backward and forward) by a few steps of Adam from v = x. abar =
    1 / (1 + (sigma / sigma_data)^2) carries its variance-preserving lambda over. x^ is a mode under full re-noise, so
    samples are too narrow.
    """
    chain, state = start_chain(problem, settings, draws, state)
    for level, sigma, sigma_next in following(chain.sigmas, state.level):
        estimate, calls = consistent_input(problem, prior, state.x, sigma, settings, chain)
        x = estimate + sigma_next * chain.noise(level + 1) if sigma_next > 0 else estimate
        state = State(level + 1, x, estimate, {}, state.network_calls + calls)
        yield state


def consistent_input(
    problem: Problem, prior: SlicePrior, x: Tensor, sigma: float, settings: SitcomSettings, chain: Chain
) -> tuple[Tensor, int]:
    """(D(v^) (z y x), network calls) after Adam (Kingma and Ba 2015; betas .9, .999) on v from v = x."""
    share = 1 / (1 + (sigma / prior.sigma_data) ** 2)
    rate = settings.learning_rate * (sigma**2 + prior.sigma_data**2) ** 0.5
    v = x.clone()
    m, s = torch.zeros_like(_real(v)), torch.zeros_like(_real(v))
    for step in range(1, settings.inner_steps + 1):
        jacobian = DenoiserJacobian(prior, v, sigma, problem.spacing_mm, chain.correlation)
        if problem.chi2(jacobian.mean) <= settings.stop_chi2:
            return jacobian.mean, (1 + VJP_CALLS) * (step - 1) + 1
        residual = problem.y - problem.A(jacobian.mean)
        data = jacobian.transpose(problem.noise_variance() * problem.A.adjoint(problem.weights * residual))
        g = _real(2 * settings.weight * share * (v - x) - 2 * data)
        m, s = 0.9 * m + 0.1 * g, 0.999 * s + 0.001 * g.square()
        move = rate * (m / (1 - 0.9**step)) / ((s / (1 - 0.999**step)).sqrt() + 1e-8)
        v = v - (torch.view_as_complex(move) if v.is_complex() else move)
    h = prior.denoise(v, sigma, problem.spacing_mm, noise_correlation=chain.correlation).mean
    return h, (1 + VJP_CALLS) * settings.inner_steps + 1


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x
