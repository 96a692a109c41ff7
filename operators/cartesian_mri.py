"""Cartesian MR encoding: coil sensitivities, centred orthonormal FFT, sampling mask."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from operators.coil_encoding import CoilEncoding
from operators.fourier import centring_phase
from operators.linear import LinearOperator

# Slices a transform takes at once: its temporaries stay in the processor's cache.
CHUNK = 2


def _centring(shape_yx: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Ramps before and after a plain FFT that make it the centred one (complex128, y x)."""
    rows, columns = shape_yx
    before = centring_phase(rows)[:, None] * centring_phase(columns)[None, :]
    turns = (rows // 2) ** 2 % rows / rows + (columns // 2) ** 2 % columns / columns
    constant = torch.polar(torch.tensor(1.0, dtype=torch.float64), torch.tensor(-2 * torch.pi * turns).double())
    return before, before * constant


class CartesianMri(CoilEncoding):
    """y_c = M F (S_c x): complex x (z y x) -> k-space (z coils y x), zero off the mask (Pruessmann et al. 1999).

    ``mask`` is boolean, (y x) for all slices or (z y x); ``sensitivities`` complex, (z coils y x) with z = 1 allowed
    when all slices share them. F is ``operators.fourier.fft2``. With sum|S|^2 = 1 the norm is at most one.
    """

    def __init__(self, mask: Tensor, sensitivities: Tensor) -> None:
        super().__init__(sensitivities)
        if mask.ndim not in (2, 3) or mask.shape[-2:] != sensitivities.shape[-2:]:
            raise ValueError(
                f"The mask {tuple(mask.shape)} does not fit the sensitivities {tuple(sensitivities.shape)}."
            )
        if mask.ndim == 3 and sensitivities.shape[0] > 1 and mask.shape[0] not in (1, sensitivities.shape[0]):
            raise ValueError(f"The mask has {mask.shape[0]} slices, the sensitivities {sensitivities.shape[0]}.")
        self.mask = mask.bool()
        before, after = (ramp.to(sensitivities.device) for ramp in _centring(tuple(mask.shape[-2:])))
        self._maps = (sensitivities * before).to(sensitivities.dtype)
        weight = (self.mask.to(sensitivities.device) * after).to(sensitivities.dtype)
        self._mask = weight if mask.ndim == 2 else weight[:, None]

    def to(self, device: torch.device | str) -> CartesianMri:
        return CartesianMri(self.mask.to(device), self.sensitivities.to(device))

    def normal(self, weights: Tensor) -> Callable[[Tensor], Tensor]:
        """x -> A^H W A x, a few slices at a time.

        The centring ramps of k-space cancel. Where mask and W do not vary along an axis, as with whole phase-encoding
        lines, the transform along that axis cancels as well.
        """
        slices = self._maps.shape[0]
        sampled = self.mask if self.mask.ndim == 2 else self.mask[:, None]
        density = weights * sampled.to(self._maps.device)
        density = density.reshape((1,) * (4 - density.ndim) + tuple(density.shape))
        axes = [axis for axis in (-2, -1) if not torch.equal(density, density.narrow(axis, 0, 1).expand_as(density))]
        density = density.narrow(-2, 0, 1) if -2 not in axes else density
        density = density.narrow(-1, 0, 1) if -1 not in axes else density

        def chunk(x: Tensor, first: int) -> Tensor:
            pick = lambda t: t[first : first + CHUNK] if t.shape[0] > 1 else t  # noqa: E731
            maps = pick(self._maps)
            k = torch.fft.fftn(maps * x[first : first + CHUNK, None], dim=axes, norm="ortho").mul_(pick(density))
            return torch.fft.ifftn(k, dim=axes, norm="ortho").mul_(maps.conj()).sum(dim=1)

        def apply(x: Tensor) -> Tensor:
            return torch.cat([chunk(x, first) for first in range(0, max(slices, x.shape[0]), CHUNK)])

        return apply

    def _forward(self, x: Tensor) -> Tensor:
        if x.ndim != 3 or x.shape[-2:] != self._maps.shape[-2:]:
            raise ValueError(f"The image must have axes (z y x) and slices {tuple(self._maps.shape[-2:])}.")
        return torch.fft.fft2(self._maps * x[:, None], norm="ortho").mul_(self._mask)

    def _adjoint(self, y: Tensor) -> Tensor:
        if y.ndim != 4 or y.shape[1:] != self._maps.shape[1:]:
            raise ValueError(
                f"The k-space must have axes (z coils y x) with (coils y x) {tuple(self._maps.shape[1:])}."
            )
        images = torch.fft.ifft2(y * self._mask.conj(), norm="ortho")
        return images.mul_(self._maps.conj()).sum(dim=1)


class SoftSense(LinearOperator):
    """y_c = M F sum_m S_mc x_m: several images (sets z y x), one for each set of maps, to one k-space (z coils y x)."""

    def __init__(self, mask: Tensor, sets: tuple[Tensor, ...]) -> None:
        self.parts = tuple(CartesianMri(mask, sensitivities) for sensitivities in sets)

    @property
    def device(self) -> torch.device:
        return self.parts[0].device

    def to(self, device: torch.device | str) -> SoftSense:
        return SoftSense(self.parts[0].mask.to(device), tuple(part.sensitivities.to(device) for part in self.parts))

    def _forward(self, x: Tensor) -> Tensor:
        return sum(part._forward(image) for part, image in zip(self.parts, x, strict=True))

    def _adjoint(self, y: Tensor) -> Tensor:
        return torch.stack([part._adjoint(y) for part in self.parts])
