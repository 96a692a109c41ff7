"""Spectral norm, and operators scaled to norm one."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from operators.linear import LinearOperator


@torch.no_grad()
def operator_norm(
    operator: LinearOperator,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    generator: torch.Generator,
    iterations: int = 30,
) -> float:
    """Largest singular value of A: the power method on A^H A from a random start, with Lanczos's acceleration.

    ``shape`` and ``dtype`` are those of x. The iterates v, A^H A v, ... are those of the power method; the value is the
    largest on all of their span (Lanczos 1950), not on the last one alone, and never exceeds |A|. For an operator
    that treats all slices alike one slice is enough: shape (1, y, x). Raises ValueError when A is zero.
    """
    v = torch.randn(shape, dtype=dtype, generator=generator, device=generator.device).to(operator.device)
    v /= torch.linalg.vector_norm(v)
    previous, beta, diagonal, off = torch.zeros_like(v), 0.0, [], []
    for _ in range(iterations):
        image = operator.forward(v)
        alpha = float(torch.linalg.vector_norm(image)) ** 2
        w = operator.adjoint(image) - alpha * v - beta * previous
        beta = float(torch.linalg.vector_norm(w))
        diagonal.append(alpha)
        if not (math.isfinite(alpha) and math.isfinite(beta)) or max(diagonal) == 0.0:
            raise ValueError("The operator maps a random volume to zero or infinity; it cannot be normalised.")
        # beta = 0: the span is invariant and its largest value exact.
        if beta <= 1e-6 * max(diagonal):
            break
        off.append(beta)
        previous, v = v, w / beta
    values = eigh_tridiagonal(diagonal, off[: len(diagonal) - 1], eigvals_only=True)
    return math.sqrt(float(values[-1]))


class Normalised(LinearOperator):
    """A / factor. ``factor`` is kept, so that data in physical units is y_physical / factor here."""

    def __init__(self, operator: LinearOperator, factor: float) -> None:
        if not (math.isfinite(factor) and factor > 0):
            raise ValueError(f"The normalisation factor must be a positive number, not {factor}.")
        self.operator, self.factor = operator, float(factor)

    def _forward(self, x: Tensor) -> Tensor:
        return self.operator._forward(x).div_(self.factor)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.operator._adjoint(y).div_(self.factor)

    def normal(self, weights: Tensor) -> Callable[[Tensor], Tensor]:
        return self.operator.normal(weights / self.factor**2)

    @property
    def device(self) -> torch.device:
        return self.operator.device

    def to(self, device: torch.device | str) -> Normalised:
        return Normalised(self.operator.to(device), self.factor)


def normalise(
    operator: LinearOperator, shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> Normalised:
    """A / |A|, with |A| from ``operator_norm``."""
    return Normalised(operator, operator_norm(operator, shape, dtype, generator))
