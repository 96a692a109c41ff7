"""AFDPS: annealed filtering of diffusion posterior samples, a particle sampler whose weights make it exact."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from solvers.draws import Draws
from solvers.particles import Ensemble, Population
from solvers.problem import Problem
from solvers.schedule import karras_levels
from solvers.settings import require
from solvers.split_tv import following
from solvers.state import State
from solvers.twisted import twisted

if TYPE_CHECKING:
    from models.prior import SlicePrior

FORMS = ("twisted", "exact")
MODES = ("sample", "point")
UNINFORMED = 4.0


@dataclass(frozen=True)
class AfdpsSettings:
    """form "twisted" weighs PaM's proposals and is meant for images, "exact" is the paper's, for few dimensions.

    particles: of a run, each one network call a level. mode "sample" draws one of them, "point" is their weighted mean.
    kappa ("exact"): 1 is the reverse SDE, 0 the ODE. sigma_max null: problem.sigma_init; the exact form starts from the
    posterior of a Gaussian prior and takes 4 sigma_data. stacked: all particles in one call, one above the other along
    z, for priors and operators that treat slices one by one.
    """

    levels: int = 15
    form: str = "twisted"
    mode: str = "sample"
    particles: int = 4
    sigma_max: float | None = None
    sigma_min: float = 0.03
    kappa: float = 1.0
    cg_iterations: int = 30
    cg_tolerance: float = 1e-3
    stacked: bool = False

    def __post_init__(self) -> None:
        require(self.levels >= 1 and self.cg_iterations >= 1, "levels and cg_iterations must be at least 1.")
        require(self.form in FORMS, f"form must be one of {', '.join(FORMS)}.")
        require(self.mode in MODES, f"mode must be one of {', '.join(MODES)}.")
        require(self.particles >= 1, "particles must be at least 1.")
        require(self.kappa >= 0, "kappa must not be negative.")


def afdps(
    problem: Problem, prior: SlicePrior, settings: AfdpsSettings, draws: Draws, state: State | None = None
) -> Iterator[State]:
    """Yield a State after every noise level (`particles` network calls). Its `extra` has the particles x (k z y x),
    their log-weights (k), and sizes: 1 / sum w^2 of every level, before the systematic resampling below k / 2.

    "exact" (arXiv:2506.03979): Q_v(x) ~ p_v(x) exp(-mu(x)), mu = |y - A x|^2_W / 2, from large v = sigma^2 to small,

        dx = (b - kappa grad mu) dv + sqrt(kappa) dW,    b = (1 + kappa) / 2 (D(x) - x) / v
        d log w = [-b . grad mu + kappa / 2 (|grad mu|^2 - Laplace mu)] dv.

    A step of length dv is taken exactly for linear A: with m = x + b dv, x' ~ N(m, kappa dv) exp(-mu(x')), whose weight
    is N(y; A m, W^-1 + kappa dv A A^H) / exp(-mu(x)); both turn into the lines above as dv falls. Converges to the
    posterior in two dimensions. It stops well before images: the weights make up for all that b does not know of the
    data, and their variance grows with the number of measurements.

    "twisted" (weights of Wu et al., NeurIPS 2023, on PaM's draw): with h = D(x, sigma) and a = sigma'^2 / sigma^2 a
    particle steps to x' = (1 - a) x0 + a x + sigma' sqrt(1 - a) z, x0 ~ N(h, r^2) N(y; A x0, W^-1), and is weighed by

        w = N(y; A h', W^-1 + r'^2 A A^H) / N(y; A m, W^-1 + s^2 A A^H),    h' = D(x', sigma')

    with m and s^2 the moments of x0 given x and x': p^(y | x') / p^(y | x, x'), which is 1 for white Gaussian volumes.
    The ancestral re-noise keeps x0, x', x a Markov chain; with PaM's full re-noise w would not be 1. r^2 is the mean
    calibrated error variance of all voxels and particles. It stops where log w, a sum over measurements, differs by
    much more than 1 between particles. That is so for images: of 4 particles on 8 slices of 256 x 256 (CT, 30 views,
    prior models/weights/ct, 5 levels) the effective size is 1.0 from the second level on, and the run is one sample at
    4 times the cost.
    """
    ensemble = Ensemble(
        problem, prior, settings.particles, settings.stacked, settings.cg_iterations, settings.cg_tolerance
    )
    steps = twisted if settings.form == "twisted" else _exact
    yield from steps(problem, ensemble, settings, draws, state)


def _exact(
    problem: Problem, ensemble: Ensemble, settings: AfdpsSettings, draws: Draws, state: State | None
) -> Iterator[State]:
    sigma_data = ensemble.prior.sigma_data
    sigmas = karras_levels(settings.sigma_max or UNINFORMED * sigma_data, settings.sigma_min, settings.levels)
    if state is None:
        zeros = torch.zeros((settings.particles, *problem.shape), dtype=problem.dtype, device=problem.device)
        middle = ensemble.denoise(zeros, sigmas[0]).mean
        start = ensemble.draw(middle, sigmas[0] ** 2 + sigma_data**2, draws, "start")
        state = Population.start(start).state(0, problem.x_init, 1)
    for level, sigma, sigma_next in following(sigmas, state.level):
        population, calls = Population.of(state), state.network_calls
        if sigma_next > 0:
            survivors = population.survivors(draws, level)
            if survivors is not None:
                population = population.with_equal_weights(population.x[survivors])
            x, gain = _step(ensemble, settings, draws, level, population.x, (sigma, sigma_next))
            population, calls = population._replace(x=x).weighed(gain), calls + settings.particles
        estimate = population.estimate(population.x, settings.mode, draws)
        state = population.state(level + 1, estimate, calls)
        yield state


def _step(
    ensemble: Ensemble, settings: AfdpsSettings, draws: Draws, level: int, x: Tensor, sigmas: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Particles (k z y x) after the step from sigma to the next, and what their log-weights (k) gain."""
    v, dv = sigmas[0] ** 2, sigmas[0] ** 2 - sigmas[1] ** 2
    drift = (1 + settings.kappa) / 2 * (ensemble.denoise(x, sigmas[0]).mean - x) / v
    moved = x + dv * drift
    gain = ensemble.log_evidence(moved, settings.kappa * dv) - ensemble.log_evidence(x, 0.0)
    if settings.kappa > 0:
        moved = ensemble.draw(moved, settings.kappa * dv, draws, level)
    return moved, gain
