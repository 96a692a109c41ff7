"""Acquisition geometry of cone-beam CT in millimetres and radians, with ASTRA's vocabulary and signs.

World: x points right along the columns of a slice, y up against its rows (row 0 is the top, as for parallel and fan
beams), z along the slices. The volume's centre is the origin, and the axis of rotation of a circular scan is z.
A circular scan's view theta has its source at (sin, -cos, 0) source_axis_mm and its detector's centre at
(-sin, cos, 0) axis_detector_mm; columns run along u = (cos, sin, 0) and rows along v = (0, 0, 1), both from index 0.
Row 0 of a projection is therefore the one at the lowest z. Projections are stacks (views rows columns).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from operators.ct_geometry import (
    Beam,
    FanBeam,
    ImageGrid,
    beam_from_dict,
    require_angles,
    require_finite,
    require_positive,
)


def _require_count(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 1 and value == int(value)):
        raise ValueError(f"{name} must be a whole number of at least 1, not {value}.")


@dataclass(frozen=True)
class VolumeGrid:
    """Grid of a volume (slices rows columns) of square pixels of ``pixel_mm``, slices ``slice_mm`` apart."""

    slices: int
    rows: int
    columns: int
    pixel_mm: float
    slice_mm: float

    def __post_init__(self) -> None:
        for name in ("slices", "rows", "columns"):
            _require_count(name, getattr(self, name))
        for name in ("pixel_mm", "slice_mm"):
            require_positive(name, getattr(self, name))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(z y x)."""
        return self.slices, self.rows, self.columns

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """(z y x)."""
        return self.slice_mm, self.pixel_mm, self.pixel_mm

    @property
    def slice_grid(self) -> ImageGrid:
        return ImageGrid(self.rows, self.columns, self.pixel_mm)

    @property
    def radius_mm(self) -> float:
        """Radius of the cylinder about the axis that holds the volume."""
        return self.slice_grid.diagonal_mm / 2

    @property
    def height_mm(self) -> float:
        return self.slices * self.slice_mm

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> VolumeGrid:
        counts = (int(values[name]) for name in ("slices", "rows", "columns"))
        return cls(*counts, float(values["pixel_mm"]), float(values["slice_mm"]))


