"""CG-SENSE (Pruessmann et al. 2001) with Tikhonov regularisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from solvers.conjugate_gradient import conjugate_gradient
from solvers.problem import Problem
from solvers.settings import require


@dataclass(frozen=True)
class CgSenseSettings:
    """weight: lambda in units of 1 / sigma_y^2. iterations, tolerance: of conjugate gradients."""

    weight: float = 0.02
    iterations: int = 50
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        require(self.weight >= 0, "weight must not be negative.")
        require(self.iterations >= 1, "iterations must be at least 1.")


def cg_sense(problem: Problem, settings: CgSenseSettings) -> Tensor:
    """argmin_x |y - A x|^2_W + lambda |x|^2, shape (z y x), by CG from zero."""
    ridge = settings.weight / problem.noise_variance()
    start = torch.zeros(problem.shape, dtype=problem.dtype, device=problem.device)
    return conjugate_gradient(
        lambda x: problem.normal(x) + ridge * x,
        problem.backprojection(),
        start,
        settings.iterations,
        settings.tolerance,
    )
