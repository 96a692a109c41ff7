"""Denoisers whose mean is smoothed along z: exact proximal steps of total variation and of squared differences.

Both are the maximum of N(m; h, V) p(m) over the volume m, with h the plain denoised volume, V the mean of its predicted
error variance and p a prior on differences of neighbouring slices with Neumann ends. As V falls with sigma the step
fades out by itself. The predicted variance is left as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.denoised import Denoised
from solvers.wrapped_prior import WrappedPrior

if TYPE_CHECKING:
    from models.prior import SlicePrior


class SmoothedPrior(WrappedPrior):
    """mean = argmin_m |m - h|^2 / 2 + V weight R(Dz m) with V the mean of the inner prior's variance; subclasses give
    the proximal map of R along z."""

    def __init__(self, inner: SlicePrior, weight: float) -> None:
        super().__init__(inner)
        self.weight = weight

    def denoise(
        self, x: Tensor, sigma: float, spacing_mm: tuple[float, float, float], noise_correlation: float = 0.0
    ) -> Denoised:
        """Smoothed mean and plain variance (z y x); differentiable where `inner` is."""
        h, variance = self.inner.denoise(x, sigma, spacing_mm, noise_correlation=noise_correlation)
        return Denoised(self._smooth(h, self.weight * float(variance.mean())), variance)

    def _smooth(self, h: Tensor, weight: float) -> Tensor:
        raise NotImplementedError


class TvSmoothedPrior(SmoothedPrior):
    """R(d) = |d|_1; `weight` in 1 / image units: the inverse of the mean absolute difference of neighbouring slices."""

    def _smooth(self, h: Tensor, weight: float) -> Tensor:
        return tv_prox(h, weight)


class QuadraticSmoothedPrior(SmoothedPrior):
    """R(d) = |d|^2 / 2; `weight` in 1 / image units^2: the inverse variance of neighbouring slices' difference."""

    def _smooth(self, h: Tensor, weight: float) -> Tensor:
        return quadratic_prox(h, weight)


def quadratic_prox(h: Tensor, weight: float) -> Tensor:
    """(I + weight Dz^T Dz)^-1 h by elimination of the tridiagonal system along z, shape (z y x)."""
    count = len(h)
    diagonal = [1 + weight * ((i > 0) + (i < count - 1)) for i in range(count)]
    pivots, right = [diagonal[0]], [h[0]]
    for i in range(1, count):
        pivots.append(diagonal[i] - weight**2 / pivots[-1])
        right.append(h[i] + (weight / pivots[i - 1]) * right[-1])
    solution = [right[-1] / pivots[-1]]
    for i in range(count - 2, -1, -1):
        solution.append((right[i] + weight * solution[-1]) / pivots[i])
    return torch.stack(solution[::-1])


def tv_prox(h: Tensor, weight: float, accuracy: float = 0.01, iterations: int = 1000) -> Tensor:
    """argmin_m |m - h|^2 / 2 + weight |Dz m|_1 for a volume (z y x), real or complex (modulus of differences).

    The dual, min |h - Dz^T p|^2 / 2 over |p| <= weight, is solved by accelerated projected gradients (Beck and Teboulle
    2009, FISTA, with O'Donoghue and Candes' restart) until the duality gap bounds the root mean square error of m by
    accuracy * weight: the primal is strongly convex, |m - m*|^2 <= 2 gap. Where h needs a gradient the Jacobian is that
    of the solution's pieces, the mean along z between saturated p (for complex h without the turning of p).
    """
    if weight <= 0 or len(h) == 1:
        return h
    with torch.no_grad():
        p = _tv_dual(h.detach(), weight, accuracy, iterations)
        m = h.detach() - _adjoint(p)
    if not (torch.is_grad_enabled() and h.requires_grad):
        return m
    pieces = _piece_means(h, p.abs() >= weight * (1 - 1e-6))
    return pieces + (m - pieces.detach())


def _tv_dual(h: Tensor, weight: float, accuracy: float, iterations: int) -> Tensor:
    p = _project(h.diff(dim=0) / 4, weight)
    ahead, momentum = p, 1.0
    target = 0.5 * (accuracy * weight) ** 2 * h.numel()
    for iteration in range(iterations):
        step = _project(ahead + (h - _adjoint(ahead)).diff(dim=0) / 4, weight)
        turned = float(_inner(ahead - step, step - p)) > 0
        following = 1.0 if turned else (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = step if turned else step + ((momentum - 1) / following) * (step - p)
        p, momentum = step, following
        if iteration % 5 == 4:
            slopes = (h - _adjoint(p)).diff(dim=0)
            if float(weight * slopes.abs().sum(dtype=torch.float64) - _inner(p, slopes)) <= target:
                break
    return p


def _project(p: Tensor, weight: float) -> Tensor:
    if p.is_complex():
        return p * (weight / p.abs().clamp_min(weight))
    return p.clamp(-weight, weight)


def _adjoint(p: Tensor) -> Tensor:
    zero = torch.zeros_like(p[:1])
    return torch.cat([zero, p]) - torch.cat([p, zero])


def _inner(a: Tensor, b: Tensor) -> Tensor:
    products = torch.view_as_real(a) * torch.view_as_real(b) if a.is_complex() else a * b
    return products.sum(dtype=torch.float64)


def _piece_means(h: Tensor, jumps: Tensor) -> Tensor:
    """Mean of h (z y x) along z over pieces that end where jumps (z-1 y x) is true."""
    piece = torch.cat([torch.zeros_like(jumps[:1], dtype=torch.long), jumps.cumsum(0)])
    sums = torch.zeros_like(h).scatter_add(0, piece, h)
    sizes = torch.zeros_like(h.real).scatter_add(0, piece, torch.ones_like(h.real))
    return (sums / sizes.clamp_min(1)).gather(0, piece)
