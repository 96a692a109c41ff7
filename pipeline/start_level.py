"""The noise level that samplers start at: enough to hide what the classical start lacks, found without a truth."""

import torch
from torch import Tensor

from pipeline.seeds import generator

LEAST_SIGMA_INIT, LARGEST_SIGMA_INIT = 0.3, 1.0


def natural_field(shape_yx: tuple[int, int]) -> Tensor:
    """A random slice (1 y x) of unit mean square with the power spectrum of natural images, |k|^-3 for Fourier
    coefficients of one slice's rows and columns; always the same one."""
    ky, kx = (torch.fft.fftfreq(n, 1 / n) for n in shape_yx)
    radius = (ky[:, None] ** 2 + kx[None, :] ** 2).sqrt().clamp_min(1)
    white = torch.randn((1, *shape_yx), generator=generator(0, "field"))
    field = torch.fft.ifft2(torch.fft.fft2(white) * radius**-1.5).real
    return field / field.square().mean().sqrt()


def start_level(field: Tensor, start: Tensor, enough: float) -> float:
    """sigma_init from what the classical start makes of noiseless data of a natural field: more where the geometry sees
    less.

    The level grows with the square of the relative error e of `start`, from its least value where e = `enough`.
    """
    error = float((start - field).abs().square().mean().sqrt())
    return min(max(LEAST_SIGMA_INIT, LEAST_SIGMA_INIT * (error / enough) ** 2), LARGEST_SIGMA_INIT)
