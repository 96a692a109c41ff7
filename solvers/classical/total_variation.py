"""Isotropic 3D total variation with a weighted data term, for real (CT) and complex (MR) volumes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from operators.finite_difference import Gradient3D
from solvers.conjugate_gradient import conjugate_gradient
from solvers.draws import Draws
from solvers.problem import Problem
from solvers.settings import require


@dataclass(frozen=True)
class TvSettings:
    """weight: lambda in 1 / image units. iterations: ADMM steps of cg_iterations each. step: threshold lambda / rho."""

    weight: float = 2.0
    iterations: int = 80
    cg_iterations: int = 3
    step: float = 0.06
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        require(self.weight > 0 and self.step > 0, "weight and step must be positive.")
        require(self.iterations >= 1 and self.cg_iterations >= 1, "iterations and cg_iterations must be at least 1.")


def spacing_weights(spacing_mm: tuple[float, float, float]) -> tuple[float, float, float]:
    """Factors of the voxel differences (z, y, x) that make them derivatives by length in units of the pixel (y)."""
    dz, dy, dx = spacing_mm
    return dy / dz, 1.0, dy / dx


def shrink_vectors(v: Tensor, threshold: float) -> Tensor:
    """argmin_d |d - v|^2 / 2 + threshold |d|_2 at every voxel, v (3 z y x); in place."""
    length = vector_length(v)
    return v.mul_((1 - threshold / length.clamp_min_(1e-20)).clamp_min_(0))


def vector_length(v: Tensor) -> Tensor:
    """Euclidean length over the first axis, (3 z y x) -> real (z y x)."""
    parts = torch.view_as_real(v).unbind(-1) if v.is_complex() else (v,)
    total = torch.zeros(v.shape[1:], dtype=v.real.dtype, device=v.device)
    for part in parts:
        for component in part:
            total.addcmul_(component, component)
    return total.sqrt_()


def tv_objective(problem: Problem, x: Tensor, weight: float) -> float:
    """|y - A x|^2_W / 2 + lambda sum_v |(G x)_v|_2."""
    gradient = Gradient3D(spacing_weights(problem.spacing_mm))
    residual = (problem.y - problem.A(x)).abs().square()
    data = 0.5 * (problem.weights * residual).sum(dtype=torch.float64)
    return float(data + weight * vector_length(gradient(x)).sum(dtype=torch.float64))


def total_variation(problem: Problem, settings: TvSettings, callback: Callable[[Tensor], None] | None = None) -> Tensor:
    """argmin_x |y - A x|^2_W / 2 + lambda TV(x), shape (z y x), by over-relaxed ADMM (Boyd et al. 2011, section 3.4.3).

    d = G x with multiplier u; x by preconditioned CG on A^H W A + rho G^T G from the previous x, d by vector shrinkage.
    Stops early when x changes by less than `tolerance` relative. Starts from x_init.
    """
    A, weights = problem.A, problem.weights
    gradient = Gradient3D(spacing_weights(problem.spacing_mm))
    rho = settings.weight / settings.step
    backprojection = problem.backprojection()

    def matvec(v: Tensor) -> Tensor:
        return A.adjoint(weights * A(v)).add_(gradient.adjoint(gradient(v)), alpha=rho)

    precondition = fourier_preconditioner(matvec, problem)
    x = problem.x_init.clone()
    d = gradient(x)
    u = torch.zeros_like(d)
    for _ in range(settings.iterations):
        previous = x
        b = gradient.adjoint(d - u).mul_(rho).add_(backprojection)
        x = conjugate_gradient(matvec, b, x, settings.cg_iterations, 1e-6, precondition)
        v = gradient(x).mul_(RELAXATION).add_(d, alpha=1 - RELAXATION).add_(u)
        d = shrink_vectors(v.clone(), settings.step)
        u = v.sub_(d)
        if callback:
            callback(x)
        if torch.linalg.vector_norm(x - previous) <= settings.tolerance * torch.linalg.vector_norm(x):
            break
    return x


RELAXATION = 1.7


def fourier_preconditioner(matvec: Callable[[Tensor], Tensor], problem: Problem) -> Callable[[Tensor], Tensor]:
    """Approximate inverse of a nearly shift-invariant positive operator: division by its 3D Fourier symbol.

    The symbol is estimated from white noise w as Re <F w, F M w> / |F w|^2, averaged over rings of |k_yx| for
    every |k_z|.
    """
    draws = Draws(0)
    numerator = denominator = 0.0
    for probe in range(2):
        w = draws.normal(problem.shape, problem.dtype, "preconditioner", probe).to(problem.device)
        fw, fm = torch.fft.fftn(w), torch.fft.fftn(matvec(w))
        numerator = numerator + (fw.conj() * fm).real
        denominator = denominator + fw.abs().square()
    symbol = _shell_mean(numerator) / _shell_mean(denominator)
    symbol = symbol.clamp_min(1e-4 * float(symbol.max()))

    def apply(r: Tensor) -> Tensor:
        out = torch.fft.ifftn(torch.fft.fftn(r) / symbol)
        return out if r.is_complex() else out.real

    if problem.dtype.is_complex:
        return apply
    half = symbol[..., : problem.shape[2] // 2 + 1].contiguous()
    return lambda r: torch.fft.irfftn(torch.fft.rfftn(r) / half, s=problem.shape)


def _shell_mean(values: Tensor) -> Tensor:
    """Mean over rings of equal |k_yx| at equal |k_z|, broadcast back to (z y x)."""
    nz, ny, nx = values.shape
    kz = (torch.fft.fftfreq(nz) * nz).round().abs().long()
    ky, kx = torch.fft.fftfreq(ny)[:, None], torch.fft.fftfreq(nx)[None, :]
    rings = ((ky**2 + kx**2).sqrt() * max(ny, nx)).round().long()
    index = (kz[:, None, None] * (int(rings.max()) + 1) + rings).reshape(-1).to(values.device)
    total = torch.zeros(int(index.max()) + 1, device=values.device).index_add_(0, index, values.reshape(-1))
    count = torch.zeros_like(total).index_add_(0, index, torch.ones_like(values).reshape(-1))
    return (total / count.clamp_min(1))[index].reshape(values.shape)
