"""Settings of the stages as frozen dataclasses, built from the JSON object that a stage is given."""

import dataclasses
import difflib
import types
import typing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from data.errors import InputError

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class CtMeasureSettings:
    """CT simulated from a volume in HU.

    bins null: one and a half times the working matrix, rounded to even; a bin is as wide as a working pixel.
    rows null: as many detector rows as slices, each as high as a slice at the axis (cone beam only; bins are columns).
    column_offset_mm, row_offset_mm: shift of the cone beam's detector along its columns and rows.
    join_slices: native slices whose mean is one slice of the working grid (cone beam only).
    noise_of_largest_ray: root mean square noise of the line integrals as a fraction of the largest, instead of photons.
    simulation_model and reconstruction_model: ASTRA projectors; they must differ where the native grid is kept.
    model_error: standard deviation of what the working grid cannot express, as a fraction of the root mean square line
    integral; weights take it for noise, without it bright rays that graze the skin are trusted too much. The default is
    what area-averaging 512 to 256 pixels costs in a chest, between 0.003 and 0.004.
    holdout_views: views that the reconstruction does not see, spread over the range, to test its predictions.
    """

    source: str = "simulate"
    beam: str = "parallel"
    views: int = 30
    range_deg: float = 180.0
    start_deg: float = 0.0
    bins: int | None = None
    rows: int | None = None
    column_offset_mm: float = 0.0
    row_offset_mm: float = 0.0
    source_axis_mm: float = 595.0
    axis_detector_mm: float = 490.6
    photons: float = 1e5
    noise_of_largest_ray: float | None = None
    working_matrix: int | None = 256
    mu_water_per_mm: float = 0.0192
    simulation_model: str = "strip"
    reconstruction_model: str = "linear"
    join_slices: int = 1
    model_error: float = 0.003
    holdout_views: int = 0
    seed: int = 0


@dataclass(frozen=True)
class CtMeasuredSettings:
    """CT from measured projections (source: measured); pipeline.ct_preparation says what each step does.

    views: {"every": n, "range_deg": [first, last]} or null for all. holdout_views null: three in a hundred, at least
    one. working_matrix null: one pixel a bin; geometry.json's `image` wins. mu_water_per_mm null: geometry.json's, else
    HU are relative to the object's main level. centre_of_rotation: "auto", "none" or where the axis projects, in mm
    right of the detector's middle. rings: none | sort | wavelet. join_bins null: as many as fit into a pixel.
    noise_of_air: standard deviation of log data where there is only air, null estimates it. reference: whether views
    that were left out make a classical reconstruction to compare with. prior_pixel_mm: the pixel size that the prior is
    told, for objects that are no patients: "auto" (see pipeline.measure_ct_measured.prior_scale), "none" or a number.
    """

    source: str = "measured"
    views: dict[str, Any] | None = None
    holdout_views: int | None = None
    working_matrix: int | None = 256
    mu_water_per_mm: float | None = None
    reconstruction_model: str = "linear"
    model_error: float = 0.003
    centre_of_rotation: str | float = "auto"
    bad_pixels: bool = True
    rings: str = "none"
    join_bins: int | None = None
    photons_per_count: float | None = None
    noise_of_air: float | None = None
    prior_pixel_mm: str | float = "auto"
    reference: bool = True
    seed: int = 0


@dataclass(frozen=True)
class MrMeasureSettings:
    """MR simulated from magnitudes, or adopted from measured k-space (source: measured).

    noise_fraction: noise in each of real and imaginary part, as a fraction of the image's 99.5th percentile.
    working_spacing_mm null: the native grid; otherwise k-space is cropped to the nearest even matrix.
    sensitivities: known | estimated | null, which is known for simulated and estimated for measured data.
    holdout_fraction: share of the measured places outside the calibration region kept for testing; simulated
    measurements keep none unless the config says so.
    For measured data: prewhiten where there is a noise scan; remove_oversampling along axes that were sampled whole;
    virtual_coils null: as many as hold coil_energy, a share of all energy, where there are more than eight coils;
    maps: sets of coil sensitivities, 2 for an object larger than the field of view; calibration: auto | region |
    completed, where they come from; undersample: thin whole k-space by mask and acceleration, to test on.
    """

    source: str = "simulate"
    coils: int = 8
    acceleration: float = 4.0
    mask: str = "random_1d"
    calibration_fraction: float = 0.08
    noise_fraction: float = 0.01
    working_spacing_mm: float | None = None
    sensitivities: str | None = None
    holdout_fraction: float = 0.03
    prewhiten: bool = True
    remove_oversampling: bool = True
    virtual_coils: int | None = None
    coil_energy: float = 0.995
    maps: int = 1
    calibration: str = "auto"
    undersample: bool = False
    seed: int = 0


@dataclass(frozen=True)
class ReconstructSettings:
    """Solver-independent settings; those of one solver stand under its name (overrides).

    sigma_init null: the start's noise level that suits the modality; levels null: the solver's own number.
    """

    prior: str = ""
    samples: int = 4
    levels: int | None = None
    point: bool = True
    seed: int = 0
    device: str = "auto"
    preset: str | None = None
    coupling: str = "none"
    sigma_init: float | None = None
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class UncertaintySettings:
    """interval: probability of the interval. conformal: a calibration made by pipeline.conformal, or null.

    second_prior: a prior's folder; the support stage reconstructs with it too, to see what depends on the prior.
    structure_mm: diameter of the structures that the map `flag` speaks of.
    """

    interval: float = 0.9
    conformal: str | None = None
    second_prior: str | None = None
    structure_mm: float = 4.0


def build(settings_class: type[Settings], section: dict[str, Any], stage: str) -> Settings:
    """A frozen settings object from a config section, numbers coerced; InputError names a wrong key or value."""
    hints = typing.get_type_hints(settings_class)
    known = [item.name for item in dataclasses.fields(settings_class)]
    for key in section:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            advice = f"did you mean '{near[0]}'" if near else f"the keys are {', '.join(known)}"
            raise InputError(f"{stage}: unknown setting '{key}'; {advice}.")
    return settings_class(**{key: _coerce(value, hints[key], f"{stage}.{key}") for key, value in section.items()})


def _coerce(value: Any, hint: Any, where: str) -> Any:
    """Value as the annotated type; YAML 1.1 reads 1e5 as text, so numbers may come as text."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    if value is None and type(None) in options:
        return None
    target = next(option for option in options if option is not type(None))
    if target is dict or typing.get_origin(target) is dict:
        if isinstance(value, dict):
            return value
    elif target is bool or isinstance(value, bool):
        if target is bool and isinstance(value, bool):
            return value
    elif target is str:
        if isinstance(value, str):
            return value
    else:
        try:
            number = float(value)
            if target is float or number == int(number):
                return target(number)
        except (TypeError, ValueError, OverflowError):
            pass
    name = getattr(target, "__name__", str(target))
    raise InputError(f"{where}: {value!r} is not a value of type {name}; correct it in the config.")


def require_choice(value: str, choices: tuple[str, ...], where: str) -> None:
    """InputError unless the value is one of the choices."""
    if value not in choices:
        raise InputError(f"{where}: '{value}' is not known; choose one of {', '.join(choices)}.")


def require_range(value: float, lowest: float, highest: float, where: str) -> None:
    """InputError unless lowest <= value <= highest (nan is refused)."""
    if not lowest <= value <= highest:
        raise InputError(f"{where}: {value:g} is out of range; choose a value from {lowest:g} to {highest:g}.")
