"""The form of AFDPS for images: PaM's proposals with weights that look ahead at the data."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from typing import TYPE_CHECKING

import torch

from solvers.draws import Draws
from solvers.particles import Ensemble, Population
from solvers.problem import Problem
from solvers.schedule import karras_levels
from solvers.split_tv import following
from solvers.state import State

if TYPE_CHECKING:
    from solvers.afdps import AfdpsSettings


def twisted(
    problem: Problem, ensemble: Ensemble, settings: AfdpsSettings, draws: Draws, state: State | None
) -> Iterator[State]:
    """Yield a State after every noise level: denoise, weigh, resample, step."""
    sigmas = karras_levels(settings.sigma_max or problem.sigma_init, settings.sigma_min, settings.levels)
    shape = (settings.particles, *problem.shape)
    if state is None:
        white = draws.normal(shape, problem.dtype, 0, "noise").to(problem.device)
        population = Population.start(problem.x_init + sigmas[0] * white)
        state = population.state(0, problem.x_init, 0, looked_back=torch.zeros_like(population.log_weights))
    for level, sigma, sigma_next in following(sigmas, state.level):
        population = Population.of(state)
        h, variance = ensemble.denoise(population.x, sigma)
        # One r^2 for all particles, so that the determinants of their evidences cancel.
        r2 = ensemble.prior.r2_scale(sigma, "sample") * float(variance.mean())
        ahead = ensemble.log_evidence(h, r2) - state.extra["looked_back"]
        population = population.weighed(ahead if level > 0 else torch.zeros_like(ahead))
        survivors = population.survivors(draws, level)
        if survivors is not None:
            h, population = h[survivors], population.with_equal_weights(population.x[survivors])
        x0 = ensemble.draw(h, r2, draws, level)
        estimate = population.estimate(x0, settings.mode, draws)
        x, looked_back = x0, torch.zeros_like(ahead)
        if sigma_next > 0:
            a = (sigma_next / sigma) ** 2
            noise = draws.normal(shape, problem.dtype, level + 1, "noise").to(problem.device)
            x = torch.lerp(x0, population.x, a) + sigma_next * sqrt(1 - a) * noise
            # What x' adds to x about x0 is an observation (x' - a x) / (1 - a) of variance 1 / (sigma'^-2 - sigma^-2).
            seen = (x - a * population.x) / (1 - a)
            between = 1 / (1 / r2 + 1 / sigma_next**2 - 1 / sigma**2)
            looked_back = ensemble.log_evidence(torch.lerp(seen, h, between / r2), between)
        calls = state.network_calls + settings.particles
        state = population._replace(x=x).state(level + 1, estimate, calls, looked_back=looked_back)
        yield state
