"""TPDM's perpendicular prior: some noise levels denoise coronal planes of the volume instead of axial ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from models.denoised import Denoised
from solvers.settings import require
from solvers.wrapped_prior import WrappedPrior, levels_left

if TYPE_CHECKING:
    from models.prior import SlicePrior

LARGEST_STRETCH = 1.5
FEWEST_SLICES = 16


class PerpendicularPrior(WrappedPrior):
    """D(x) of the volume as (y z x), planes of z and x, at every K-th level; axial planes at the others and the last.

    Lee et al., ICCV 2023 (TPDM, algorithm 1): the score of the volume is a product of the scores of two families of
    planes, visited in turn, p(x) ~ p_axial(x)^(1 - 1/K) p_coronal(x)^(1/K). The paper has a network for each family;
    here one network sees both, so it must know both views. Noise must be white: along z it would lie inside a plane.
    """

    def __init__(self, inner: SlicePrior, every: int, sigmas: Sequence[float]) -> None:
        super().__init__(inner)
        self.every, self.sigmas = every, tuple(sigmas)

    def turned(self, sigma: float) -> bool:
        """Whether this noise level belongs to the coronal planes."""
        return levels_left(sigma, self.sigmas) % self.every == self.every - 1

    def denoise(
        self, x: Tensor, sigma: float, spacing_mm: tuple[float, float, float], noise_correlation: float = 0.0
    ) -> Denoised:
        """Moments (z y x) from axial or coronal planes, by `turned`."""
        if not self.turned(sigma):
            return self.inner.denoise(x, sigma, spacing_mm, noise_correlation=noise_correlation)
        z, y, x_mm = spacing_mm
        mean, variance = self.inner.denoise(x.transpose(0, 1).contiguous(), sigma, (y, z, x_mm))
        return Denoised(mean.transpose(0, 1).contiguous(), variance.transpose(0, 1).contiguous())


def require_planes(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> None:
    """Raise SettingsError unless coronal planes of the volume are images that a slice prior can know."""
    ratio = spacing_mm[0] / spacing_mm[2]
    require(
        1 / LARGEST_STRETCH <= ratio <= LARGEST_STRETCH,
        f"coupling perpendicular: slices of {spacing_mm[0]:.3g} mm and pixels of {spacing_mm[2]:.3g} mm make coronal "
        f"planes stretched by more than {LARGEST_STRETCH:g}; choose another coupling.",
    )
    require(
        shape[0] >= FEWEST_SLICES,
        f"coupling perpendicular: {shape[0]} slices are too few for a coronal plane, it takes {FEWEST_SLICES}; "
        "choose another coupling.",
    )
