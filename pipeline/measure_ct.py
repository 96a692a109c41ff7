"""CT simulated from a volume in HU: on a finer grid or with another projector than the reconstruction's, and noise."""

import math
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from data.errors import InputError
from data.volume import Volume, spacing_of
from operators.cone_geometry import ConeBeam, ConeGeometry, VolumeGrid, any_beam_from_dict
from operators.ct_geometry import Beam, FanBeam, ImageGrid, ParallelBeam, view_angles
from operators.ct_projector import CtProjector
from operators.noise import photons_for_relative_noise, poisson_line_integrals
from pipeline.measurement import Measurement
from pipeline.seeds import generator
from pipeline.settings import CtMeasureSettings, require_choice, require_range
from pipeline.square_pixels import with_square_pixels

AIR_HU = -1000.0
SLICES_AT_ONCE = 64
# Line integral below which a ray is mostly air.
AIR_PATH = 0.2
CONE_MODELS = {"simulation_model": ("strip", "linear"), "reconstruction_model": ("linear", "astra")}


@dataclass(frozen=True)
class Grids:
    """The native volume made square, and the working grid; both in HU, arrays (z y x). said: what was done to it."""

    native_hu: np.ndarray
    native_pixel_mm: float
    truth_hu: np.ndarray
    truth_affine: np.ndarray
    said: tuple[str, ...] = ()

    @property
    def working_pixel_mm(self) -> float:
        return self.native_pixel_mm * self.native_hu.shape[-1] / self.truth_hu.shape[-1]


def simulate_ct(volume: Volume, settings: CtMeasureSettings, name: str) -> tuple[Measurement, np.ndarray]:
    """(measurement, truth (z y x) in HU on the working grid) for a volume in HU; InputError names the setting or file.

    p = mu_water R(1 + HU/1000) with R along the rays of the native grid in mm, then Poisson counts at the detector.
    """
    check_settings(settings)
    grids = make_grids(volume, settings, name)
    beam = make_beam(settings, grids.truth_hu.shape[-1], grids.working_pixel_mm)
    grids = air_outside(grids, field_of_view_radius_mm(beam))
    clean = mu_integrals(grids.native_hu, grids.native_pixel_mm, beam, settings, native=True)
    return add_noise(clean, volume, grids, _grid(grids.truth_hu, grids.working_pixel_mm), beam, settings)


def add_noise(
    clean: torch.Tensor,
    volume: Volume,
    grids: Grids,
    grid: ImageGrid | VolumeGrid,
    beam: Beam | ConeBeam,
    settings: CtMeasureSettings,
) -> tuple[Measurement, np.ndarray]:
    """(measurement, truth) of noiseless line integrals of any beam: Poisson counts, and what later stages need to know.

    grid is the working grid of the reconstruction.
    """
    photons = settings.photons
    if settings.noise_of_largest_ray is not None:
        photons = float(photons_for_relative_noise(clean, settings.noise_of_largest_ray))
    noisy, weights = poisson_line_integrals(clean, photons, generator(settings.seed, "ct", "poisson"))
    weights = with_model_error(weights, noisy, settings.model_error)
    metadata = {
        "modality": "ct",
        "source": "simulate",
        "units": "HU",
        "affine": grids.truth_affine.tolist(),
        "spacing_mm": list(spacing_of(grids.truth_affine)),
        "shape_zyx": list(grids.truth_hu.shape),
        "native_shape_zyx": list(volume.array_zyx.shape),
        "grid": grid.to_dict(),
        "beam": beam.to_dict(),
        "model": settings.reconstruction_model,
        "mu_water_per_mm": settings.mu_water_per_mm,
        "noise": {"kind": "poisson", "photons": photons, "largest_ray": float(clean.max())},
        "settings": asdict(settings),
    }
    metadata |= {"preparation": list(grids.said)} if grids.said else {}
    tensors = {"line_integrals": noisy.numpy().astype(np.float32), "weights": weights.numpy().astype(np.float32)}
    return Measurement(tensors, metadata), grids.truth_hu


