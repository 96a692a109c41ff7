"""Acquisition geometry of slice-wise CT in millimetres and radians.

The image centre is the axis of rotation. Row 0 is the top of the image, y points up, x points right (columns).
A parallel ray of view theta and detector coordinate s is the line x cos(theta) + y sin(theta) = s; detector
coordinates run from low to high bin index and are centred. A fan-beam source of view theta sits at
(sin(theta), -cos(theta)) * source_axis_mm and looks at a flat detector behind the axis.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass


def view_angles(views: int, range_deg: float, start_deg: float = 0.0) -> tuple[float, ...]:
    """``views`` angles in radians, evenly spaced over ``range_deg`` degrees from ``start_deg``, end point excluded."""
    if views < 1:
        raise ValueError(f"A scan needs at least one view, not {views}.")
    if not 0 < range_deg <= 360:
        raise ValueError(f"The angular range must lie in (0, 360] degrees, not {range_deg}.")
    return tuple(math.radians(start_deg + range_deg * k / views) for k in range(views))


def _require_positive(name: str, value: float) -> None:
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
            _require_positive(name, getattr(self, name))

    @property
    def diagonal_mm(self) -> float:
        return math.hypot(self.rows, self.columns) * self.pixel_mm

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> ImageGrid:
        return cls(int(values["rows"]), int(values["columns"]), float(values["pixel_mm"]))


def _even_bins(width_mm: float, bin_mm: float) -> int:
    return 2 * math.ceil(width_mm / bin_mm / 2)


@dataclass(frozen=True)
class ParallelBeam:
    """Parallel beam: view angles and a detector of ``bins`` bins of ``bin_mm``, centred on the axis."""

    angles_rad: tuple[float, ...]
    bins: int
    bin_mm: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "angles_rad", tuple(float(a) for a in self.angles_rad))
        if not self.angles_rad:
            raise ValueError("A beam needs at least one view angle.")
        for name in ("bins", "bin_mm"):
            _require_positive(name, getattr(self, name))

    @classmethod
    def covering(cls, grid: ImageGrid, angles_rad: tuple[float, ...], bin_mm: float | None = None) -> ParallelBeam:
        """The smallest even detector that sees the whole grid in every view (bins of one pixel by default)."""
        bin_mm = grid.pixel_mm if bin_mm is None else bin_mm
        return cls(angles_rad, _even_bins(grid.diagonal_mm, bin_mm), bin_mm)

    def to_dict(self) -> dict:
        return {"type": "parallel", **asdict(self), "angles_rad": list(self.angles_rad)}

    @classmethod
    def from_dict(cls, values: dict) -> ParallelBeam:
        return cls(tuple(values["angles_rad"]), int(values["bins"]), float(values["bin_mm"]))


@dataclass(frozen=True)
class FanBeam:
    """Fan beam with a flat detector; bins are measured on the detector, distances from the axis of rotation."""

    angles_rad: tuple[float, ...]
    bins: int
    bin_mm: float
    source_axis_mm: float
    axis_detector_mm: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "angles_rad", tuple(float(a) for a in self.angles_rad))
        if not self.angles_rad:
            raise ValueError("A beam needs at least one view angle.")
        for name in ("bins", "bin_mm", "source_axis_mm"):
            _require_positive(name, getattr(self, name))
        if not (math.isfinite(self.axis_detector_mm) and self.axis_detector_mm >= 0):
            raise ValueError(f"axis_detector_mm must be zero or more, not {self.axis_detector_mm}.")

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
        )


Beam = ParallelBeam | FanBeam


def beam_from_dict(values: dict) -> Beam:
    """The beam written by ``to_dict``; raises ValueError for an unknown ``type``."""
    kinds = {"parallel": ParallelBeam, "fan": FanBeam}
    kind = values.get("type")
    if kind not in kinds:
        raise ValueError(f"Unknown beam type {kind!r}; it must be 'parallel' or 'fan'.")
    return kinds[kind].from_dict(values)