@dataclass(frozen=True)
class ConeBeam:
    """Circular cone beam with a flat detector of rows x columns pixels of row_mm x column_mm, measured on it.

    The detector's centre lies column_offset_mm along u and row_offset_mm along v from where the ray through the axis
    meets it: ASTRA's geom_postalignment with (column_offset_mm / column_mm, row_offset_mm / row_mm). An axis of
    rotation that projects c columns to the right of the detector's middle is column_offset_mm = -c * column_mm.
    """

    angles_rad: tuple[float, ...]
    rows: int
    columns: int
    row_mm: float
    column_mm: float
    source_axis_mm: float
    axis_detector_mm: float
    column_offset_mm: float = 0.0
    row_offset_mm: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "angles_rad", tuple(float(a) for a in self.angles_rad))
        require_angles(self.angles_rad)
        for name in ("rows", "columns"):
            _require_count(name, getattr(self, name))
        for name in ("row_mm", "column_mm", "source_axis_mm"):
            require_positive(name, getattr(self, name))
        if not (math.isfinite(self.axis_detector_mm) and self.axis_detector_mm >= 0):
            raise ValueError(f"axis_detector_mm must be zero or more, not {self.axis_detector_mm}.")
        for name in ("column_offset_mm", "row_offset_mm"):
            require_finite(name, getattr(self, name))

    @property
    def views(self) -> int:
        return len(self.angles_rad)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the projections, (views rows columns)."""
        return self.views, self.rows, self.columns

    @property
    def magnification(self) -> float:
        """Size on the detector over size at the axis."""
        return (self.source_axis_mm + self.axis_detector_mm) / self.source_axis_mm

    @classmethod
    def covering(
        cls,
        grid: VolumeGrid,
        angles_rad: Sequence[float],
        source_axis_mm: float,
        axis_detector_mm: float,
        pixel_mm: tuple[float, float] | None = None,
    ) -> ConeBeam:
        """The smallest centred detector that sees the whole volume in every view.

        ``pixel_mm`` is (row, column); without it a pixel is as large as a voxel's side at the axis. Raises ValueError
        when the source would lie inside the volume.
        """
        radius = grid.radius_mm
        if source_axis_mm <= radius:
            raise ValueError(
                f"The source at {source_axis_mm} mm lies inside the volume, whose radius is {radius:.1f} mm."
            )
        distance = source_axis_mm + axis_detector_mm
        scale = distance / source_axis_mm
        row_mm, column_mm = pixel_mm or (grid.slice_mm * scale, grid.pixel_mm * scale)
        half_width = distance * math.tan(math.asin(radius / source_axis_mm))
        half_height = distance * grid.height_mm / 2 / (source_axis_mm - radius)
        rows, columns = (2 * math.ceil(half / step) for half, step in ((half_height, row_mm), (half_width, column_mm)))
        return cls(tuple(angles_rad), rows, columns, row_mm, column_mm, source_axis_mm, axis_detector_mm)

    def fan(self) -> FanBeam:
        """The fan beam that the scanner is in the plane z = 0."""
        distances = self.source_axis_mm, self.axis_detector_mm
        return FanBeam(self.angles_rad, self.columns, self.column_mm, *distances, self.column_offset_mm)

    def vectors(self) -> np.ndarray:
        """ASTRA's cone_vec rows in mm, float64 (views 12): source, detector's centre, u and v from pixel to pixel."""
        angles = np.asarray(self.angles_rad)
        sin, cos, none = np.sin(angles), np.cos(angles), np.zeros(len(angles))
        u = np.stack([cos, sin, none], 1)
        v = np.stack([none, none, none + 1], 1)
        source = np.stack([sin, -cos, none], 1) * self.source_axis_mm
        centre = np.stack([-sin, cos, none], 1) * self.axis_detector_mm
        centre += self.column_offset_mm * u + self.row_offset_mm * v
        return np.concatenate([source, centre, self.column_mm * u, self.row_mm * v], 1)

    def of_views(self, places: Sequence[int]) -> ConeBeam:
        """The same scanner with some of its views."""
        return replace(self, angles_rad=tuple(self.angles_rad[int(k)] for k in places))

    def to_dict(self) -> dict:
        return {"type": "cone", **asdict(self), "angles_rad": list(self.angles_rad)}

    @classmethod
    def from_dict(cls, values: dict) -> ConeBeam:
        lengths = ("row_mm", "column_mm", "source_axis_mm", "axis_detector_mm")
        offsets = (float(values.get(name, 0.0)) for name in ("column_offset_mm", "row_offset_mm"))
        counts = (int(values["rows"]), int(values["columns"]))
        return cls(tuple(values["angles_rad"]), *counts, *(float(values[name]) for name in lengths), *offsets)


@dataclass(frozen=True)
class ConeVectors:
    """Cone beam of any trajectory: ASTRA's cone_vec rows in mm (source, detector's centre, u, v; x y z each)."""

    rows_of_views: tuple[tuple[float, ...], ...]
    rows: int
    columns: int

    def __post_init__(self) -> None:
        table = np.asarray(self.rows_of_views, dtype=np.float64)
        if table.ndim != 2 or table.shape[1:] != (12,) or not len(table):
            raise ValueError(f"cone_vec needs vectors of shape (views, 12), not {table.shape}.")
        if not np.isfinite(table).all():
            raise ValueError("cone_vec vectors must be finite.")
        for name in ("rows", "columns"):
            _require_count(name, getattr(self, name))
        normal = np.cross(table[:, 6:9], table[:, 9:12])
        distance = np.abs(((table[:, :3] - table[:, 3:6]) * normal).sum(1))
        scale = np.linalg.norm(normal, axis=1) * np.linalg.norm(table[:, :3] - table[:, 3:6], axis=1)
        flat = np.flatnonzero(~(distance > 1e-9 * scale))
        if len(flat):
            raise ValueError(f"cone_vec row {flat[0]}: its source lies in the detector's plane, or u is parallel to v.")
        object.__setattr__(self, "rows_of_views", tuple(tuple(float(x) for x in row) for row in table))

    @property
    def views(self) -> int:
        return len(self.rows_of_views)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the projections, (views rows columns)."""
        return self.views, self.rows, self.columns

    def vectors(self) -> np.ndarray:
        """float64 (views 12)."""
        return np.asarray(self.rows_of_views, dtype=np.float64)

    def of_views(self, places: Sequence[int]) -> ConeVectors:
        """The same scanner with some of its views."""
        return replace(self, rows_of_views=tuple(self.rows_of_views[int(k)] for k in places))

    def to_dict(self) -> dict:
        vectors = [list(row) for row in self.rows_of_views]
        return {"type": "cone_vec", "vectors": vectors, "rows": self.rows, "columns": self.columns}

    @classmethod
    def from_dict(cls, values: dict) -> ConeVectors:
        return cls(tuple(tuple(row) for row in values["vectors"]), int(values["rows"]), int(values["columns"]))


