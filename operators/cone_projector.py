"""Cone-beam projection without a stored matrix: interpolation along rays, and its exact adjoint.

The kernel is Joseph's (1982), bilinear on planes across the ray's main axis, with zero outside the volume. On the CPU
`operators.cone_kernels` computes it, on other devices `operators.cone_torch`, with the same weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Self

import numba
import numpy as np
import torch
from torch import Tensor

from operators import cone_kernels, cone_torch
from operators.cone_geometry import ConeGeometry, VolumeGrid
from operators.ct_projector import available_memory_bytes
from operators.linear import LinearOperator

# Volume axes (main, a, b) for rays whose main axis is z, y, x; `cone_kernels` wants detector rows to run along b.
AXES = ((0, 1, 2), (1, 2, 0), (2, 1, 0))
_COPIES = 4


def voxel_rays(grid: VolumeGrid, beam: ConeGeometry) -> np.ndarray:
    """Rays in voxel indices, float64 (views 4 3), axes (z y x): source, direction to detector pixel (0, 0), and what
    one column and one row add to it. Raises ValueError when a source lies inside the volume."""
    vectors = beam.vectors().reshape(-1, 4, 3)
    step = np.array([1 / grid.slice_mm, -1 / grid.pixel_mm, 1 / grid.pixel_mm])
    source, centre, u, v = (vectors[:, k, ::-1] * step for k in range(4))
    half = (np.array(grid.shape) - 1) / 2
    if (np.abs(source) <= half + 0.5).all(1).any():
        raise ValueError("A source position lies inside the volume; check source_axis_mm and the voxel size.")
    first = centre - source - u * (beam.columns - 1) / 2 - v * (beam.rows - 1) / 2
    return np.stack([source + half, first, u, v], 1)


def plane_steps(grid: VolumeGrid, beam: ConeGeometry, rays: np.ndarray) -> np.ndarray:
    """Length in mm of every ray between two planes of its main axis, float32 (views columns rows)."""
    spacing = np.array(grid.spacing_mm)
    steps = np.empty((beam.views, beam.columns, beam.rows), np.float32)
    column, row = np.arange(beam.columns)[:, None, None], np.arange(beam.rows)[:, None]
    for view, (_, first, u, v) in enumerate(rays):
        e = first + column * u + row * v
        steps[view] = np.sqrt((e * spacing) ** 2 @ np.ones(3)) / np.abs(e).max(-1)
    return steps


def estimate_bytes(grid: VolumeGrid, beam: ConeGeometry) -> int:
    """Bytes that one projection and its adjoint hold at their peak: some float32 volumes and stacks of projections."""
    return 4 * _COPIES * (int(np.prod(grid.shape)) + int(np.prod(beam.shape)))


class ConeProjector(LinearOperator):
    """Line integrals in mm of a volume: x (z y x) -> projections (views rows columns), float32 or float64.

    A ray is the line from the source through a detector pixel's centre. Nothing is stored but the rays' lengths, one
    float32 a ray. Raises ValueError when source positions lie in the volume, or when the volume and its projections
    would not fit in ``memory_limit_bytes`` (default: the memory that is free).
    """

    def __init__(
        self,
        grid: VolumeGrid,
        beam: ConeGeometry,
        device: torch.device | str = "cpu",
        memory_limit_bytes: int | None = None,
    ) -> None:
        limit = available_memory_bytes() if memory_limit_bytes is None else memory_limit_bytes
        needed = estimate_bytes(grid, beam)
        if limit is not None and needed > limit:
            raise ValueError(
                f"A volume of {grid.shape} and {beam.views} projections of {beam.rows}x{beam.columns} need about "
                f"{needed / 1e9:.1f} GB but {limit / 1e9:.1f} GB are free; use fewer views or a smaller working matrix."
            )
        self.grid, self.beam = grid, beam
        self._rays = voxel_rays(grid, beam)
        self._steps = torch.from_numpy(plane_steps(grid, beam, self._rays))
        self._main = _main_axes(self._rays, beam)
        along = np.abs(self._rays[:, 3])
        self._upright = not self._main[0] and not along[:, 1:].any() and bool(along[:, 0].all())
        self._steps = self._steps.to(device)

    @property
    def device(self) -> torch.device:
        return self._steps.device

    def to(self, device: torch.device | str) -> Self:
        """A projector on ``device``; shares what lies there already."""
        other = copy.copy(self)
        other._steps = self._steps.to(device)
        return other

    def _forward(self, x: Tensor) -> Tensor:
        _require(x, self.grid.shape, "volumes")
        if x.device.type != "cpu":
            sums = cone_torch.forward(x, self._rays, AXES, self._steps.shape)
        else:
            sums = torch.from_numpy(self._sums(x.detach().numpy()))
        return (sums * self._steps).movedim(1, 2).contiguous()

    def _adjoint(self, y: Tensor) -> Tensor:
        _require(y, self.beam.shape, "projections")
        values = y.detach().movedim(2, 1) * self._steps
        if y.device.type != "cpu":
            return cone_torch.adjoint(values, self._rays, AXES, self.grid.shape)
        return torch.from_numpy(self._spread(values.numpy()))

    def _sums(self, volume: np.ndarray) -> np.ndarray:
        """Sums over planes (views columns rows) of a volume (z y x), by the CPU's kernels."""
        kernel = cone_kernels.forward_upright if self._upright else cone_kernels.forward_any
        views, columns, rows = self._steps.shape
        sums = np.zeros((views, columns, _whole(rows, self._lanes)), volume.dtype)
        _set_threads()
        for rank, axes, rays in self._ranks():
            padded, inside = self._padded(axes, volume.dtype, 1)
            for row in range(self.grid.rows):
                inside[:, row] = volume[:, row]
            kernel(padded, rays, rank, sums)
        return sums[..., :rows]

    def _spread(self, values: np.ndarray) -> np.ndarray:
        """The transpose of `_sums`."""
        kernel = cone_kernels.adjoint_upright if self._upright else cone_kernels.adjoint_any
        if self._upright:
            values = np.pad(values, ((0, 0), (0, 0), (self._lanes, self._lanes)))
        image = np.zeros(self.grid.shape, values.dtype)
        _set_threads()
        for rank, axes, rays in self._ranks():
            padded, inside = self._padded(axes, image.dtype, self._lanes)
            kernel(values, rays, rank, padded)
            for row in range(self.grid.rows):
                image[:, row] += inside[:, row]
        return image

    def _padded(self, axes: tuple[int, int, int], dtype: np.dtype, lanes: int) -> tuple[np.ndarray, np.ndarray]:
        """A volume of zeros as the kernels want it, (m a b) with b to a multiple of `lanes`, and the view (z y x) of
        what lies inside its padding; row by row is the fast way to copy into it or out of it."""
        planes, width, depth = (self.grid.shape[axis] for axis in axes)
        padded = np.zeros((planes, width + 2, _whole(depth + 2, lanes)), dtype)
        return padded, padded[:, 1:-1, 1 : depth + 1].transpose(np.argsort(axes))

    @property
    def _lanes(self) -> int:
        return cone_kernels.LANES if self._upright else 1

    def _ranks(self) -> Iterator[tuple[int, tuple[int, int, int], np.ndarray]]:
        """Of every main axis that a ray may have: rank, the order of axes (m a b), and the rays in that order."""
        for rank in (2, 1, 0):
            if self._main[rank]:
                yield rank, AXES[rank], np.ascontiguousarray(self._rays[:, :, AXES[rank]])


