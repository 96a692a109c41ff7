"""Forward differences with Neumann ends: the difference of a constant is zero, nothing wraps around."""

from __future__ import annotations

from torch import Tensor

from operators.linear import LinearOperator


class SliceDifference(LinearOperator):
    """(D x)_k = x_{k+1} - x_k along z: (z y x) -> (z-1 y x). |D|^2 < 4."""

    def _forward(self, x: Tensor) -> Tensor:
        return x[1:] - x[:-1]

    def _adjoint(self, y: Tensor) -> Tensor:
        x = y.new_zeros((y.shape[0] + 1, *y.shape[1:]))
        x[1:] += y
        x[:-1] -= y
        return x


class Gradient3D(LinearOperator):
    """Forward differences along z, y and x: (z y x) -> (3 z y x); zero at the last voxel of each axis. |D|^2 < 12.

    ``weights`` multiply the three differences, for example (pixel_mm / slice_mm, 1, 1) for derivatives by mm.
    """

    def __init__(self, weights: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> None:
        self.weights = tuple(float(w) for w in weights)

    def _forward(self, x: Tensor) -> Tensor:
        out = x.new_zeros((3, *x.shape))
        for axis, weight in enumerate(self.weights):
            length = x.shape[axis] - 1
            difference = x.narrow(axis, 1, length) - x.narrow(axis, 0, length)
            out[axis].narrow(axis, 0, length).copy_(difference * weight)
        return out

    def _adjoint(self, y: Tensor) -> Tensor:
        x = y.new_zeros(y.shape[1:])
        for axis, weight in enumerate(self.weights):
            length = x.shape[axis] - 1
            inner = y[axis].narrow(axis, 0, length) * weight
            x.narrow(axis, 1, length).add_(inner)
            x.narrow(axis, 0, length).sub_(inner)
        return x
