"""CT projections as measured: an array in .npy, .h5, TIFF or .mat explained by geometry.json, or a challenge's .mat."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import InputError
from data.geometry_json import (
    NAME,
    SOURCES,
    GeometryNotes,
    Source,
    axes_of,
    geometry_dict,
    inside,
    is_geometry,
    read_geometry_notes,
    slice_mm,
    source_of,
)
from data.projections_arrays import SUFFIXES, TIFF, check_array, read_array, tiff_files
from data.projections_mat import is_helsinki, read_helsinki

_ORDER = ("z", "views", "bins")


@dataclass(frozen=True)
class Frames:
    """Frames without an object or without a beam, as (z bins): mean, variance over the frames, number of frames.

    variance: None of one frame; of frames with a beam each is first scaled to the brightness of all.
    """

    mean: np.ndarray
    variance: np.ndarray | None
    count: int


@dataclass(frozen=True)
class Projections:
    """values: float32 (z views bins), z from bottom to top; for a cone beam z are the detector's rows.

    kind: "counts", "transmission" or "log". geometry: see data.geometry_json. slice_mm None: not said. image: the grid
    wished for, keys of geometry.json's image. NaN in values marks samples that are known to be bad.
    """

    values: np.ndarray
    kind: str
    geometry: dict[str, Any]
    flat: Frames | None = None
    flat_after: Frames | None = None
    dark: Frames | None = None
    slice_mm: float | None = None
    image: dict[str, Any] = field(default_factory=dict)
    mu_water_per_mm: float | None = None
    photons_per_count: float | None = None


def claims(path: Path) -> bool:
    """Whether a file explains or holds projections: geometry.json, NAME.geometry.json, or a challenge's .mat file that
    no geometry.json lies beside. Never raises."""
    if is_geometry(path):
        return True
    if path.suffix.lower() != ".mat" or not is_helsinki(path):
        return False
    return not any(is_geometry(other) for other in path.parent.iterdir())


def projection_files(path: Path) -> tuple[Path, ...]:
    """The files that belong to geometry.json beside it; none where it is damaged. Never raises."""
    if not is_geometry(path):
        return ()
    try:
        notes = read_geometry_notes(path)
        sources = [projections_source(notes)] + [source_of(notes, key) for key in SOURCES[1:]]
        named = [notes.values.get(key) for key in ("angles_deg", "vectors")]
        paths = [source.path for source in sources if source] + [inside(notes, n) for n in named if isinstance(n, str)]
        files = [file for place in paths for file in (tiff_files(place) if place.is_dir() else [place])]
        return tuple(dict.fromkeys(files))
    except (InputError, OSError):
        return ()


def read_projections(path: Path) -> Projections:
    """Read PATH, a geometry.json or a challenge's .mat file, and what it names.

    Raises InputError: no-json, json, shape, truncated, not-scalar, too-large, nan (nothing is finite).
    """
    if not is_geometry(path):
        return _helsinki(path)
    notes = read_geometry_notes(path)
    axes = axes_of(notes)
    values = _stack(notes, read_array(projections_source(notes)), axes)
    if not np.isfinite(values).any():
        raise InputError(f"{path}: the projections hold no finite value: export them again.", "nan")
    frames = {key: _frames(notes, key, axes, values.shape) for key in SOURCES[1:]}
    return Projections(
        values,
        notes.values["values"],
        geometry_dict(notes, values.shape),
        **frames,
        slice_mm=slice_mm(notes),
        image=dict(notes.values.get("image", {})),
        mu_water_per_mm=notes.values.get("mu_water_per_mm"),
        photons_per_count=notes.values.get("photons_per_count"),
    )


def projections_source(notes: GeometryNotes) -> Source:
    """Where the projections lie: as `projections` says, else the one array (or folder of TIFF files) beside.

    NAME.geometry.json explains NAME.npy, NAME.h5, ... Raises InputError "json" where there are none or several.
    """
    said = notes.values.get("projections")
    if isinstance(said, str) or (isinstance(said, dict) and "file" in said):
        return source_of(notes, "projections")
    dataset = said["dataset"] if isinstance(said, dict) else None
    home, name = notes.beside.parent, notes.beside.name
    taken = {source.path for key in SOURCES[1:] if _names_file(notes, key) and (source := source_of(notes, key))}
    taken |= {inside(notes, v) for key in ("angles_deg", "vectors") if isinstance(v := notes.values.get(key), str)}
    found = [path for path in sorted(home.iterdir()) if _may_be_projections(path) and path not in taken]
    if name != NAME:
        found = [path for path in found if path.name.split(".")[0] == name.removesuffix("." + NAME)]
    if len(found) == 1:
        return Source(found[0], dataset)
    if len(found) > 1 and all(path.suffix.lower() in TIFF for path in found):
        return Source(home, dataset)
    many = f"{len(found)} files could hold the projections" if found else f"no file with {', '.join(SUFFIXES)} is there"
    raise notes.wrong(f"{many}; name the file as projections.")


def _names_file(notes: GeometryNotes, key: str) -> bool:
    value = notes.values.get(key)
    return isinstance(value, str) or (isinstance(value, dict) and "file" in value)


def _may_be_projections(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    return bool(tiff_files(path)) if path.is_dir() else path.suffix.lower() in SUFFIXES


def _stack(notes: GeometryNotes, array: np.ndarray, axes: list[str]) -> np.ndarray:
    """The array as float32 (z views bins), z from bottom to top."""
    if array.ndim != len(axes):
        shape, said = list(array.shape), notes.values["axes"]
        raise InputError(f'{notes.beside} says axes "{said}" but the array has the shape {shape}: correct it.', "shape")
    check_array(notes.beside, array.shape, array.dtype)
    ordered = array.transpose([axes.index(axis) for axis in _ORDER if axis in axes])
    if "z" not in axes:
        ordered = ordered[None]
    if notes.values.get("row_0") == "top":
        ordered = ordered[::-1]
    if min(ordered.shape[1:]) < 2:
        views, bins = ordered.shape[1:]
        raise InputError(f"{notes.beside}: {views} views of {bins} bins make no scan: correct axes.", "shape")
    return np.ascontiguousarray(ordered, dtype=np.float32)


def _frames(notes: GeometryNotes, key: str, axes: list[str], shape: tuple[int, int, int]) -> Frames | None:
    """Frames as the projections lie, with frames in place of views, or without that axis; or one number for all."""
    value = notes.values.get(key)
    if value is None:
        return None
    if isinstance(value, int | float):
        return Frames(np.full((shape[0], shape[2]), value, np.float32), None, 1)
    array = read_array(source_of(notes, key))
    if array.ndim == len(axes):
        stack = _ordered(array, axes, _ORDER)
    elif array.ndim == len(axes) - 1:
        without = [axis for axis in axes if axis != "views"]
        stack = _ordered(array, without, ("z", "bins"))[..., None, :]
    else:
        stack = np.empty((0, 0, 0))
    stack = stack if "z" in axes else stack.reshape(1, *stack.shape[-2:])
    if notes.values.get("row_0") == "top":
        stack = stack[::-1]
    if (stack.shape[0], stack.shape[-1]) != (shape[0], shape[2]) or not stack.shape[1]:
        frames = " ".join("frames" if axis == "views" else axis for axis in notes.values["axes"].split())
        raise InputError(f'{notes.beside}: {key} has the shape {list(array.shape)}; it should be "{frames}".', "shape")
    stack = stack.astype(np.float64)
    if not np.isfinite(stack).all():
        raise InputError(f"{notes.beside}: {key} holds values that are not finite: export it again.", "nan")
    mean = stack.mean(axis=1)
    brightness = stack.mean(axis=(0, 2), keepdims=True)
    if key != "dark" and (brightness > 0).all():
        stack = stack * (brightness.mean() / brightness)
    variance = stack.var(axis=1, ddof=1).astype(np.float32) if stack.shape[1] > 1 else None
    return Frames(mean.astype(np.float32), variance, stack.shape[1])


def _ordered(array: np.ndarray, axes: list[str], order: tuple[str, ...]) -> np.ndarray:
    return array.transpose([axes.index(axis) for axis in order if axis in axes])


def _helsinki(path: Path) -> Projections:
    """A scan of the Helsinki Tomography Challenge: ASTRA's fanflat, log data, no water value."""
    scan = read_helsinki(path)
    check_array(path, scan.sinogram.shape, scan.sinogram.dtype)
    geometry = {
        "type": "fan",
        "angles_rad": np.deg2rad(scan.angles_deg).tolist(),
        "bins": scan.sinogram.shape[1],
        "bin_mm": scan.bin_mm,
        "source_axis_mm": scan.source_axis_mm,
        "axis_detector_mm": scan.source_detector_mm - scan.source_axis_mm,
        "offset_mm": 0.0,
    }
    return Projections(scan.sinogram[None].astype(np.float32), "log", geometry, slice_mm=scan.bin_mm)