def hold_out_views(measurement: Measurement, count: int) -> Measurement:
    """The measurement with `count` views, spread evenly over its range, kept from the reconstruction to test it.

    InputError where fewer than two views would be left.
    """
    if count == 0:
        return measurement
    beam = any_beam_from_dict(measurement.metadata["beam"])
    views, axis = beam.views, view_axis(beam)
    require_range(count, 0, max(views - 2, 0), "measure.holdout_views")
    chosen = np.floor((np.arange(count) + 0.5) * views / count).astype(int)
    kept = np.setdiff1d(np.arange(views), chosen)
    tensors = dict(measurement.tensors)
    for name in ("line_integrals", "weights"):
        array = measurement.tensors[name]
        tensors |= {name: array.take(kept, axis), f"heldout_{name}": array.take(chosen, axis)}
    metadata = measurement.metadata | {
        "beam": beam.of_views(kept).to_dict(),
        "heldout_beam": beam.of_views(chosen).to_dict(),
    }
    metadata["settings"] = metadata["settings"] | {"holdout_views": count}
    return Measurement(tensors, metadata)


def view_axis(beam: Beam | ConeGeometry) -> int:
    """Which axis of the line integrals counts the views: (z views bins), but (views rows columns) for cone beams."""
    return 0 if isinstance(beam, ConeGeometry) else 1


def mu_integrals(
    hu: np.ndarray, pixel_mm: float, beam: Beam, settings: CtMeasureSettings, native: bool
) -> torch.Tensor:
    """Noiseless line integrals (z views bins) of a volume in HU (z y x); InputError: more views than memory allows."""
    model = settings.simulation_model if native else settings.reconstruction_model
    try:
        projector = CtProjector(_grid(hu, pixel_mm), beam, model=model)
    except ValueError as error:
        raise InputError(f"measure: {error}") from error
    parts = []
    for chunk in np.array_split(hu, math.ceil(len(hu) / SLICES_AT_ONCE)):
        density = torch.from_numpy(1 + chunk.astype(np.float32) / 1000)
        parts.append(settings.mu_water_per_mm * projector(density))
    return torch.cat(parts).clamp_(min=0)


def make_beam(settings: CtMeasureSettings, matrix: int, pixel_mm: float) -> Beam:
    """The beam of the settings for a working grid of matrix^2 pixels; bins as wide as a pixel at the axis."""
    bins = settings.bins if settings.bins is not None else 2 * round(0.75 * matrix)
    angles = view_angles(settings.views, settings.range_deg, settings.start_deg)
    if settings.beam == "parallel":
        return ParallelBeam(angles, bins, pixel_mm)
    require_range(settings.source_axis_mm, 0.75 * matrix * pixel_mm, 1e5, "measure.source_axis_mm")
    magnification = (settings.source_axis_mm + settings.axis_detector_mm) / settings.source_axis_mm
    return FanBeam(angles, bins, pixel_mm * magnification, settings.source_axis_mm, settings.axis_detector_mm)


def field_of_view_radius_mm(beam: Beam) -> float:
    """Radius of the disc about the axis that every view sees whole."""
    half_detector = beam.bins * beam.bin_mm / 2
    if isinstance(beam, ParallelBeam):
        return half_detector
    angle = math.atan2(half_detector, beam.source_axis_mm + beam.axis_detector_mm)
    return beam.source_axis_mm * math.sin(angle)


def area_average(array: np.ndarray, matrix: tuple[int, int]) -> np.ndarray:
    """(z y x) to (z rows columns): every new pixel is the mean over the area it covers; never finer, any ratio."""
    down = _overlap(array.shape[-2], matrix[0])
    across = _overlap(array.shape[-1], matrix[1])
    return np.stack([down @ plane.astype(np.float32) @ across.T for plane in array])


def _overlap(native: int, coarse: int) -> np.ndarray:
    """(coarse native) shares of native cells in coarse cells; rows sum to 1."""
    edges = np.arange(coarse + 1) * native / coarse
    low, high = edges[:-1, None], edges[1:, None]
    cell = np.arange(native)[None]
    return (np.clip(np.minimum(high, cell + 1) - np.maximum(low, cell), 0, None) * coarse / native).astype(np.float32)


