"""The inverse problem every solver and baseline takes: y = A x + n with known noise covariance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from operators.linear import LinearOperator


@dataclass(frozen=True, eq=False)
class Problem:
    """Linear inverse problem in normalised units (|A| = 1, image in prior units).

    A           whole-volume operator, (z y x) -> data
    y           measured data, zero where nothing was measured
    weights     inverse noise variance per real component, broadcastable to y; zero where nothing was measured
    x_init      (z y x) classical reconstruction the samplers start from
    sigma_init  standard deviation per real component of the noise added to x_init at the first level
    spacing_mm  voxel spacing (z, y, x)
    shape       (z, y, x); taken from x_init when not given
    dtype       torch.float32 (CT) or torch.complex64 (MR); taken from x_init when not given
    geometry    what analytic reconstruction needs to know about the scanner (CT: grid and beam), or None; "slicewise":
                False where A couples the slices, as cone beams do, and y is (views rows columns)

    Raises ValueError when the parts do not fit together.
    """

    A: LinearOperator
    y: Tensor
    weights: Tensor
    x_init: Tensor
    sigma_init: float
    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int] | None = None
    dtype: torch.dtype | None = None
    geometry: Any = None

    def __post_init__(self) -> None:
        shape = tuple(self.x_init.shape)
        if len(shape) != 3 or (self.shape is not None and tuple(self.shape) != shape):
            raise ValueError(f"x_init has shape {shape}, expected (z, y, x) = {self.shape}")
        if self.dtype is not None and self.dtype != self.x_init.dtype:
            raise ValueError(f"x_init is {self.x_init.dtype}, expected {self.dtype}")
        if self.weights.is_complex() or bool((self.weights < 0).any()):
            raise ValueError("weights must be real and not negative")
        if torch.broadcast_shapes(self.weights.shape, self.y.shape) != self.y.shape:
            raise ValueError(f"weights {tuple(self.weights.shape)} do not broadcast to y {tuple(self.y.shape)}")
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "dtype", self.x_init.dtype)
        object.__setattr__(self, "spacing_mm", tuple(float(s) for s in self.spacing_mm))

    @property
    def device(self) -> torch.device:
        return self.x_init.device

    @property
    def slicewise(self) -> bool:
        """Whether A treats every slice by itself and z is the first axis of y."""
        return not isinstance(self.geometry, dict) or bool(self.geometry.get("slicewise", True))

    def normal(self, x: Tensor) -> Tensor:
        """A^H W A x, shape (z y x)."""
        return self._normal(x)

    @cached_property
    def _normal(self) -> Callable[[Tensor], Tensor]:
        return self.A.normal(self.weights)

    def backprojection(self) -> Tensor:
        """A^H W y, shape (z y x)."""
        return self.A.adjoint(self.weights * self.y)

    def noise_variance(self) -> float:
        """sigma_y^2: harmonic mean of the noise variance over measured samples, per real component.

        Dimensionless step sizes (gamma, lambda) of published methods multiply sigma_y^2 W, which is 1 for white noise.
        """
        measured = self.weights[self.weights > 0]
        if measured.numel() == 0:
            raise ValueError("no measured samples: all weights are zero")
        return 1.0 / float(measured.double().mean())

    def chi2(self, x: Tensor) -> float:
        """Mean of W |y - A x|^2 over measured samples and real components; 1 when x explains y down to the noise."""
        residual = (self.y - self.A.forward(x)).abs().square()
        measured = int((self.weights > 0).expand(self.y.shape).sum())
        components = 2 if self.y.is_complex() else 1
        return float((self.weights * residual).sum(dtype=torch.float64)) / (components * max(measured, 1))

    def to(self, device: torch.device | str) -> Problem:
        """The same problem with operator and tensors on `device`."""
        return replace(
            self,
            A=self.A.to(device),
            y=self.y.to(device),
            weights=self.weights.to(device),
            x_init=self.x_init.to(device),
        )
