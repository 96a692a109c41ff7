"""Isotropic 3D total variation with a weighted data term, for real (CT) and complex (MR) volumes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from operators.finite_difference import Gradient3D
from solvers.conjugate_gradient import conjugate_gradient
from solvers.draws import Draws
from solvers.problem import Problem
from solvers.settings import require

RELAXATION = 1.7
PROBE_SLICES = 32


@dataclass(frozen=True)
class TvSettings:
    """weight: lambda in 1 / image units. iterations: ADMM steps, each of cg_iterations. step: threshold lambda / rho in
    image units. tolerance: relative change of x at which to stop. Null: by modality, as
    the bench's target `tune` found on training patients.
    """

    weight: float | None = None
    iterations: int = 80
    cg_iterations: int | None = None
    step: float | None = None
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        require(all(v is None or v > 0 for v in (self.weight, self.step)), "weight and step must be positive.")
        require(self.iterations >= 1 and self.cg_iterations != 0, "iterations and cg_iterations must be at least 1.")


DEFAULTS = {
    "ct": {"weight": 2.0, "cg_iterations": 6, "step": 0.02},
    "mr": {"weight": 20.0, "cg_iterations": 7, "step": 0.06},
}


def completed(settings: TvSettings, problem: Problem) -> TvSettings:
    """The settings with the modality's values in place of null."""
    defaults = DEFAULTS["mr" if problem.dtype.is_complex else "ct"]
    return replace(settings, **{key: value for key, value in defaults.items() if getattr(settings, key) is None})


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
    settings = completed(settings, problem)
    gradient = Gradient3D(spacing_weights(problem.spacing_mm))
    rho = settings.weight / settings.step
    backprojection = problem.backprojection()

    def matvec(v: Tensor) -> Tensor:
        return problem.normal(v).add_(gradient.adjoint(gradient(v)), alpha=rho)

    precondition = fourier_preconditioner(problem, rho)
    x = problem.x_init.clone()
    v = gradient(x)
    d = shrink_vectors(v.clone(), settings.step)
    u = v.sub_(d)
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


def fourier_preconditioner(problem: Problem, rho: float) -> Callable[[Tensor], Tensor]:
    """Approximate inverse of A^H W A + rho G^T G: division by its 3D Fourier symbol with periodic ends.

    A works slice by slice, so its symbol s(k_y, k_x) is the mean over slices of Re(conj(F w) F A^H W A w) / |F w|^2 for
    white noise w; that of G^T G is the sum over axes of weight^2 (2 - 2 cos k).
    """
    shape, draws = problem.shape, Draws(0)
    numerator = denominator = 0.0
    for probe in range(math.ceil(PROBE_SLICES / shape[0])):
        w = draws.normal(shape, problem.dtype, "preconditioner", probe).to(problem.device)
        fw, fm = torch.fft.fft2(w), torch.fft.fft2(problem.normal(w))
        numerator = numerator + (fw.conj() * fm).real.sum(0)
        denominator = denominator + fw.abs().square().sum(0)
    symbol = (numerator / denominator).clamp_min(0) + rho * _gradient_symbol(problem)
    symbol = symbol.clamp_min(1e-4 * float(symbol.max()))
    if problem.dtype.is_complex:
        return lambda r: torch.fft.ifftn(torch.fft.fftn(r).div_(symbol))
    half = symbol[..., : shape[2] // 2 + 1].contiguous()
    return lambda r: torch.fft.irfftn(torch.fft.rfftn(r).div_(half), s=shape)


def _gradient_symbol(problem: Problem) -> Tensor:
    """sum_a weight_a^2 (2 - 2 cos k_a), shape (z y x)."""
    total = torch.zeros(1, 1, 1, device=problem.device)
    for axis, (length, weight) in enumerate(zip(problem.shape, spacing_weights(problem.spacing_mm), strict=True)):
        k = 2 * torch.pi * torch.fft.fftfreq(length, device=problem.device)
        view = [1, 1, 1]
        view[axis] = length
        total = total + (weight**2 * (2 - 2 * torch.cos(k))).reshape(view)
    return total
