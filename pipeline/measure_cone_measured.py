"""Cone-beam measurements from projections that a scanner wrote.

The preparation is that of single slices (pipeline.ct_preparation): a detector row is treated as the fan beam of the
source's plane, which is exact for the row in that plane. Only rows near it tell the axis of rotation and, where nobody
says it, the attenuation of water.
"""

import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from data.errors import InputError
from data.projections import Projections
from operators.cone_geometry import ConeBeam, ConeGeometry, VolumeGrid, cone_from_dict
from operators.ct_geometry import Beam, VectorBeam
from pipeline.ct_preparation import CUT_OFF, Prepared, choose_views, field_of_view, prepare, sees_all
from pipeline.ct_preparation_words import in_words
from pipeline.measure_ct import hold_out_views, with_model_error
from pipeline.measure_ct_measured import (
    RELATIVE_HU,
    WIDER,
    centred_affine,
    held_out,
    image_grid,
    prior_scale,
    water_value,
)
from pipeline.measurement import Measurement
from pipeline.settings import CtMeasuredSettings
from solvers.classical.fbp import FbpSettings
from solvers.classical.fdk import backproject_cone

CENTRAL_ROWS = 5


def adopt_cone(
    projections: Projections, settings: CtMeasuredSettings, name: str
) -> tuple[Measurement, np.ndarray | None]:
    """(measurement, reference (z y x) in HU or None) from measured projections; InputError names the series.

    The reference is FDK of all views, where `views` leaves some out of a full set. Detector pixels are not joined.
    """
    try:
        beam = cone_from_dict(projections.geometry)
        beam, prepared, central = prepare_cone(projections, beam, settings)
        grid = volume_grid(projections, beam, prepared, central, settings)
        kept = kept_views(prepared, settings.views)
        mu, said, warnings = water_value(projections, central, settings)
        reference = None
        if settings.reference and len(kept) < beam.views and sees_all(prepared.beam):
            reference = reference_volume(prepared, grid, beam, mu)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error
    if len(kept) < 2:
        raise InputError(f"measure.views: {len(kept)} views are left of {beam.views}; choose more.")
    integrals, weights = (_stack(a)[kept] for a in (prepared.integrals, prepared.weights))
    weights = with_model_error(torch.from_numpy(weights), torch.from_numpy(integrals), settings.model_error).numpy()
    scale, told = prior_scale(grid.slice_grid, central, settings)
    record = prepared.record | {key: value for key, value in central.record.items() if "axis" in key or "centre" in key}
    metadata = {
        "modality": "ct",
        "source": "measured",
        "affine": centred_affine(grid.shape, grid.spacing_mm).tolist(),
        "spacing_mm": list(grid.spacing_mm),
        "shape_zyx": list(grid.shape),
        "grid": grid.to_dict(),
        "beam": beam.of_views(kept).to_dict(),
        "truncated": prepared.truncated,
        "model": "linear",
        "noise": {"kind": "poisson"},
        "mu_water_per_mm": mu,
        "mu_water": said,
        "units": "HU" if said != "estimated" else RELATIVE_HU,
        "prior_scale": scale,
        "warnings": [*prepared.warnings, *central.warnings, *warnings, *told],
        "preparation": in_words(record | {"views": len(kept), "views_measured": beam.views}),
        "preparation_figures": record,
        "settings": asdict(settings),
    }
    if reference is not None:
        metadata["reference"] = {"method": "fdk", "views": beam.views}
    measurement = Measurement({"line_integrals": integrals, "weights": weights}, metadata)
    return hold_out_views(measurement, held_out(settings.holdout_views, len(kept))), reference


def prepare_cone(
    projections: Projections, beam: ConeGeometry, settings: CtMeasuredSettings
) -> tuple[ConeGeometry, Prepared, Prepared]:
    """(beam with the axis in its place, all rows prepared, the rows near the source's plane prepared); both (rows views
    columns)."""
    plane = plane_beam(beam)
    slices = replace(projections, geometry=plane.to_dict())
    middle = central_rows(beam)
    near = replace(slices, values=slices.values[middle], **{key: _rows(slices, key, middle) for key in _FRAMES})
    central = prepare(near, settings)
    prepared = prepare(slices, replace(settings, centre_of_rotation="none"))
    if isinstance(beam, ConeBeam):
        beam = replace(beam, column_offset_mm=central.beam.offset_mm)
    return beam, replace(prepared, beam=central.beam), replace(central, warnings=_new(central, prepared))


