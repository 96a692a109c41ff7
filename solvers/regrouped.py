"""DiffusionBlend's regrouped slices: which slices the network sees as neighbours changes between noise levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.denoised import Denoised
from solvers.settings import require
from solvers.wrapped_prior import WrappedPrior, levels_left

if TYPE_CHECKING:
    from models.prior import SlicePrior

FEWEST_SLICES = 3


class RegroupedPrior(WrappedPrior):
    """D(x) of the interleaved volumes x[k::s], k = 0 ... s-1, with slices s times as far apart; s alternates by level.

    Song et al., NeurIPS 2024 (DiffusionBlend++): the score of the volume is the mean over partitions into groups of
    adjacent and of "jumping" slices, one partition a level. Their network denoises groups of three; ours one slice from
    three neighbours, so a partition is a stride here. AR(1) noise of lag-1 correlation c has c^s at stride s. The last
    level has stride 1.
    """

    def __init__(self, inner: SlicePrior, strides: Sequence[int], sigmas: Sequence[float]) -> None:
        super().__init__(inner)
        self.strides, self.sigmas = tuple(strides), tuple(sigmas)

    def stride(self, sigma: float) -> int:
        """Distance in slices between the neighbours that the network sees at this noise level."""
        return self.strides[levels_left(sigma, self.sigmas) % len(self.strides)]

    def denoise(
        self, x: Tensor, sigma: float, spacing_mm: tuple[float, float, float], noise_correlation: float = 0.0
    ) -> Denoised:
        """Moments (z y x), one network call for every slice."""
        s = self.stride(sigma)
        spacing = (s * spacing_mm[0], *spacing_mm[1:])
        parts = [self.inner.denoise(x[k::s], sigma, spacing, noise_correlation=noise_correlation**s) for k in range(s)]
        order = torch.cat([torch.arange(k, len(x), s, device=x.device) for k in range(s)]).argsort()
        return Denoised(*(torch.cat([part[i] for part in parts])[order] for i in range(2)))


def possible_strides(slices: int, slice_mm: float, largest_mm: float) -> tuple[int, ...]:
    """Strides 1 to 3 whose interleaved volumes keep three slices and a slice distance of at most `largest_mm`.

    Raises SettingsError where stride 2 is not among them.
    """
    found = tuple(s for s in (1, 2, 3) if s == 1 or (slices // s >= FEWEST_SLICES and s * slice_mm <= largest_mm))
    require(
        len(found) > 1,
        f"coupling regrouped: {slices} slices of {slice_mm:.3g} mm leave no second stride (three slices of at most "
        f"{largest_mm:g} mm each); choose another coupling.",
    )
    return found