def regrid_affine(affine: np.ndarray, factor_yx: tuple[float, float], shift_yx: tuple[float, float]) -> np.ndarray:
    """Affine of a grid whose pixels are factor times as large and whose corner lies at shift native pixels.

    Index i of the new grid has its centre at shift + (i + 1/2) factor - 1/2 in native indices, along y and x.
    """
    step = np.eye(4)
    for axis, factor, shift in ((1, factor_yx[0], shift_yx[0]), (0, factor_yx[1], shift_yx[1])):
        step[axis, axis] = factor
        step[axis, 3] = shift + (factor - 1) / 2
    return np.asarray(affine, dtype=np.float64) @ step


def check_settings(settings: CtMeasureSettings) -> None:
    require_choice(settings.beam, ("parallel", "fan", "cone"), "measure.beam")
    cone = settings.beam == "cone"
    for name in ("simulation_model", "reconstruction_model"):
        models = CONE_MODELS[name] if cone else ("linear", "line", "strip")
        require_choice(getattr(settings, name), models, f"measure.{name}")
    require_range(settings.views, 1, 100_000, "measure.views")
    require_range(settings.range_deg, 1e-3, 360, "measure.range_deg")
    require_range(settings.photons, 1, 1e12, "measure.photons")
    require_range(settings.mu_water_per_mm, 1e-3, 1, "measure.mu_water_per_mm")
    require_range(settings.bins if settings.bins is not None else 2, 2, 100_000, "measure.bins")
    require_range(
        settings.working_matrix if settings.working_matrix is not None else 8, 8, 8192, "measure.working_matrix"
    )
    noise = settings.noise_of_largest_ray
    require_range(0.01 if noise is None else noise, 1e-6, 0.5, "measure.noise_of_largest_ray")
    require_range(settings.model_error, 0, 1, "measure.model_error")


def make_grids(volume: Volume, settings: CtMeasureSettings, name: str) -> Grids:
    """The grids of a volume (z y x) in HU. Raises InputError for pixels far from square, and for the native matrix as
    working matrix with one projector for both."""
    volume, said = with_square_pixels(volume, name)
    slices, rows, columns = volume.array_zyx.shape
    side = max(rows, columns)
    top, left = (side - rows) // 2, (side - columns) // 2
    native = np.full((slices, side, side), AIR_HU, np.float32)
    native[:, top : top + rows, left : left + columns] = np.maximum(volume.array_zyx, AIR_HU)
    matrix = min(settings.working_matrix or side, side)
    if matrix == side and _same_projector(settings):
        raise InputError(
            f"{name}: measure.working_matrix is the native matrix, so simulation_model and reconstruction_model "
            "must differ; choose another model or a smaller working_matrix."
        )
    truth = native if matrix == side else area_average(native, (matrix, matrix))
    affine = regrid_affine(volume.affine, (side / matrix, side / matrix), (-top, -left))
    return Grids(native, volume.spacing_mm[2], truth, affine, (said,) if said else ())


def _same_projector(settings: CtMeasureSettings) -> bool:
    """For the fan beam "linear" is another name of "line"."""
    models = {settings.simulation_model, settings.reconstruction_model}
    return len(models) == 1 or (settings.beam == "fan" and models == {"line", "linear"})


def air_outside(grids: Grids, radius: float) -> Grids:
    """Where the detector is too small for the whole grid, what it cannot see whole is air in data and truth alike."""

    def masked(array: np.ndarray, pixel_mm: float) -> np.ndarray:
        centres = (np.arange(array.shape[-1]) - (array.shape[-1] - 1) / 2) * pixel_mm
        outside = np.hypot(centres[:, None], centres[None]) > radius
        return np.where(outside, np.float32(AIR_HU), array) if outside.any() else array

    native = masked(grids.native_hu, grids.native_pixel_mm)
    return replace(grids, native_hu=native, truth_hu=masked(grids.truth_hu, grids.working_pixel_mm))


def with_model_error(weights: torch.Tensor, noisy: torch.Tensor, fraction: float) -> torch.Tensor:
    """Inverse of (noise variance + m^2), m = fraction * rms(p) * p / (p + AIR_PATH): none for rays in air alone."""
    p = noisy.clamp(min=0)
    error = fraction * p.square().mean().sqrt() * p / (p + AIR_PATH)
    return weights / (1 + weights * error.square())


def _grid(array: np.ndarray, pixel_mm: float) -> ImageGrid:
    return ImageGrid(array.shape[-2], array.shape[-1], pixel_mm)
