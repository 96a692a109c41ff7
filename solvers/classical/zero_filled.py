"""Zero-filled MR reconstruction."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from solvers.problem import Problem


@dataclass(frozen=True)
class ZeroFilledSettings:
    """Nothing to set."""


def zero_filled(problem: Problem, settings: ZeroFilledSettings) -> Tensor:
    """Coil-combined inverse transform of k-space with zeros where nothing was measured, shape (z y x).

    With E = |E| A the unnormalised encoding and sum |S|^2 = 1 this is E^H (E x): |E|^2 A^H y.
    """
    return problem.A.adjoint(problem.y) * getattr(problem.A, "factor", 1.0) ** 2
