"""Acquisition geometry of slice-wise CT in millimetres and radians.

The image centre is the axis of rotation. Row 0 is the top of the image, y points up, x points right (columns).
A parallel ray of view theta and detector coordinate s is the line x cos(theta) + y sin(theta) = s; detector
coordinates run from low to high bin index along u = (cos(theta), sin(theta)) and are centred, or lie offset_mm farther
along u. A fan-beam source of view theta sits at (sin(theta), -cos(theta)) * source_axis_mm and looks at a flat detector
behind the axis. An axis that projects c bins to the right of the detector's middle is offset_mm = -c bin_mm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np


def view_angles(views: int, range_deg: float, start_deg: float = 0.0) -> tuple[float, ...]:
    """``views`` angles in radians, evenly spaced over ``range_deg`` degrees from ``start_deg``, end point excluded."""
    if views < 1:
        raise ValueError(f"A scan needs at least one view, not {views}.")
    if not 0 < range_deg <= 360:
        raise ValueError(f"The angular range must lie in (0, 360] degrees, not {range_deg}.")
    return tuple(math.radians(start_deg + range_deg * k / views) for k in range(views))


def require_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a positive number, not {value}.")


@dataclass(frozen=True)
class ImageGrid:
    """Grid of one slice: rows (y) by columns (x) of square pixels of ``pixel_mm``."""

    rows: int
    columns: int
    pixel_mm: float

    def __post_init__(self) -> None:
        for name in ("rows", "columns", "pixel_mm"):
            require_positive(name, getattr(self, name))

    @property
    def diagonal_mm(self) -> float:
        return math.hypot(self.rows, self.columns) * self.pixel_mm

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> ImageGrid:
        return cls(int(values["rows"]), int(values["columns"]), float(values["pixel_mm"]))


def require_finite(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, not {value}.")


def require_angles(angles_rad: tuple[float, ...]) -> None:
    if not angles_rad or not all(math.isfinite(angle) for angle in angles_rad):
        raise ValueError("A beam needs at least one view angle, and all angles must be finite.")


def _even_bins(width_mm: float, bin_mm: float) -> int:
    return 2 * math.ceil(width_mm / bin_mm / 2)


@dataclass(frozen=True)
class ParallelBeam:
    """Parallel beam: view angles, a detector of ``bins`` bins of ``bin_mm``, its centre ``offset_mm`` off the axis."""

    angles_rad: tuple[float, ...]
    bins: int
    bin_mm: float
    offset_mm: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "angles_rad", tuple(float(a) for a in self.angles_rad))
        require_angles(self.angles_rad)
        for name in ("bins", "bin_mm"):
            require_positive(name, getattr(self, name))
        require_finite("offset_mm", self.offset_mm)

    @property
    def views(self) -> int:
        return len(self.angles_rad)

    def vectors(self) -> np.ndarray:
        """ASTRA's parallel_vec rows in mm, float64 (views 6): ray, detector's centre, u from bin to bin."""
        sin, cos = _sine_cosine(self.angles_rad)
        u = np.stack([cos, sin], 1)
        return np.concatenate([np.stack([sin, -cos], 1), self.offset_mm * u, self.bin_mm * u], 1)

    def of_views(self, places: Sequence[int]) -> ParallelBeam:
        """The same scanner with some of its views."""
        return replace(self, angles_rad=tuple(self.angles_rad[int(k)] for k in places))

    @classmethod
    def covering(cls, grid: ImageGrid, angles_rad: tuple[float, ...], bin_mm: float | None = None) -> ParallelBeam:
        """The smallest even detector that sees the whole grid in every view (bins of one pixel by default)."""
        bin_mm = grid.pixel_mm if bin_mm is None else bin_mm
        return cls(angles_rad, _even_bins(grid.diagonal_mm, bin_mm), bin_mm)

    def to_dict(self) -> dict:
        return {"type": "parallel", **asdict(self), "angles_rad": list(self.angles_rad)}

    @classmethod
    def from_dict(cls, values: dict) -> ParallelBeam:
        offset_mm = float(values.get("offset_mm", 0.0))
        return cls(tuple(values["angles_rad"]), int(values["bins"]), float(values["bin_mm"]), offset_mm)


@dataclass(frozen=True)
class FanBeam:
    """Fan beam with a flat detector; bins are measured on the detector, distances from the axis of rotation.

    The detector's centre lies ``offset_mm`` along the detector from where the ray through the axis meets it.
    """

    angles_rad: tuple[float, ...]
    bins: int
    bin_mm: float
    source_axis_mm: float
    axis_detector_mm: float
    offset_mm: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "angles_rad", tuple(float(a) for a in self.angles_rad))
        require_angles(self.angles_rad)
        require_finite("offset_mm", self.offset_mm)
        for name in ("bins", "bin_mm", "source_axis_mm"):
            require_positive(name, getattr(self, name))
        if not (math.isfinite(self.axis_detector_mm) and self.axis_detector_mm >= 0):
            raise ValueError(f"axis_detector_mm must be zero or more, not {self.axis_detector_mm}.")

    @property
    def views(self) -> int:
        return len(self.angles_rad)

    def vectors(self) -> np.ndarray:
        """ASTRA's fanflat_vec rows in mm, float64 (views 6): source, detector's centre, u from bin to bin."""
        sin, cos = _sine_cosine(self.angles_rad)
        u, ray = np.stack([cos, sin], 1), np.stack([-sin, cos], 1)
        centre = self.axis_detector_mm * ray + self.offset_mm * u
        return np.concatenate([-self.source_axis_mm * ray, centre, self.bin_mm * u], 1)

    def of_views(self, places: Sequence[int]) -> FanBeam:
        """The same scanner with some of its views."""
        return replace(self, angles_rad=tuple(self.angles_rad[int(k)] for k in places))

    @property
    def magnification(self) -> float:
        return (self.source_axis_mm + self.axis_detector_mm) / self.source_axis_mm

    @classmethod
    def covering(
        cls,
        grid: ImageGrid,
        angles_rad: tuple[float, ...],
        source_axis_mm: float,
        axis_detector_mm: float,
        bin_mm: float | None = None,
    ) -> FanBeam:
        """The smallest even detector that sees the whole grid (bins of one pixel at the axis by default)."""
        radius = grid.diagonal_mm / 2
        if source_axis_mm <= radius:
            raise ValueError(
                f"The source at {source_axis_mm} mm lies inside the image, whose radius is {radius:.1f} mm."
            )
        distance = source_axis_mm + axis_detector_mm
        half_width = distance * math.tan(math.asin(radius / source_axis_mm))
        bin_mm = grid.pixel_mm * distance / source_axis_mm if bin_mm is None else bin_mm
        return cls(angles_rad, _even_bins(2 * half_width, bin_mm), bin_mm, source_axis_mm, axis_detector_mm)

    def to_dict(self) -> dict:
        return {"type": "fan", **asdict(self), "angles_rad": list(self.angles_rad)}

    @classmethod
    def from_dict(cls, values: dict) -> FanBeam:
        return cls(
            tuple(values["angles_rad"]),
            int(values["bins"]),
            float(values["bin_mm"]),
            float(values["source_axis_mm"]),
            float(values["axis_detector_mm"]),
            float(values.get("offset_mm", 0.0)),
        )


@dataclass(frozen=True)
class VectorBeam:
    """Parallel or fan beam of any trajectory: ASTRA's parallel_vec or fanflat_vec rows in mm (6 numbers a view).

    parallel_vec: ray, detector's centre, u from bin to bin (x y each); fanflat_vec: source instead of the ray.
    """

    kind: str
    rows_of_views: tuple[tuple[float, ...], ...]
    bins: int

    def __post_init__(self) -> None:
        table = np.asarray(self.rows_of_views, dtype=np.float64)
        if self.kind not in ("parallel_vec", "fanflat_vec"):
            raise ValueError(f"A vector beam is 'parallel_vec' or 'fanflat_vec', not {self.kind!r}.")
        if table.ndim != 2 or table.shape[1:] != (6,) or not len(table) or not np.isfinite(table).all():
            raise ValueError(f"{self.kind} needs finite vectors of shape (views, 6), not {table.shape}.")
        require_positive("bins", self.bins)
        ray = table[:, :2] if self.kind == "parallel_vec" else table[:, 2:4] - table[:, :2]
        across = np.abs(ray[:, 0] * table[:, 5] - ray[:, 1] * table[:, 4])
        flat = np.flatnonzero(~(across > 1e-9 * np.hypot(*ray.T) * np.hypot(*table[:, 4:].T)))
        if len(flat):
            raise ValueError(f"{self.kind} row {flat[0]}: the detector lies along the ray, or a vector is zero.")
        object.__setattr__(self, "rows_of_views", tuple(tuple(float(x) for x in row) for row in table))

    @property
    def views(self) -> int:
        return len(self.rows_of_views)

    @property
    def bin_mm(self) -> float:
        """Mean distance of neighbouring bins on the detector."""
        return float(np.hypot(*self.vectors()[:, 4:].T).mean())

    @property
    def magnification(self) -> float:
        """Mean size on the detector over size at the origin; 1 for parallel rays."""
        if self.kind == "parallel_vec":
            return 1.0
        rows = self.vectors()
        normal = np.stack([rows[:, 5], -rows[:, 4]], 1)
        return float(np.mean(((rows[:, 2:4] - rows[:, :2]) * normal).sum(1) / (-rows[:, :2] * normal).sum(1)))

    def vectors(self) -> np.ndarray:
        """float64 (views 6)."""
        return np.asarray(self.rows_of_views, dtype=np.float64)

    def of_views(self, places: Sequence[int]) -> VectorBeam:
        """The same scanner with some of its views."""
        return replace(self, rows_of_views=tuple(self.rows_of_views[int(k)] for k in places))

    def to_dict(self) -> dict:
        return {"type": self.kind, "vectors": [list(row) for row in self.rows_of_views], "bins": self.bins}

    @classmethod
    def from_dict(cls, values: dict) -> VectorBeam:
        return cls(values["type"], tuple(tuple(row) for row in values["vectors"]), int(values["bins"]))


Beam = ParallelBeam | FanBeam | VectorBeam
BEAM_TYPES = {"parallel": ParallelBeam, "fan": FanBeam, "parallel_vec": VectorBeam, "fanflat_vec": VectorBeam}


def is_fan(beam: Beam) -> bool:
    """Whether the rays of a view meet in a source."""
    return isinstance(beam, FanBeam) or (isinstance(beam, VectorBeam) and beam.kind == "fanflat_vec")


def beam_from_dict(values: dict) -> Beam:
    """The beam written by ``to_dict``; raises ValueError for an unknown ``type``."""
    kind = values.get("type")
    if kind not in BEAM_TYPES:
        raise ValueError(f"Unknown beam type {kind!r}; it must be one of {', '.join(BEAM_TYPES)}.")
    return BEAM_TYPES[kind].from_dict(values)


def _sine_cosine(angles_rad: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    angles = np.asarray(angles_rad, dtype=np.float64)
    return np.sin(angles), np.cos(angles)
