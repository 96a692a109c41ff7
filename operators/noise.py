"""Measurement noise and the inverse-variance weights that belong to it."""

from __future__ import annotations

import torch
from torch import Tensor


def poisson_line_integrals(p: Tensor, photons: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Line integrals from photon counts: N ~ Poisson(photons exp(-p)), p_noisy = ln(photons / N).

    ``photons`` is the mean count of an unattenuated ray. Returns (p_noisy, weights), both like p; weights = N estimates
    1 / var(p_noisy), since var(ln N) = 1 / E[N] to first order (Sauer and Bouman 1993). A ray without any count is
    read as one count. Raises ValueError unless photons > 0.
    """
    if not photons > 0:
        raise ValueError(f"The photon count must be positive, not {photons}.")
    rate = photons * torch.exp(-p.detach().to(generator.device, torch.float64))
    counts = torch.poisson(rate, generator=generator).clamp_(min=1.0)
    noisy = torch.log(photons / counts)
    return noisy.to(p.device, p.dtype), counts.to(p.device, p.dtype)


def photons_for_relative_noise(p: Tensor, fraction: float) -> float:
    """Photon count at which the rms noise of p is ``fraction`` of its largest value.

    From var(p) = exp(p) / photons: photons = mean(exp(p)) / (fraction max(p))^2. First order in the noise: it holds
    where even the darkest ray keeps some ten counts.
    """
    largest = float(p.max())
    if not (fraction > 0 and largest > 0):
        raise ValueError("Relative noise needs a positive fraction and line integrals with a positive maximum.")
    return float(torch.exp(p.double()).mean()) / (fraction * largest) ** 2


def gaussian_noise(
    y: Tensor, sigma: float, generator: torch.Generator, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """y plus white noise of standard deviation ``sigma`` (of each of real and imaginary part when y is complex).

    ``mask`` (broadcastable to y) limits the noise to measured samples. Returns (noisy, weights): weights are real,
    broadcast to y, 1 / sigma^2 where measured and 0 elsewhere.
    """
    if not sigma > 0:
        raise ValueError(f"The noise standard deviation must be positive, not {sigma}.")
    white = torch.randn(
        (*y.shape, 2) if y.is_complex() else y.shape,
        dtype=y.real.dtype,
        generator=generator,
        device=generator.device,
    )
    noise = sigma * (torch.view_as_complex(white) if y.is_complex() else white).to(y.device)
    measured = torch.ones((1,) * y.ndim, device=y.device) if mask is None else mask
    return y + noise * measured, measured.to(y.real.dtype) / sigma**2
