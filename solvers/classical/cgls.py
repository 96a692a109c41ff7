"""Weighted least squares, regularised by stopping early."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from solvers.conjugate_gradient import conjugate_gradient
from solvers.problem import Problem
from solvers.settings import require

AIR = -1.0


@dataclass(frozen=True)
class CglsSettings:
    """iterations: of conjugate gradients; the regularisation."""

    iterations: int = 40

    def __post_init__(self) -> None:
        require(self.iterations >= 1, "iterations must be at least 1.")


def cgls(problem: Problem, settings: CglsSettings) -> Tensor:
    """CG on A^H W A x = A^H W y (Hestenes and Stiefel 1952), shape (z y x), from air (CT, u = -1) or from zero (MR)."""
    start = torch.full(problem.shape, 0.0 if problem.dtype.is_complex else AIR, dtype=problem.dtype)
    return conjugate_gradient(problem.normal, problem.backprojection(), start.to(problem.device), settings.iterations)
