"""Statistical and variational coupling of neighbouring slices. All tensors are (z ...), recursions run along z.

AR(1) noise: n_0 = w_0, n_i = c n_{i-1} + sqrt(1 - c^2) w_i for white w, written n = L w. Every slice is exactly
N(0, I), slices i and j have correlation c^|i-j|, c = exp(-dz / length).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def coupling_coefficient(slice_spacing_mm: float, length_mm: float) -> float:
    """Lag-one correlation c = exp(-dz / length); 0 when length_mm is 0 (independent slices)."""
    if slice_spacing_mm <= 0 or length_mm < 0:
        raise ValueError(f"need spacing > 0 and length >= 0, got {slice_spacing_mm} and {length_mm} mm")
    return math.exp(-slice_spacing_mm / length_mm) if length_mm > 0 else 0.0


def _innovation(c: float) -> float:
    if not 0 <= c < 1:
        raise ValueError(f"AR(1) coefficient must lie in [0, 1), got {c}")
    return math.sqrt(1 - c * c)


def ar1_draw(white: Tensor, c: float) -> Tensor:
    """L w: AR(1) noise along the first axis with unit marginal variance from white noise (z ...)."""
    s = _innovation(c)
    if c == 0:
        return white.clone()
    noise = white * s
    noise[0] = white[0]
    for i in range(1, len(noise)):
        noise[i].add_(noise[i - 1], alpha=c)
    return noise


def ar1_draw_adjoint(v: Tensor, c: float) -> Tensor:
    """L^T v, shape (z ...)."""
    s = _innovation(c)
    out = v.clone()
    if c == 0:
        return out
    for i in range(len(out) - 2, -1, -1):
        out[i].add_(out[i + 1], alpha=c)
    out[1:] *= s
    return out


def ar1_solve(noise: Tensor, c: float) -> Tensor:
    """L^-1 n: the white innovations of AR(1) noise (z ...)."""
    s = _innovation(c)
    white = noise.clone()
    white[1:] = (noise[1:] - c * noise[:-1]) / s
    return white


def ar1_solve_adjoint(v: Tensor, c: float) -> Tensor:
    """L^-T v, shape (z ...)."""
    s = _innovation(c)
    scaled = v / s
    scaled[0] = v[0]
    out = scaled.clone()
    out[:-1] -= c * scaled[1:]
    return out


def ar1_precision(x: Tensor, c: float) -> Tensor:
    """C^-1 x = L^-T L^-1 x, tridiagonal, shape (z ...).

    Row i: ((1 + c^2) x_i - c x_{i-1} - c x_{i+1}) / (1 - c^2), with diagonal 1 instead of 1 + c^2 at both ends.
    """
    s2 = _innovation(c) ** 2
    if len(x) == 1 or c == 0:
        return x.clone()
    out = x * (1 + c * c)
    out[0] = x[0]
    out[-1] = x[-1]
    out[1:].sub_(x[:-1], alpha=c)
    out[:-1].sub_(x[1:], alpha=c)
    return out.div_(s2)


def soft_threshold(v: Tensor, threshold: float) -> Tensor:
    """argmin_d |d - v|^2 / 2 + threshold |d|, elementwise; for complex v the modulus is shrunk and the phase kept."""
    if v.is_complex():
        modulus = v.abs()
        return v * ((modulus - threshold).clamp_min(0) / modulus.clamp_min(torch.finfo(modulus.dtype).tiny))
    return v.sign() * (v.abs() - threshold).clamp_min(0)
