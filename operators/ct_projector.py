"""Slice-wise CT projection: ASTRA's exact system matrix and its transpose as CSR, applied to all slices at once.

The same matrices serve CPU and CUDA. ASTRA's direct GPU calls are not used: their back-projection is not the exact
transpose of their projection.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import astra
import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from operators.ct_geometry import Beam, FanBeam, ImageGrid, VectorBeam, is_fan
from operators.linear import LinearOperator

MODELS = ("linear", "line", "strip")
_ASTRA_NAMES = {
    ("parallel", "linear"): "linear",
    ("parallel", "line"): "line",
    ("parallel", "strip"): "strip",
    # ASTRA has no interpolating kernel for the fan beam on CPU.
    ("fan", "linear"): "line_fanflat",
    ("fan", "line"): "line_fanflat",
    ("fan", "strip"): "strip_fanflat",
}
_BYTES_PER_ENTRY = 8  # float32 value and int32 column
_VIEWS_PER_BLOCK = 16
# Columns of one sparse-dense product: a row of the dense factor is then two cache lines.
_SLICES_PER_PRODUCT = 32


def _kernel(beam: Beam, model: str) -> str:
    if model not in MODELS:
        raise ValueError(f"Unknown projection model {model!r}; it must be one of {', '.join(MODELS)}.")
    if is_fan(beam) and model == "strip" and _needs_vectors(beam):
        raise ValueError("ASTRA has no strip kernel for a fan beam with an offset or vectors; use the model 'line'.")
    return _ASTRA_NAMES["fan" if is_fan(beam) else "parallel", model]


def _needs_vectors(beam: Beam) -> bool:
    return isinstance(beam, VectorBeam) or beam.offset_mm != 0


def _estimate_entries(grid: ImageGrid, beam: Beam, model: str) -> int:
    """Upper estimate of the non-zeros: pixels x views x (mean hits a pixel receives), never above hits a ray x rays.

    A pixel of width w meets (|cos|+|sin|) w/b rays of spacing b (line), 2 max(|cos|,|sin|) w/b samples (linear) or
    overlaps (|cos|+|sin|) w/b + 1 strips; the mean of |cos|+|sin| is 1.27, that of max(|cos|,|sin|) 0.90.
    """
    views, pixels = beam.views, grid.rows * grid.columns
    kernel, ratio = _kernel(beam, model), grid.pixel_mm / beam.bin_mm
    if is_fan(beam):
        radius = grid.diagonal_mm / 2
        source_mm = float(np.hypot(*beam.vectors()[:, :2].T).min())
        ratio *= beam.magnification
        # The mean local magnification over a disc of radius R exceeds that at the axis by 1/(1-(R/D)^2) at most.
        ratio /= max(1 - (radius / source_mm) ** 2, 0.25)
    hits = {"linear": 1.80 * ratio, "line": 1.30 * ratio, "strip": 1.30 * ratio + 1}[kernel.split("_")[0]]
    ray_limit = {"linear": 2.0, "line": 2.0, "strip": 2.0 * (2 + 1 / ratio)}[kernel.split("_")[0]]
    rays = views * beam.bins
    return int(min(1.1 * hits * pixels * views, ray_limit * max(grid.rows, grid.columns) * rays))


def estimate_matrix_bytes(grid: ImageGrid, beam: Beam, model: str = "linear") -> int:
    """Bytes that building and holding the matrix and its transpose takes at its peak, estimated from above."""
    entries = _estimate_entries(grid, beam, model)
    # A and A^T stay; the blocks of A, or the conversion to A^T, come on top while building.
    return 3 * _BYTES_PER_ENTRY * entries + 8 * (grid.rows * grid.columns + beam.views * beam.bins)


def available_memory_bytes() -> int | None:
    """Memory the machine can still give (Linux MemAvailable), or None where that is not known."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(fields["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in fields else None


def require_memory(grid: ImageGrid, beam: Beam, model: str = "linear", limit_bytes: int | None = None) -> None:
    """Raise ValueError when the matrix would need more than ``limit_bytes`` (default: what the machine can give)."""
    limit = available_memory_bytes() if limit_bytes is None else limit_bytes
    needed = estimate_matrix_bytes(grid, beam, model)
    if limit is not None and needed > limit:
        raise ValueError(
            f"{beam.views} views of {beam.bins} bins on a {grid.rows}x{grid.columns} grid need about "
            f"{needed / 1e9:.1f} GB for the projection matrix but {limit / 1e9:.1f} GB are free; "
            "use fewer views or a smaller working matrix."
        )


def astra_geometry(grid: ImageGrid, beam: Beam) -> tuple[dict, dict]:
    """ASTRA's volume and projection geometry with the pixel as the unit of length."""
    volume = astra.create_vol_geom(grid.rows, grid.columns)
    if _needs_vectors(beam):
        kind, rows = "fanflat_vec" if is_fan(beam) else "parallel_vec", beam.vectors() / grid.pixel_mm
        return volume, astra.create_proj_geom(kind, beam.bins, rows)
    angles, spacing = np.asarray(beam.angles_rad), beam.bin_mm / grid.pixel_mm
    if isinstance(beam, FanBeam):
        source, detector = beam.source_axis_mm / grid.pixel_mm, beam.axis_detector_mm / grid.pixel_mm
        return volume, astra.create_proj_geom("fanflat", spacing, beam.bins, angles, source, detector)
    return volume, astra.create_proj_geom("parallel", spacing, beam.bins, angles)


