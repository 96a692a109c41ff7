"""A prior around another one: everything is the inner prior's but the denoiser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from models.denoised import Denoised

if TYPE_CHECKING:
    from models.prior import SlicePrior


class WrappedPrior:
    """Passes everything on to `inner`; subclasses override `denoise`."""

    def __init__(self, inner: SlicePrior) -> None:
        self.inner = inner

    @property
    def card(self) -> dict[str, Any]:
        return self.inner.card

    @property
    def modality(self) -> str:
        return self.inner.modality

    @property
    def sigma_data(self) -> float:
        return self.inner.sigma_data

    def denoise(
        self, x: Tensor, sigma: float, spacing_mm: tuple[float, float, float], noise_correlation: float = 0.0
    ) -> Denoised:
        """Moments of the clean volume (z y x) given x = clean + sigma noise."""
        return self.inner.denoise(x, sigma, spacing_mm, noise_correlation=noise_correlation)

    def r2_scale(self, sigma: float, purpose: str) -> float:
        return self.inner.r2_scale(sigma, purpose)

    def check_fits(self, modality: str, pixel_mm: float) -> None:
        self.inner.check_fits(modality, pixel_mm)


class CorrelatedPrior(WrappedPrior):
    """Tells the inner prior the lag-1 correlation along z of noise that the solver believes to be white."""

    def __init__(self, inner: SlicePrior, correlation: float) -> None:
        super().__init__(inner)
        self.correlation = correlation

    def denoise(
        self, x: Tensor, sigma: float, spacing_mm: tuple[float, float, float], noise_correlation: float = 0.0
    ) -> Denoised:
        """As `inner`, whatever `noise_correlation` the solver passes."""
        return self.inner.denoise(x, sigma, spacing_mm, noise_correlation=self.correlation)


def levels_left(sigma: float, sigmas: Sequence[float]) -> int:
    """How many of the falling noise levels `sigmas` come after the one nearest to `sigma` on a logarithmic scale.

    A function of sigma alone: a resumed run, a second call at the same level and a Jacobian product agree. Solvers that
    call between or beside their schedule get the nearest level's number.
    """
    nearest = min(range(len(sigmas)), key=lambda i: abs(math.log(sigmas[i] / sigma)))
    return len(sigmas) - 1 - nearest
