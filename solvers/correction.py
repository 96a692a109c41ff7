"""The correction that every solver here shares: denoised volume in, volume that also fits the data out.

The denoiser's error is modelled as Gaussian, x = h + S v with v ~ N(0, I) and S = diag(r) L_z L_y L_x: standard
deviation r for every voxel, AR(1) correlation along each axis (L L^H has entries c^|i-j|). With the data y = A x + n,
cov(n) = W^-1, the posterior of v has precision M = I + S^H A^H W A S, and x = h + S v is

    argmin_x (x-h)^H (S S^H)^-1 (x-h) / 2 + |y - A x|^2_W / 2          (its mode), or a draw from N(mode, S M^-1 S^H).

Written in v the system's eigenvalues are at least 1 and unmeasured directions sit exactly at 1, which is the
preconditioning that conjugate gradients need for perturbed right-hand sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from solvers.conjugate_gradient import conjugate_gradient
from solvers.draws import Draws
from solvers.problem import Problem
from solvers.slice_coupling import ar1_draw, ar1_draw_adjoint, coupling_coefficient

if TYPE_CHECKING:
    from models.prior import SlicePrior


@dataclass(frozen=True)
class ErrorModel:
    """Covariance factor S of the denoiser's error: `r` (z y x) standard deviation, `correlation` lag-1 along (z, y,
    x)."""

    r: Tensor
    correlation: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def factor(self, v: Tensor) -> Tensor:
        """S v."""
        for axis, c in enumerate(self.correlation):
            if c > 0:
                v = ar1_draw(v.movedim(axis, 0), c).movedim(0, axis)
        return self.r * v

    def factor_adjoint(self, x: Tensor) -> Tensor:
        """S^H x."""
        x = self.r * x
        for axis, c in reversed(list(enumerate(self.correlation))):
            if c > 0:
                x = ar1_draw_adjoint(x.movedim(axis, 0), c).movedim(0, axis)
        return x


def error_correlation(
    problem: Problem, prior: SlicePrior, purpose: str, length_mm: float | None, pixels: float | None
) -> tuple[float, float, float]:
    """Lag-1 correlation (z, y, x) of the denoiser's error; what is null is the card's `error` for the purpose ("point"
    or "sample"), white without one."""
    card = prior.card.get("error", {}).get(purpose, {})
    length_mm = card.get("length_mm", 0.0) if length_mm is None else length_mm
    pixels = card.get("pixels", 0.0) if pixels is None else pixels
    in_slice = coupling_coefficient(1.0, pixels)
    return coupling_coefficient(problem.spacing_mm[0], length_mm), in_slice, in_slice


def correct(
    problem: Problem,
    h: Tensor,
    error: ErrorModel,
    iterations: int = 30,
    tolerance: float = 1e-3,
    draws: Draws | None = None,
    tags: tuple[int | str, ...] = (),
) -> Tensor:
    """Volume (z y x) nearest to the data given the denoised volume `h`: the mode, or with `draws` a posterior draw.

    Perturb-and-MAP (Papandreou and Yuille 2010): adding xi_1 + S^H A^H W^(1/2) xi_2 with unit Gaussian xi to the
    right-hand side turns the solution into an exact draw from N(mode, S M^-1 S^H).
    """
    A, weights = problem.A, problem.weights

    def precision(v: Tensor) -> Tensor:
        return v + error.factor_adjoint(problem.normal(error.factor(v)))

    right = weights * (problem.y - A(h))
    if draws is not None:
        right = right + torch.as_tensor(weights).sqrt() * draws.normal(right.shape, right.dtype, *tags, "data").to(
            right.device
        )
    b = error.factor_adjoint(A.adjoint(right))
    if draws is not None:
        b = b + draws.normal(h.shape, h.dtype, *tags, "prior").to(h.device)
    v = conjugate_gradient(precision, b, torch.zeros_like(b), iterations, tolerance)
    return h + error.factor(v)
