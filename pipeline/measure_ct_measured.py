"""CT measurements from projections that a scanner wrote, and what is needed to read them as HU."""

import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from skimage.filters import threshold_otsu

from data.errors import InputError
from data.projections import Projections
from operators.ct_geometry import Beam, ImageGrid, is_fan
from operators.ct_projector import CtProjector
from operators.finite_difference import Gradient3D
from pipeline.ct_preparation import Prepared, choose_views, field_of_view, join_bins, prepare, sees_all
from pipeline.ct_preparation_words import in_words
from pipeline.measure_ct import hold_out_views, with_model_error
from pipeline.measurement import Measurement
from pipeline.settings import CtMeasuredSettings, CtMeasureSettings, build, require_choice, require_range
from solvers.classical.fbp import FbpSettings, backproject_filtered
from solvers.conjugate_gradient import conjugate_gradient

# How much wider than the field of view the image is where projections are cut off: what lies outside needs a place.
WIDER = 1.4
DEFAULT_SLICE_MM = 1.0
HELD_OUT_SHARE, LEAST_VIEWS_TO_HOLD_OUT = 0.03, 10
LEVEL_MATRIX, LEVEL_VIEWS, LEVEL_ITERATIONS, LEVEL_SMOOTHNESS = 96, 90, 25, 1.0
# Fields of view below this hold no adult's trunk; the width of an image that does.
SMALLEST_TRUNK_MM, TRUNK_MM = 200.0, 384.0
RELATIVE_HU = "HU relative to the object's main level"
# Keys of simulated measurements that a cohort gets by default and that say nothing about measured ones.
_SIMULATION_ONLY = set(CtMeasureSettings.__dataclass_fields__) - set(CtMeasuredSettings.__dataclass_fields__)


def measured_settings(section: dict[str, Any]) -> CtMeasuredSettings:
    """Settings of a cohort's measure section; what only simulations use is left out. InputError for wrong ones."""
    own = {key: value for key, value in section.items() if key not in _SIMULATION_ONLY}
    if not isinstance(own.get("views", {}), dict):
        own.pop("views")
    chosen = {
        "centre_of_rotation": _auto_or_mm(own.pop("centre_of_rotation", "auto"), -1e5, "centre_of_rotation"),
        "prior_pixel_mm": _auto_or_mm(own.pop("prior_pixel_mm", "auto"), 1e-4, "prior_pixel_mm"),
    }
    settings = replace(build(CtMeasuredSettings, own, "measure"), **chosen)
    _check(settings)
    return settings


def _auto_or_mm(value: Any, lowest: float, name: str) -> str | float:
    """The value if it is "auto", "none" or a number of mm. Raises InputError for all else."""
    if isinstance(value, bool) or not (isinstance(value, int | float) or value in ("auto", "none")):
        raise InputError(f"measure.{name}: {value!r} is not auto, none or a number of mm; correct it.")
    if not isinstance(value, str):
        require_range(value, lowest, 1e5, f"measure.{name}")
    return value


def adopt_ct(
    projections: Projections, settings: CtMeasuredSettings, name: str
) -> tuple[Measurement, np.ndarray | None]:
    """(measurement, reference (z y x) in HU or None) from measured projections; InputError names the series.

    The reference is filtered backprojection of all views and exists where `views` leaves some out of a full set: it has
    noise of its own and is no truth.
    """
    if projections.geometry["type"].startswith("cone"):
        raise InputError(f"{name}: cone-beam projections are not taken by this cohort; give fan or parallel ones.")
    try:
        prepared = prepare(projections, settings)
        grid = image_grid(projections, prepared, settings)
        prepared = join_bins(prepared, settings.join_bins or bins_in_a_pixel(grid, prepared.beam))
        chosen = choose_views(prepared, settings.views)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error
    mu, said, warnings = water_value(projections, prepared, settings)
    metadata = _metadata(projections, chosen, grid, settings)
    metadata |= {"mu_water_per_mm": mu, "units": "HU" if said != "estimated" else RELATIVE_HU, "mu_water": said}
    metadata["prior_scale"], told = prior_scale(grid, prepared, settings)
    metadata["warnings"] = [*chosen.warnings, *warnings, *told]
    reference = None
    if settings.reference and chosen.beam.views < prepared.beam.views and sees_all(prepared.beam):
        reference = reference_volume(prepared, grid, mu)
        metadata["reference"] = {"method": "fbp", "views": prepared.beam.views}
    weights = with_model_error(
        torch.from_numpy(chosen.weights), torch.from_numpy(chosen.integrals), settings.model_error
    ).numpy()
    measurement = Measurement({"line_integrals": chosen.integrals, "weights": weights}, metadata)
    return hold_out_views(measurement, held_out(settings.holdout_views, chosen.beam.views)), reference


