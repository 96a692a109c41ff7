"""Cone-beam projection by ASTRA's CUDA kernels, on torch's own memory.

ASTRA's forward kernel interpolates on planes as ours does, but with the texture unit's 8-bit fractions and one main
axis a view; its back-projection interpolates on the detector at every voxel. The two are therefore no exact adjoints:
samplers that need A^H itself should keep `ConeProjector`, whose adjoint is exact on every device.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import astra
import astra.experimental
import numpy as np
import torch
from torch import Tensor

from operators.cone_geometry import ConeGeometry, VolumeGrid
from operators.cone_projector import ConeProjector


def astra_cuda_available() -> bool:
    """Whether ASTRA and torch both reach a CUDA device; ASTRA's 3D calls end the process where there is none."""
    return torch.cuda.is_available() and bool(astra.use_cuda())


def astra_geometries(grid: VolumeGrid, beam: ConeGeometry) -> tuple[dict, dict]:
    """ASTRA's volume and cone_vec geometry in mm.

    In three dimensions ASTRA's rows run along +y, ours along -y, so that the scanner is mirrored instead of the volume.
    """
    half = [n * step / 2 for n, step in zip(grid.shape, grid.spacing_mm, strict=True)]
    window = (-half[2], half[2], -half[1], half[1], -half[0], half[0])
    volume = astra.create_vol_geom(grid.rows, grid.columns, grid.slices, *window)
    mirror = np.tile([1.0, -1.0, 1.0], 4)
    return volume, astra.create_proj_geom("cone_vec", beam.rows, beam.columns, beam.vectors() * mirror)


class _Projector:
    """ASTRA's projector object; released with the last operator that uses it."""

    def __init__(self, grid: VolumeGrid, beam: ConeGeometry) -> None:
        volume, projections = astra_geometries(grid, beam)
        self.id = astra.create_projector("cuda3d", projections, volume)

    def __del__(self) -> None:
        astra.projector3d.delete(self.id)


class AstraConeProjector(ConeProjector):
    """Line integrals in mm by ASTRA on a CUDA device, float32 alone; on the CPU the same as ``ConeProjector``.

    x (z y x) -> projections (views rows columns). ASTRA reads and writes torch's memory; its own order of projections
    is (rows views columns), so that what `forward` returns is a view with permuted strides.
    """

    @cached_property
    def _astra(self) -> _Projector:
        return _Projector(self.grid, self.beam)

    def _forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cuda" or x.dtype != torch.float32:
            return super()._forward(x)
        projections = x.new_zeros((self.beam.rows, self.beam.views, self.beam.columns))
        self._run(astra.experimental.direct_FP3D, x.detach().contiguous(), projections)
        return projections.movedim(1, 0)

    def _adjoint(self, y: Tensor) -> Tensor:
        if y.device.type != "cuda" or y.dtype != torch.float32:
            return super()._adjoint(y)
        volume = y.new_zeros(self.grid.shape)
        self._run(astra.experimental.direct_BP3D, volume, y.detach().movedim(1, 0).contiguous())
        return volume

    def _run(self, call: Callable[[int, Tensor, Tensor], None], volume: Tensor, projections: Tensor) -> None:
        """ASTRA works on streams of its own: torch's work before and after it is waited for."""
        if not astra_cuda_available():
            raise RuntimeError("ASTRA finds no CUDA device though torch does; use ConeProjector.")
        torch.cuda.synchronize(volume.device)
        astra.set_gpu_index(volume.device.index or 0)
        call(self._astra.id, volume, projections)
        torch.cuda.synchronize(volume.device)
