"""What a normalised volume means in physical units, and data kept from the reconstruction to test it."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from operators.linear import LinearOperator


@dataclass(frozen=True)
class HeldOut:
    """Measured samples that the reconstruction does not see, in normalised units.

    weights: inverse variance per real component, broadcastable to y, zero where nothing was measured.
    """

    A: LinearOperator
    y: Tensor
    weights: Tensor

    def error(self, x: Tensor) -> float:
        """|y - A x| / |y| over the samples kept back, for a volume (z y x) in normalised units."""
        seen = self.weights > 0
        return float(torch.linalg.vector_norm((self.y - self.A(x)) * seen) / torch.linalg.vector_norm(self.y * seen))

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        return replace(self, A=self.A.to(device), y=self.y.to(device), weights=self.weights.to(device))


@dataclass(frozen=True)
class Units:
    """How a normalised volume becomes a physical one, and where it lies. `scale`: physical over normalised."""

    modality: str
    scale: float
    affine: np.ndarray
    name: str
    heldout: HeldOut | None = None

    def to_physical(self, x: Tensor) -> np.ndarray:
        """(z y x) float32: HU for CT, magnitude in the scanner's units for MR."""
        values = x.abs() if x.is_complex() else x
        return (self.scale * values).detach().cpu().numpy().astype(np.float32)