def _matrix_block(grid: ImageGrid, beam: Beam, model: str) -> scipy.sparse.csr_array:
    """Rows of the system matrix, in mm, float32."""
    volume, projection = astra_geometry(grid, beam)
    projector = astra.create_projector(_kernel(beam, model), projection, volume)
    matrix = astra.projector.matrix(projector)
    try:
        block = astra.matrix.get(matrix)
    finally:
        astra.matrix.delete(matrix)
        astra.projector.delete(projector)
    block = scipy.sparse.csr_array(block, dtype=np.float32)
    block.data *= np.float32(grid.pixel_mm)
    block.eliminate_zeros()
    block.sort_indices()
    return block


def system_matrix(grid: ImageGrid, beam: Beam, model: str = "linear") -> scipy.sparse.csr_array:
    """ASTRA's matrix (views*bins, rows*columns), float32, entries in mm; rows view-major, columns row-major."""
    places = [range(k, min(k + _VIEWS_PER_BLOCK, beam.views)) for k in range(0, beam.views, _VIEWS_PER_BLOCK)]
    blocks = [_matrix_block(grid, beam.of_views(chosen), model) for chosen in places]
    return scipy.sparse.csr_array(scipy.sparse.vstack(blocks, format="csr"))


def _to_torch(matrix: scipy.sparse.csr_array) -> Tensor:
    small = matrix.nnz < 2**31
    index = np.int32 if small else np.int64
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse")
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr.astype(index, copy=False)),
            torch.from_numpy(matrix.indices.astype(index, copy=False)),
            torch.from_numpy(matrix.data),
            size=matrix.shape,
            check_invariants=False,
        )


class CtProjector(LinearOperator):
    """Line integrals in mm of every slice: x (z y x) -> sinogram (z views bins).

    Any leading axes are slices. float32 and float64 volumes are taken; the matrix itself is float32. ``model`` is the
    kernel: "linear" (interpolation along the ray, Joseph 1982), "line" (intersection length, Siddon 1985; also what
    "linear" means for the fan beam) or "strip" (area of overlap with the bin). Raises ValueError when the matrix would
    not fit in ``memory_limit_bytes`` (default: the memory that is free).
    """

    def __init__(
        self,
        grid: ImageGrid,
        beam: Beam,
        model: str = "linear",
        device: torch.device | str = "cpu",
        memory_limit_bytes: int | None = None,
    ) -> None:
        require_memory(grid, beam, model, memory_limit_bytes)
        matrix = system_matrix(grid, beam, model)
        self.grid, self.beam, self.model = grid, beam, model
        self._matrices = {torch.float32: (_to_torch(matrix), _to_torch(scipy.sparse.csr_array(matrix.T.tocsr())))}
        self._place(torch.device(device))

    def _place(self, device: torch.device) -> None:
        self._matrices = {dtype: (a.to(device), at.to(device)) for dtype, (a, at) in self._matrices.items()}

    @property
    def device(self) -> torch.device:
        return self._matrices[torch.float32][0].device

    @property
    def sinogram_shape(self) -> tuple[int, int]:
        """(views, bins)."""
        return self.beam.views, self.beam.bins

    def to(self, device: torch.device | str) -> CtProjector:
        """A projector on ``device``; shares the matrices when they are there already."""
        copy = CtProjector.__new__(CtProjector)
        copy.grid, copy.beam, copy.model, copy._matrices = self.grid, self.beam, self.model, dict(self._matrices)
        copy._place(torch.device(device))
        return copy

    def _matrix(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        if dtype not in (torch.float32, torch.float64):
            raise TypeError(f"CT volumes and sinograms must be float32 or float64, not {dtype}.")
        if dtype not in self._matrices:
            a, at = self._matrices[torch.float32]
            self._matrices[dtype] = (a.to(dtype), at.to(dtype))
        return self._matrices[dtype]

    def _forward(self, x: Tensor) -> Tensor:
        return _multiply(self._matrix(x.dtype)[0], x, (self.grid.rows, self.grid.columns), self.sinogram_shape)

    def _adjoint(self, y: Tensor) -> Tensor:
        return _multiply(self._matrix(y.dtype)[1], y, self.sinogram_shape, (self.grid.rows, self.grid.columns))


def _multiply(matrix: Tensor, slices: Tensor, source: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """(... source) -> (... target) by one sparse-dense product with the slices as columns."""
    if tuple(slices.shape[-2:]) != source:
        raise ValueError(f"The projector takes slices of shape {source}, not {tuple(slices.shape[-2:])}.")
    flat = slices.reshape(-1, source[0] * source[1])
    groups = [(matrix @ group.t().contiguous()).t() for group in flat.split(_SLICES_PER_PRODUCT)]
    return torch.cat(groups).contiguous().reshape(*slices.shape[:-2], *target)
