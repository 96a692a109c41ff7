"""The correction that every solver here shares: denoised volume in, volume that also fits the data out.

The denoiser's error is modelled as Gaussian, x = h + S v with v ~ N(0, I) and S = diag(r) L_z L_y L_x: standard
deviation r for every voxel, AR(1) correlation along each axis (L L^H has entries c^|i-j|). A share b of the variance
may reach further, S = diag(r) [sqrt(1-b) L_z L_y L_x, sqrt(b) B_z B_y B_x]: what was not measured, as the missing wedge
of limited angles, is wrong over many voxels at once. With the data y = A x + n, cov(n) = W^-1, the posterior of v has
precision M = I + S^H A^H W A S, and x = h + S v is

    argmin_x (x-h)^H (S S^H)^-1 (x-h) / 2 + |y - A x|^2_W / 2          (its mode), or a draw from N(mode, S M^-1 S^H).

Written in v the system's eigenvalues are at least 1 and unmeasured directions sit exactly at 1, which is the
preconditioning that conjugate gradients need for perturbed right-hand sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from solvers.conjugate_gradient import conjugate_gradient
from solvers.draws import Draws
from solvers.problem import Problem
from solvers.slice_coupling import ar1_draw, ar1_draw_adjoint, coupling_coefficient

Lags = tuple[float, float, float]


@dataclass(frozen=True)
class ErrorModel:
    """Covariance factor S of the denoiser's error: `r` (z y x) standard deviation, `correlation` lag-1 along (z, y, x)
    and `broad_correlation` that of the share `broad_share` of the variance."""

    r: Tensor
    correlation: Lags = (0.0, 0.0, 0.0)
    broad_share: float = 0.0
    broad_correlation: Lags = (0.0, 0.0, 0.0)

    def parts(self) -> list[tuple[float, Lags]]:
        """(weight, lag-1 correlation) of the independent parts of the error; the squared weights add up to 1."""
        if self.broad_share == 0:
            return [(1.0, self.correlation)]
        return [((1 - self.broad_share) ** 0.5, self.correlation), (self.broad_share**0.5, self.broad_correlation)]

    def latent_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape (part z y x) of v for volumes of `shape` (z y x)."""
        return (len(self.parts()), *shape)

    def factor(self, v: Tensor) -> Tensor:
        """S v, (part z y x) to (z y x)."""
        return self.r * sum(weight * _correlate(part, c) for part, (weight, c) in zip(v, self.parts(), strict=True))

    def factor_adjoint(self, x: Tensor) -> Tensor:
        """S^H x, (z y x) to (part z y x)."""
        x = self.r * x
        return torch.stack([weight * _correlate_adjoint(x, c) for weight, c in self.parts()])


def _correlate(v: Tensor, correlation: Lags) -> Tensor:
    for axis, c in enumerate(correlation):
        if c > 0:
            v = ar1_draw(v.movedim(axis, 0), c).movedim(0, axis)
    return v


def _correlate_adjoint(x: Tensor, correlation: Lags) -> Tensor:
    for axis, c in reversed(list(enumerate(correlation))):
        if c > 0:
            x = ar1_draw_adjoint(x.movedim(axis, 0), c).movedim(0, axis)
    return x


def error_correlation(
    problem: Problem,
    card: dict[str, Any],
    purpose: str,
    length_mm: float | None = None,
    pixels: float | None = None,
    broad_share: float | None = None,
) -> tuple[Lags, float, Lags]:
    """What an ErrorModel is made of beside r: correlation, broad_share, broad_correlation.

    What is null is the `error` of the prior's card for the purpose ("point" or "sample"), white without one; the
    lengths of the broad share are the card's. On pixels finer than the training's these lengths keep their size in mm.
    """
    error = card.get("error", {}).get(purpose, {})
    finer = max(card.get("pixel_mm", (0.0,))[0] / problem.spacing_mm[2], 1.0)

    def lags(length_mm: float, pixels: float) -> Lags:
        in_slice = coupling_coefficient(1.0, pixels)
        return coupling_coefficient(problem.spacing_mm[0], length_mm), in_slice, in_slice

    near = lags(
        error.get("length_mm", 0.0) if length_mm is None else length_mm,
        finer * error.get("pixels", 0.0) if pixels is None else pixels,
    )
    share = error.get("broad_share", 0.0) if broad_share is None else broad_share
    return near, share, lags(error.get("broad_length_mm", 0.0), finer * error.get("broad_pixels", 0.0))


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
        b = b + draws.normal(error.latent_shape(h.shape), h.dtype, *tags, "prior").to(h.device)
    v = conjugate_gradient(precision, b, torch.zeros_like(b), iterations, tolerance)
    return h + error.factor(v)
