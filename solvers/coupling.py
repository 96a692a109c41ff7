"""Ties between slices as plug-ins: they wrap the prior and the random draws, so that no solver knows them.

    prior, draws = couple(problem, prior, draws, COUPLINGS["slerp"], sigmas)

makes any solver one with correlated noise, a slice term or other neighbours. Every noise level still costs the same
number of network calls.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi, sin
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from models.denoised import LARGEST_CORRELATION
from solvers.draws import Draws
from solvers.perpendicular import PerpendicularPrior, require_planes
from solvers.problem import Problem
from solvers.regrouped import RegroupedPrior, possible_strides
from solvers.settings import SettingsError, require
from solvers.slice_coupling import ar1_draw, coupling_coefficient
from solvers.smoothed import QuadraticSmoothedPrior, TvSmoothedPrior
from solvers.wrapped_prior import CorrelatedPrior, WrappedPrior

if TYPE_CHECKING:
    from models.prior import SlicePrior

    Prior = SlicePrior | WrappedPrior

NOISES = ("own", "ar1", "slerp")
DENOISERS = ("plain", "tv", "quadratic", "perpendicular", "regrouped")
Settings = TypeVar("Settings")


@dataclass(frozen=True)
class SliceCoupling:
    """How slices are tied, from the outside of a solver.

    noise             of draws tagged "noise": "own" leaves them to the solver, "ar1" and "slerp" replace the solver's
                      own noise_length_mm
    length_mm         correlation length of "ar1" noise, 0 for white
    denoiser          "plain", or a slice term on its mean ("tv", "quadratic"), or other planes ("perpendicular"), or
                      other neighbours ("regrouped")
    tv_weight         in 1 / image units, see smoothed.TvSmoothedPrior
    quadratic_weight  in 1 / image units^2, see smoothed.QuadraticSmoothedPrior
    every             "perpendicular": coronal planes at one level of so many
    largest_mm        "regrouped": largest distance of neighbours that the prior knows
    """

    noise: str = "own"
    length_mm: float = 4.0
    denoiser: str = "plain"
    tv_weight: float = 30.0
    quadratic_weight: float = 300.0
    every: int = 2
    largest_mm: float = 6.0

    def __post_init__(self) -> None:
        require(self.noise in NOISES, f"coupling: noise must be one of {', '.join(NOISES)}.")
        require(self.denoiser in DENOISERS, f"coupling: denoiser must be one of {', '.join(DENOISERS)}.")
        require(self.length_mm >= 0 and self.largest_mm > 0, "coupling: lengths must not be negative.")
        require(self.tv_weight >= 0 and self.quadratic_weight >= 0, "coupling: weights must not be negative.")
        require(self.every >= 2, "coupling: every must be at least 2.")
        white = self.noise == "ar1" and self.length_mm == 0
        require(
            self.denoiser != "perpendicular" or white,
            "coupling: the perpendicular denoiser takes white noise, noise 'ar1' with length_mm 0.",
        )

    def settings_of(self, settings: Settings) -> Settings:
        """The solver's settings without the noise that this coupling replaces: two AR(1) filters in a row would not
        keep the variance."""
        if self.noise == "own" or not hasattr(settings, "noise_length_mm"):
            return settings
        return dataclasses.replace(settings, noise_length_mm=0.0)


COUPLINGS: dict[str, SliceCoupling] = {
    "none": SliceCoupling(),
    "ar1": SliceCoupling(noise="ar1"),
    "slerp": SliceCoupling(noise="slerp"),
    "tv": SliceCoupling(denoiser="tv"),
    "quadratic": SliceCoupling(denoiser="quadratic"),
    "perpendicular": SliceCoupling(noise="ar1", length_mm=0.0, denoiser="perpendicular"),
    "regrouped": SliceCoupling(denoiser="regrouped"),
}


def find_coupling(name: str) -> SliceCoupling:
    """The coupling of that name; SettingsError lists the names there are."""
    if name not in COUPLINGS:
        raise SettingsError(f"unknown coupling '{name}', choose one of {', '.join(COUPLINGS)}.")
    return COUPLINGS[name]


def couple(
    problem: Problem, prior: Prior, draws: Draws, coupling: SliceCoupling, sigmas: Sequence[float] = ()
) -> tuple[Prior, Draws]:
    """Prior and draws of `problem` with the coupling in them; a solver given both needs no other change.

    `sigmas` are the solver's noise levels, falling: "perpendicular" and "regrouped" go by them. Raises SettingsError
    where the coupling does not fit the volume.
    """
    prior = _coupled_prior(problem, prior, coupling, sigmas)
    if coupling.noise == "own":
        return prior, draws
    c = noise_correlation(coupling, problem)
    told = min(c, LARGEST_CORRELATION)
    return CorrelatedPrior(prior, told), CoupledDraws(draws.seed, draws.prefix, coupling.noise, c)


def _coupled_prior(problem: Problem, prior: Prior, coupling: SliceCoupling, sigmas: Sequence[float]) -> Prior:
    if coupling.denoiser == "tv":
        return TvSmoothedPrior(prior, coupling.tv_weight)
    if coupling.denoiser == "quadratic":
        return QuadraticSmoothedPrior(prior, coupling.quadratic_weight)
    if coupling.denoiser == "plain":
        return prior
    if not sigmas:
        raise ValueError(f"{coupling.denoiser} needs the noise levels of the solver")
    if coupling.denoiser == "perpendicular":
        require_planes(problem.shape, problem.spacing_mm)
        return PerpendicularPrior(prior, coupling.every, sigmas)
    strides = possible_strides(problem.shape[0], problem.spacing_mm[0], coupling.largest_mm)
    return RegroupedPrior(prior, strides, sigmas)


def noise_correlation(coupling: SliceCoupling, problem: Problem) -> float:
    """Lag-1 correlation along z of the coupling's noise: exp(-dz / length), or cos of slerp's angle between slices."""
    if coupling.noise == "slerp":
        return cos(pi / 2 / (problem.shape[0] - 1)) if problem.shape[0] > 1 else 0.0
    return coupling_coefficient(problem.spacing_mm[0], coupling.length_mm)


@dataclass(frozen=True)
class CoupledDraws(Draws):
    """Draws whose volumes (... z y x) tagged "noise" are correlated along z; all others are as they were.

    Every slice of every volume is exactly N(0, I).
    """

    noise: str = "ar1"
    correlation: float = 0.0

    def child(self, *tags: int | str) -> CoupledDraws:
        return dataclasses.replace(self, prefix=(*self.prefix, *tags))

    def normal(self, shape: tuple[int, ...], dtype: torch.dtype, *tags: int | str) -> Tensor:
        white = super().normal(shape, dtype, *tags)
        if "noise" not in tags or len(shape) < 3:
            return white
        along = white.movedim(-3, 0)
        coupled = slerp_draw(along) if self.noise == "slerp" else ar1_draw(along, self.correlation)
        return coupled.movedim(0, -3)


def slerp_draw(white: Tensor) -> Tensor:
    """n_i = cos(a_i) z_0 + sin(a_i) z_1, a_i = (pi / 2) i / (Z - 1), from the first and last slice of white (z ...).

    ISCS (ICLR 2026, arXiv:2602.04162) interpolates spherically between two anchors drawn anew at every level,
    n_i = [sin((1 - t_i) W) z_0 + sin(t_i W) z_1] / sin W, with W their angle. Independent anchors of many voxels are at
    W = pi / 2 but for O(1 / sqrt(voxels)); with W = pi / 2 itself every slice is exactly N(0, I).
    """
    count = len(white)
    if count == 1:
        return white.clone()
    angles = [pi / 2 * i / (count - 1) for i in range(count)]
    return torch.stack([cos(a) * white[0] + sin(a) * white[-1] for a in angles])