def image_grid(projections: Projections, prepared: Prepared, settings: CtMeasuredSettings) -> ImageGrid:
    """The grid that geometry.json wishes for, or working_matrix pixels over the field of view (wider where cut off)."""
    width = 2 * field_of_view(prepared.beam) * (WIDER if prepared.truncated else 1.0)
    matrix, pixel_mm = projections.image.get("matrix"), projections.image.get("pixel_mm")
    if matrix is None and pixel_mm is not None:
        matrix = min(max(2 * math.ceil(width / pixel_mm / 2), 8), 8192)
    elif matrix is None:
        matrix = settings.working_matrix or 2 * math.ceil(projections.values.shape[-1] / 2)
    pixel_mm = float(pixel_mm or width / matrix)
    source = np.hypot(*prepared.beam.vectors()[:, :2].T).min() if is_fan(prepared.beam) else math.inf
    if not matrix * pixel_mm < 2 * source:
        raise InputError(f"an image of {matrix * pixel_mm:.4g} mm reaches the source; correct image in geometry.json.")
    return ImageGrid(int(matrix), int(matrix), pixel_mm)


def bins_in_a_pixel(grid: ImageGrid, beam: Beam) -> int:
    """How many whole bins, at the axis, fit into a pixel; at least one."""
    magnification = getattr(beam, "magnification", 1.0)
    return max(int(grid.pixel_mm * magnification / beam.bin_mm + 1e-6), 1)


def prior_scale(grid: ImageGrid, prepared: Prepared, settings: CtMeasuredSettings) -> tuple[float, list[str]]:
    """(factor on lengths that the prior is told, warnings).

    A prior of patients knows their pixels alone. Where the field of view is smaller than any trunk, the object is none,
    and "auto" tells the prior that the image is as wide as a trunk; data and result keep their true lengths.
    """
    wanted, width = settings.prior_pixel_mm, 2 * field_of_view(prepared.beam)
    if wanted == "none" or (wanted == "auto" and width >= SMALLEST_TRUNK_MM):
        return 1.0, []
    told = TRUNK_MM / grid.columns if wanted == "auto" else float(wanted)
    words = f"the prior is told pixels of {told:.3g} mm where they have {grid.pixel_mm:.3g} mm: it learnt from patients"
    return told / grid.pixel_mm, [f"{words}, this is another object, and the alarm says whether it knows such images"]


def held_out(wanted: int | None, views: int) -> int:
    """Views to keep for testing: as wanted, or three in a hundred, at least one where there are ten."""
    if wanted is not None:
        return wanted
    return max(round(HELD_OUT_SHARE * views), 1) if views >= LEAST_VIEWS_TO_HOLD_OUT else 0


def water_value(
    projections: Projections, prepared: Prepared, settings: CtMeasuredSettings
) -> tuple[float, str, list[str]]:
    """(attenuation of water in 1/mm, where it is from, warnings): the config's, geometry.json's, or the object's."""
    if settings.mu_water_per_mm is not None:
        return settings.mu_water_per_mm, "measure.mu_water_per_mm", []
    if projections.mu_water_per_mm is not None:
        return float(projections.mu_water_per_mm), "geometry.json", []
    level = object_level(prepared)
    words = f"no water value: {level:.4g}/mm, the object's main level, stands for water, and HU are relative to it"
    return level, "estimated", [f"{words}; give measure.mu_water_per_mm for true HU"]


