"""Cone-beam CT simulated from a volume in HU: on the native grid, by several rays a detector pixel, and noise."""

import math
from dataclasses import replace

import numpy as np
import torch

from data.volume import Volume
from operators.cone_geometry import ConeBeam, VolumeGrid
from operators.ct_geometry import view_angles
from pipeline.measure_ct import AIR_HU, Grids, add_noise, air_outside, check_settings, make_grids
from pipeline.measurement import Measurement
from pipeline.problem_cone import make_projector
from pipeline.settings import CtMeasureSettings, require_range

# Rays a side of a detector pixel whose mean is the pixel's line integral, for simulation_model "strip".
RAYS_A_SIDE = 2
RAYS_AT_ONCE = 2**24


def simulate_cone(volume: Volume, settings: CtMeasureSettings, name: str) -> tuple[Measurement, np.ndarray]:
    """(measurement, truth (z y x) in HU on the working grid) for a volume in HU; InputError names the setting or file.

    p = mu_water R(1 + HU/1000) with R along the rays of the native grid in mm, then Poisson counts at the detector. The
    source turns in the plane of the volume's middle; what lies above and below the volume is air.
    """
    check_settings(settings)
    native_mm = volume.spacing_mm[0]
    grids = join_slices(make_grids(volume, settings, name), settings.join_slices)
    grid = _grid(grids.truth_hu, grids.working_pixel_mm, native_mm * settings.join_slices)
    beam = make_cone_beam(settings, grid)
    grids = air_outside(grids, field_of_view_radius_mm(beam, settings.range_deg))
    clean = cone_integrals(grids, native_mm, beam, settings)
    return add_noise(clean, volume, grids, grid, beam, settings)


def join_slices(grids: Grids, count: int) -> Grids:
    """The grids with working slices that are the mean of `count` native ones each; the last native slices are left out
    where they do not make a whole one. InputError: fewer native slices than that."""
    if count == 1:
        return grids
    require_range(count, 1, len(grids.native_hu), "measure.join_slices")
    slices = len(grids.native_hu) // count
    native, truth = (array[: slices * count] for array in (grids.native_hu, grids.truth_hu))
    joined = truth.reshape(slices, count, *truth.shape[1:]).mean(1)
    along_z = np.eye(4)
    along_z[2, 2:] = count, (count - 1) / 2
    return Grids(native, grids.native_pixel_mm, joined, grids.truth_affine @ along_z)


def make_cone_beam(settings: CtMeasureSettings, grid: VolumeGrid) -> ConeBeam:
    """The scanner of the settings for a working grid: detector pixels as large as a voxel's sides at the axis."""
    columns = settings.bins if settings.bins is not None else 2 * round(0.75 * grid.columns)
    rows = settings.rows if settings.rows is not None else grid.slices
    require_range(settings.source_axis_mm, 1.01 * grid.radius_mm, 1e6, "measure.source_axis_mm")
    require_range(settings.axis_detector_mm, 0, 1e6, "measure.axis_detector_mm")
    require_range(rows, 1, 100_000, "measure.rows")
    magnification = (settings.source_axis_mm + settings.axis_detector_mm) / settings.source_axis_mm
    for name, half in (("column_offset_mm", columns * grid.pixel_mm / 2), ("row_offset_mm", rows * grid.slice_mm / 2)):
        require_range(getattr(settings, name), -half * magnification, half * magnification, f"measure.{name}")
    return ConeBeam(
        view_angles(settings.views, settings.range_deg, settings.start_deg),
        rows,
        columns,
        grid.slice_mm * magnification,
        grid.pixel_mm * magnification,
        settings.source_axis_mm,
        settings.axis_detector_mm,
        settings.column_offset_mm,
        settings.row_offset_mm,
    )


def field_of_view_radius_mm(beam: ConeBeam, range_deg: float) -> float:
    """Radius of the cylinder about the axis that is seen from all sides: a full turn sees a shifted detector's long
    side of it from everywhere."""
    half = beam.columns * beam.column_mm / 2
    shift = abs(beam.column_offset_mm)
    reach = half + shift if range_deg >= 360 else half - shift
    return beam.source_axis_mm * math.sin(math.atan2(max(reach, 0.0), beam.source_axis_mm + beam.axis_detector_mm))


def cone_integrals(grids: Grids, slice_mm: float, beam: ConeBeam, settings: CtMeasureSettings) -> torch.Tensor:
    """Noiseless line integrals (views rows columns) of the native volume, whose slices lie slice_mm apart; InputError:
    more than memory allows."""
    side = RAYS_A_SIDE if settings.simulation_model == "strip" else 1
    fine = replace(
        beam,
        rows=side * beam.rows,
        columns=side * beam.columns,
        row_mm=beam.row_mm / side,
        column_mm=beam.column_mm / side,
    )
    grid = _grid(grids.native_hu, grids.native_pixel_mm, slice_mm)
    density = torch.from_numpy(1 + np.maximum(grids.native_hu, AIR_HU).astype(np.float32) / 1000)
    parts = []
    for views in np.array_split(np.arange(beam.views), math.ceil(math.prod(fine.shape) / RAYS_AT_ONCE)):
        if len(views):
            rays = make_projector(grid, fine.of_views(views), "linear")(density)
            parts.append(torch.nn.functional.avg_pool2d(rays, side))
    return torch.cat(parts).mul_(settings.mu_water_per_mm).clamp_(min=0)


def _grid(array: np.ndarray, pixel_mm: float, slice_mm: float) -> VolumeGrid:
    return VolumeGrid(*array.shape, pixel_mm, slice_mm)