def plane_beam(beam: ConeGeometry) -> Beam:
    """The fan beam that the scanner is in the plane of the source; of vectors their x and y. ValueError: columns that
    do not lie in that plane."""
    if isinstance(beam, ConeBeam):
        return beam.fan()
    rows = beam.vectors()[:, [0, 1, 3, 4, 6, 7]]
    return VectorBeam("fanflat_vec", tuple(map(tuple, rows)), beam.columns)


def central_rows(beam: ConeGeometry) -> slice:
    """The CENTRAL_ROWS detector rows nearest to the source's plane, in the mean over the views."""
    source, centre, _, v = np.moveaxis(beam.vectors().reshape(-1, 4, 3), 1, 0)
    length = np.linalg.norm(v, axis=1)
    off = float((((source - centre) * v).sum(1) / length**2).mean())
    middle = round((beam.rows - 1) / 2 + off)
    first = min(max(middle - CENTRAL_ROWS // 2, 0), max(beam.rows - CENTRAL_ROWS, 0))
    return slice(first, min(first + CENTRAL_ROWS, beam.rows))


def volume_grid(
    projections: Projections, beam: ConeGeometry, prepared: Prepared, central: Prepared, settings: CtMeasuredSettings
) -> VolumeGrid:
    """The grid that geometry.json wishes for. Without: working_matrix pixels over the field of view, voxels with equal
    sides, and the height that the detector sees at the axis, or all that its rays cross where the object goes on past
    its top or bottom."""
    plane = image_grid(projections, replace(prepared, beam=central.beam), settings)
    slice_mm = float(projections.image.get("slice_mm") or plane.pixel_mm)
    slices = projections.image.get("slices")
    if slices is None:
        height = seen_height_mm(beam)
        if goes_on(prepared.integrals):
            source = float(np.hypot(*beam.vectors()[:, :2].T).mean())
            height *= 1 + min(field_of_view(central.beam) * (WIDER if prepared.truncated else 1.0) / source, 1.0)
        slices = min(max(math.ceil(height / slice_mm), 1), 8192)
    return VolumeGrid(int(slices), plane.rows, plane.columns, plane.pixel_mm, slice_mm)


def seen_height_mm(beam: ConeGeometry) -> float:
    """Twice the larger distance from z = 0 up or down to which the detector reaches at the axis, mean over views."""
    source, centre, _, v = np.moveaxis(beam.vectors().reshape(-1, 4, 3), 1, 0)
    scale = np.hypot(source[:, 0], source[:, 1]) / np.hypot(*(centre - source)[:, :2].T)
    ends = [source[:, 2] + ((centre - source) + side * beam.rows / 2 * v)[:, 2] * scale for side in (-1, 1)]
    return 2 * float(max(abs(end.mean()) for end in ends))


def goes_on(integrals: np.ndarray) -> bool:
    """Whether the first or last row of (rows views columns) sees the object."""
    largest = float(np.percentile(integrals, 99.5))
    return any(float(np.percentile(integrals[row], 95)) > CUT_OFF * largest for row in (0, -1))


def kept_views(prepared: Prepared, choice: dict[str, Any] | None) -> np.ndarray:
    """Which views `choose_views` keeps."""
    views = prepared.beam.views
    numbers = np.arange(views, dtype=np.float32)[None, :, None]
    return choose_views(replace(prepared, integrals=numbers, weights=numbers), choice).integrals.ravel().astype(int)


def reference_volume(prepared: Prepared, grid: VolumeGrid, beam: ConeGeometry, mu: float) -> np.ndarray:
    """FDK (z y x) of all views in HU."""
    settings = FbpSettings("hann", 1.0, prepared.truncated)
    image = backproject_cone(torch.from_numpy(_stack(prepared.integrals)), grid, beam, settings)
    return (1000 * (image / mu - 1)).numpy().astype(np.float32)


_FRAMES = ("flat", "flat_after", "dark")


def _rows(projections: Projections, key: str, rows: slice) -> Any:
    frames = getattr(projections, key)
    if frames is None or frames.mean.ndim < 2 or len(frames.mean) == 1:
        return frames
    variance = None if frames.variance is None else frames.variance[rows]
    return replace(frames, mean=frames.mean[rows], variance=variance)


def _new(central: Prepared, prepared: Prepared) -> tuple[str, ...]:
    return tuple(words for words in central.warnings if words not in prepared.warnings)


def _stack(array: np.ndarray) -> np.ndarray:
    """(rows views columns) as (views rows columns)."""
    return np.ascontiguousarray(array.swapaxes(0, 1))