def object_level(prepared: Prepared) -> float:
    """The median attenuation in 1/mm of what is not air in a coarse, smooth least-squares image of one slice.

    Not air is above Otsu's threshold; of a body that is soft tissue, of a phantom its main material. Raises InputError
    where the image holds nothing.
    """
    kept = np.unique(np.linspace(0, prepared.beam.views - 1, LEVEL_VIEWS).astype(int))
    beam = prepared.beam.of_views(kept)
    row = int(np.argmax(prepared.integrals.mean(axis=(1, 2))))
    grid = ImageGrid(LEVEL_MATRIX, LEVEL_MATRIX, 2 * field_of_view(beam) / LEVEL_MATRIX)
    projector = CtProjector(grid, beam, "line")
    data = torch.from_numpy(np.ascontiguousarray(prepared.integrals[row : row + 1, kept]))
    seen = torch.from_numpy((prepared.weights[row : row + 1, kept] > 0).astype(np.float32))
    gradient = Gradient3D()
    strength = LEVEL_SMOOTHNESS * grid.pixel_mm**2

    def matvec(x: torch.Tensor) -> torch.Tensor:
        return projector.adjoint(seen * projector(x)) + strength * gradient.adjoint(gradient(x))

    b = projector.adjoint(seen * data)
    image = conjugate_gradient(matvec, b, torch.zeros((1, grid.rows, grid.columns)), LEVEL_ITERATIONS)[0].numpy()
    image = np.clip(image, 0, np.percentile(image, 99.5))
    if not image.max() > 0:
        raise InputError("the projections hold no object; correct `values` in geometry.json.")
    return float(np.median(image[image > threshold_otsu(image)]))


def reference_volume(prepared: Prepared, grid: ImageGrid, mu: float) -> np.ndarray:
    """Filtered backprojection (z y x) of all views in HU."""
    settings = FbpSettings("hann", 1.0, prepared.truncated)
    image = backproject_filtered(torch.from_numpy(prepared.integrals), grid, prepared.beam, settings)
    return (1000 * (image / mu - 1)).numpy().astype(np.float32)


def _metadata(
    projections: Projections, chosen: Prepared, grid: ImageGrid, settings: CtMeasuredSettings
) -> dict[str, Any]:
    slices = len(chosen.integrals)
    spacing = (projections.slice_mm or DEFAULT_SLICE_MM, grid.pixel_mm, grid.pixel_mm)
    return {
        "modality": "ct",
        "source": "measured",
        "affine": centred_affine((slices, grid.rows, grid.columns), spacing).tolist(),
        "spacing_mm": list(spacing),
        "shape_zyx": [slices, grid.rows, grid.columns],
        "grid": grid.to_dict(),
        "beam": chosen.beam.to_dict(),
        "truncated": chosen.truncated,
        "model": "line" if is_fan(chosen.beam) else settings.reconstruction_model,
        "noise": {"kind": "poisson"},
        "preparation": in_words(chosen.record),
        "preparation_figures": chosen.record,
        "settings": asdict(settings),
    }


def centred_affine(shape_zyx: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """An axial volume about the origin, columns to the left and rows to the back, index (x y z) to RAS mm."""
    dz, dy, dx = spacing_mm
    affine = np.diag([-dx, -dy, dz, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ [(shape_zyx[2] - 1) / 2, (shape_zyx[1] - 1) / 2, (shape_zyx[0] - 1) / 2]
    return affine


def _check(settings: CtMeasuredSettings) -> None:
    require_choice(settings.rings, ("none", "sort", "wavelet"), "measure.rings")
    require_choice(settings.reconstruction_model, ("linear", "line", "strip"), "measure.reconstruction_model")
    require_range(settings.model_error, 0, 1, "measure.model_error")
    for name, low, high in (
        ("working_matrix", 8, 8192),
        ("join_bins", 1, 64),
        ("holdout_views", 0, 100_000),
        ("mu_water_per_mm", 1e-5, 10),
        ("photons_per_count", 1e-9, 1e12),
        ("noise_of_air", 1e-6, 1),
    ):
        value = getattr(settings, name)
        if value is not None:
            require_range(value, low, high, f"measure.{name}")
    choice = settings.views or {}
    unknown = sorted(set(choice) - {"every", "range_deg"})
    if unknown:
        raise InputError(f"measure.views: unknown key '{unknown[0]}'; the keys are every and range_deg.")
    every, limits = choice.get("every", 1), choice.get("range_deg", [0, 1])
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise InputError(f"measure.views.every: {every!r} is not a whole number of at least 1; correct it.")
    if not (isinstance(limits, list) and len(limits) == 2 and all(isinstance(v, int | float) for v in limits)):
        raise InputError(f"measure.views.range_deg: {limits!r} is not [first, last] in degrees; correct it.")
