"""DiffPIR: plug-and-play restoration with a diffusion denoiser (Zhu et al., CVPR Workshops 2023)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

import torch

from solvers.correction import ErrorModel, correct
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
class DiffPirSettings:
    """penalty: lambda of the paper, weight of the denoised volume against the data; the paper uses 1 to 25 on
    natural images, less is better from the few levels and the near start used here.

    zeta: share of fresh noise in the re-noise, 0 (deterministic) to 1. noise_length_mm: correlation length of fresh
    noise along z, 0 for independent slices. pure_noise drops x_init.
    """

    levels: int = 15
    sigma_max: float | None = None
    sigma_min: float = 0.01
    penalty: float = 0.5
    zeta: float = 1.0
    cg_iterations: int = 20
    cg_tolerance: float = 1e-3
    noise_length_mm: float = 0.0
    pure_noise: bool = False

    def __post_init__(self) -> None:
        require(self.levels >= 1 and self.cg_iterations >= 1, "levels and cg_iterations must be at least 1.")
        require(self.penalty > 0, "penalty must be positive.")
        require(0 <= self.zeta <= 1, "zeta must lie in [0, 1].")


def diffpir(
    problem: Problem, prior: SlicePrior, settings: DiffPirSettings, draws: Draws, state: State | None = None
) -> Iterator[State]:
    """Yield a State after every noise level sigma, with h = D(x, sigma), variance exploding:

    x^ = argmin_x |x - h|^2 / (2 r^2) + |y - A x|^2_W / 2,   r^2 = sigma^2 / lambda          (data proximal step)
    eps^ = (x - x^) / sigma,   x' = x^ + sigma' (sqrt(1 - zeta) eps^ + sqrt(zeta) z)         (back to noise)

    The proximal step takes the mode, so samples are too narrow: with zeta = 1 and a prior and r^2 that are exact, std
    is 1/sqrt(2) of the posterior's.
    """
    c = coupling_coefficient(problem.spacing_mm[0], settings.noise_length_mm)
    sigmas = karras_levels(settings.sigma_max or problem.sigma_init, settings.sigma_min, settings.levels)

    def noise(level: int):
        return ar1_draw(draws.normal(problem.shape, problem.dtype, level, "noise").to(problem.device), c)

    if state is None:
        state = State(0, starting_point(problem, sigmas[0], noise(0), settings.pure_noise), problem.x_init)
    for level, sigma, sigma_next in following(sigmas, state.level):
        h = prior.denoise(state.x, sigma, problem.spacing_mm, noise_correlation=c).mean
        r = torch.tensor(sigma / sqrt(settings.penalty), device=h.device)
        x = correct(problem, h, ErrorModel(r), settings.cg_iterations, settings.cg_tolerance)
        noisy = x
        if sigma_next > 0:
            direction = (state.x - x) / sigma
            mixed = sqrt(1 - settings.zeta) * direction + sqrt(settings.zeta) * noise(level + 1)
            noisy = x + sigma_next * mixed
        state = State(level + 1, noisy, x, {}, state.network_calls + 1)
        yield state