ConeGeometry = ConeBeam | ConeVectors
CONE_TYPES = {"cone": ConeBeam, "cone_vec": ConeVectors}


def cone_from_dict(values: dict) -> ConeGeometry:
    """The geometry written by ``to_dict``; raises ValueError for an unknown ``type``, KeyError for a missing key."""
    kind = values.get("type")
    if kind not in CONE_TYPES:
        raise ValueError(f"Unknown cone-beam type {kind!r}; it must be 'cone' or 'cone_vec'.")
    return CONE_TYPES[kind].from_dict(values)


def any_beam_from_dict(values: dict) -> Beam | ConeGeometry:
    """The beam of any type written by ``to_dict``; raises ValueError for an unknown ``type``."""
    return cone_from_dict(values) if values.get("type") in CONE_TYPES else beam_from_dict(values)


def views_through_voxels(grid: VolumeGrid, beam: ConeGeometry) -> np.ndarray:
    """Share of the views whose detector sees a voxel's centre, float32 (z y x): 1 measured whole, 0 never seen.

    A circular scan with centred detector sees a point at distance r from the axis in every view only while
    |z| <= half the detector's height * (source_axis - r) / (source_axis + axis_detector).
    """
    z, y, x = (
        (np.arange(grid.slices) - (grid.slices - 1) / 2) * grid.slice_mm,
        ((grid.rows - 1) / 2 - np.arange(grid.rows)) * grid.pixel_mm,
        (np.arange(grid.columns) - (grid.columns - 1) / 2) * grid.pixel_mm,
    )
    points = np.stack(np.broadcast_arrays(x[None, None], y[None, :, None], z[:, None, None]), -1).astype(np.float32)
    share = np.zeros(grid.shape, np.float32)
    for matrix in projection_matrices(beam).astype(np.float32):
        column, line = project_points(matrix, points)
        inside = (np.abs(column) <= beam.columns / 2) & (np.abs(line) <= beam.rows / 2)
        share += inside
    return share / beam.views


def projection_matrices(beam: ConeGeometry) -> np.ndarray:
    """float64 (views 3 4): maps (x y z 1) to (h, h * column, h * row), pixels counted from the detector's centre.

    point - source = h ((centre - source) + column u + row v), so that h is the point's distance over the detector's,
    both along the detector's normal.
    """
    frames = beam.vectors().reshape(-1, 4, 3)
    source = frames[:, 0]
    basis = np.stack([frames[:, 1] - source, frames[:, 2], frames[:, 3]], -1)
    inverse = np.linalg.inv(basis)
    return np.concatenate([inverse, -inverse @ source[:, :, None]], -1)


def project_points(matrix: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(column, row) in pixels from the detector's centre where world points (... 3) fall in one view, given its matrix
    (3 4) of `projection_matrices`."""
    h, column, row = np.moveaxis(points @ matrix[:, :3].T + matrix[:, 3], -1, 0)
    return column / h, row / h
