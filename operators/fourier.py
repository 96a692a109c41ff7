"""Centred orthonormal Fourier transform over the last two axes (y x)."""

from __future__ import annotations

import torch
from torch import Tensor

from operators.linear import LinearOperator

_AXES = (-2, -1)


def fft2(x: Tensor) -> Tensor:
    """Image to k-space, zero frequency at index (rows // 2, columns // 2), unitary."""
    shifted = torch.fft.ifftshift(x, dim=_AXES)
    return torch.fft.fftshift(torch.fft.fft2(shifted, dim=_AXES, norm="ortho"), dim=_AXES)


def ifft2(k: Tensor) -> Tensor:
    """k-space to image, the inverse and adjoint of ``fft2``."""
    shifted = torch.fft.ifftshift(k, dim=_AXES)
    return torch.fft.fftshift(torch.fft.ifft2(shifted, dim=_AXES, norm="ortho"), dim=_AXES)


class FourierOp(LinearOperator):
    """``fft2`` as an operator on complex tensors (... y x)."""

    def _forward(self, x: Tensor) -> Tensor:
        return fft2(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return ifft2(y)


def centring_phase(length: int, dtype: torch.dtype = torch.complex128) -> Tensor:
    """exp(2 pi i c n / N) for n = 0..N-1 with c = N // 2.

    With this ramp r and F the plain transform, the centred one is exp(-2 pi i c^2 / N) r * F(r * x): two products in
    place of four rolls.
    """
    centre = length // 2
    turns = torch.arange(length, dtype=torch.int64) * centre % length
    angle = 2 * torch.pi * turns.to(torch.float64) / length
    return torch.polar(torch.ones_like(angle), angle).to(dtype)