def _main_axes(rays: np.ndarray, beam: ConeGeometry) -> tuple[bool, bool, bool]:
    """Whether any ray may have z, y, x as its main axis. |e| is convex over the detector: z needs its corners alone."""
    corners = [rays[:, 1] + c * rays[:, 2] + r * rays[:, 3] for c in (0, beam.columns - 1) for r in (0, beam.rows - 1)]
    steepest = max(float(np.abs(e[:, 0]).max()) for e in corners)
    column = np.arange(beam.columns)[None, :, None]
    e = rays[:, None, 1] + column * rays[:, None, 2]
    across = np.abs(e[..., 1:]).max(-1).min() - (beam.rows - 1) * np.abs(rays[:, 3, 1:]).max()
    return bool(steepest > across), True, True


def _whole(count: int, lanes: int) -> int:
    """The next multiple of `lanes`."""
    return -(-count // lanes) * lanes


def _require(tensor: Tensor, shape: tuple[int, int, int], what: str) -> None:
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"The projector takes {what} of shape {tuple(shape)}, not {tuple(tensor.shape)}.")
    if tensor.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"Cone-beam {what} must be float32 or float64, not {tensor.dtype}.")


def _set_threads() -> None:
    """As many threads for the kernels as torch was told to use, which follows OMP_NUM_THREADS.

    numba's first call sets the number that it shares with torch (OpenMP) to that of all cores: torch gets its own back.
    """
    threads = torch.get_num_threads()
    numba.set_num_threads(max(1, min(threads, numba.config.NUMBA_NUM_THREADS)))
    torch.set_num_threads(threads)
