"""Spectral norm by power iteration, and operators scaled to norm one."""

from __future__ import annotations

import math

import torch
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
    """Largest singular value of A by power iteration on A^H A from a random start.

    ``shape`` and ``dtype`` are those of x. The Rayleigh quotient |A v| / |v| never exceeds |A|. For an operator that
    treats all slices alike a single slice is enough: shape (1, y, x). Raises ValueError when A is zero.
    """
    v = torch.randn(shape, dtype=dtype, generator=generator, device=generator.device).to(operator.device)
    norm = 0.0
    for _ in range(iterations):
        v = v / torch.linalg.vector_norm(v)
        image = operator.forward(v)
        norm = float(torch.linalg.vector_norm(image))
        if norm == 0.0 or not math.isfinite(norm):
            raise ValueError(f"The operator maps a random volume to norm {norm}; it cannot be normalised.")
        v = operator.adjoint(image)
    return norm


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
