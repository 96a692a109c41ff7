"""Measured projections made ready for reconstruction: what is done to them, in which order, and a record of it.

Counts become line integrals; samples that cannot be believed get no weight; stripes are suppressed where asked; the
axis of rotation is found and put into the geometry; bins finer than the image are joined. Arrays are (z views bins).
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from data.errors import InputError
from data.projections import Projections
from operators.ct_geometry import Beam, VectorBeam, beam_from_dict, is_fan
from pipeline import ct_preparation_counts as counts
from pipeline import ct_preparation_rings as rings
from pipeline.ct_preparation_centre import find_centre
from pipeline.settings import CtMeasuredSettings
from solvers.classical.fbp_weights import SHIFTED, angular_cells

# Edge of the detector (share of its bins), and the line integral there (share of the largest) that means "cut off".
EDGE, CUT_OFF = 0.01, 0.05
SPREAD_WORTH_WORDS = 0.5
RING_FILTERS = {"sort": rings.by_sorting, "wavelet": rings.by_wavelets}


@dataclass(frozen=True)
class Prepared:
    """integrals and weights (inverse variances): float32 (z views bins); weights are zero where nothing is believed.

    record: what was done, for the measurement's metadata. warnings: sentences for the user.
    """

    integrals: np.ndarray
    weights: np.ndarray
    beam: Beam
    truncated: bool
    record: dict[str, Any]
    warnings: tuple[str, ...]


def prepare(projections: Projections, settings: CtMeasuredSettings) -> Prepared:
    """All steps but the choice of views and the joining of bins. InputError where there is nothing to work with."""
    beam = beam_from_dict(projections.geometry)
    integrals, variance, record = counts.line_integrals(projections, settings.photons_per_count)
    warnings: list[str] = []
    bad = counts.bad_samples(integrals) if settings.bad_pixels else ~np.isfinite(integrals)
    record["bad_share"] = float(bad.mean())
    record["bad_bins"] = int(bad.all(axis=1).sum())
    integrals = counts.interpolate_bins(np.where(bad, 0, integrals), bad)
    if variance is None:
        variance, noise = counts.log_variance(integrals, _step_rad(beam), settings.noise_of_air)
        record |= noise
    variance[bad] = np.inf
    integrals, stripes = _without_rings(integrals, variance, settings)
    record |= stripes.pop("record")
    truncated = is_cut_off(integrals, beam)
    beam, centre = _centred(integrals, beam, truncated, settings)
    record |= centre.pop("record")
    if record.get("gain") == "assumed":
        warnings.append(
            "a count is taken for a photon: give photons_per_count, or five flat frames or more, for right weights"
        )
    warnings += [*stripes.values(), *centre.values()]
    if truncated:
        warnings.append("the object reaches past the detector: values near the edge of the field are guesses")
    weights = np.where(np.isfinite(variance), 1 / np.maximum(variance, 1e-12), 0).astype(np.float32)
    return Prepared(integrals, weights, beam, truncated, record | {"truncated": truncated}, tuple(warnings))


def is_cut_off(integrals: np.ndarray, beam: Beam) -> bool:
    """Whether, in more than a tenth of the views, line integrals at an end of the detector are not those of air.

    Of a detector that is shifted in a full turn only the far end counts: the other half is seen from opposite.
    """
    count = max(round(EDGE * integrals.shape[-1]), 2)
    largest = float(np.percentile(integrals, 99.5))
    ends = [np.median(integrals[..., :count], axis=-1), np.median(integrals[..., -count:], axis=-1)]
    low, high = reach_of_ends(beam)
    if full_turn(beam) and abs(high - low) > 2 * SHIFTED * (high + low):
        ends = ends[:1] if low > high else ends[1:]
    return bool((np.max(ends, axis=0) > CUT_OFF * largest).mean() > 0.1)


def choose_views(prepared: Prepared, choice: dict[str, Any] | None) -> Prepared:
    """The views with angles in range_deg [first, last), and every n-th of these; all of them without a choice.

    InputError where fewer than two are left.
    """
    kept = np.arange(prepared.beam.views)
    choice = choice or {}
    if "range_deg" in choice:
        first, last = choice["range_deg"]
        degrees = np.rad2deg(angles_of(prepared.beam))
        # A hundredth of a millidegree of grace for angles that were radians in between.
        kept = kept[(degrees[kept] >= first - 1e-5) & (degrees[kept] < last - 1e-5)]
    kept = kept[:: choice.get("every", 1)]
    if len(kept) < 2:
        raise InputError(f"measure.views: {len(kept)} views are left of {prepared.beam.views}; choose more.")
    if len(kept) == prepared.beam.views:
        return prepared
    return replace(
        prepared,
        integrals=np.ascontiguousarray(prepared.integrals[:, kept]),
        weights=np.ascontiguousarray(prepared.weights[:, kept]),
        beam=prepared.beam.of_views(kept),
        record=prepared.record | {"views": len(kept), "views_measured": prepared.beam.views},
    )


def join_bins(prepared: Prepared, factor: int) -> Prepared:
    """Neighbouring bins joined by `factor`: the mean of those with weight, and its variance; bins left over go.

    A joined bin without any weight takes the mean of its interpolated values. (A mean weighted by inverse variances
    would lean towards the brighter side of every edge.)
    """
    if factor <= 1:
        return prepared
    z, views, bins = prepared.integrals.shape
    joined = bins // factor
    # The cut is even on both sides up to one bin, which moves the detector's centre.
    first = (bins - joined * factor) // 2
    last = first + joined * factor
    p, w = (a[..., first:last].reshape(z, views, joined, factor) for a in (prepared.integrals, prepared.weights))
    good = w > 0
    count = good.sum(-1)
    weights = np.where(count > 0, count**2 / np.maximum((1 / np.where(good, w, np.inf)).sum(-1), 1e-30), 0)
    mean = np.where(count > 0, (good * p).sum(-1) / np.maximum(count, 1), p.mean(-1))
    beam = _joined(prepared.beam, joined, factor, (first + last - bins) / 2)
    record = prepared.record | {"bins_joined": factor}
    mean, weights = mean.astype(np.float32), weights.astype(np.float32)
    return replace(prepared, integrals=mean, weights=weights, beam=beam, record=record)


def angles_of(beam: Beam) -> np.ndarray:
    """(views) radians: as given, or the direction of ray or source of a trajectory."""
    if not isinstance(beam, VectorBeam):
        return np.asarray(beam.angles_rad)
    rows = beam.vectors()
    return np.unwrap(np.arctan2(rows[:, 0], -rows[:, 1]))


def full_turn(beam: Beam) -> bool:
    """Whether the views go all the way round."""
    return angular_cells(angles_of(beam), 2 * math.pi)[2] >= 2 * math.pi - 1e-6


def sees_all(beam: Beam) -> bool:
    """Whether the views see every direction: half a turn, and the fan's angle more of a fan beam."""
    covered = angular_cells(angles_of(beam), 2 * math.pi)[2]
    angle = 0.0
    if is_fan(beam):
        source = np.hypot(*beam.vectors()[:, :2].T).mean()
        angle = 2 * math.asin(min(field_of_view(beam) / source, 1.0))
    # As much less as between two views, which a range without its end lacks.
    return covered >= math.pi + angle - 2 * covered / beam.views


def field_of_view(beam: Beam) -> float:
    """Radius in mm of the disc about the axis that is seen whole: by every view, or in a full turn by every view or the
    one opposite."""
    return max(reach_of_ends(beam)) if full_turn(beam) else min(reach_of_ends(beam))


def reach_of_ends(beam: Beam) -> tuple[float, float]:
    """Mean distances in mm from the axis to the rays through the first and the last edge of the detector."""
    rows = beam.vectors()
    ends = rows[:, None, 2:4] + np.array([-0.5, 0.5])[None, :, None] * beam.bins * rows[:, None, 4:]
    first = rows[:, None, :2]
    ray = ends - first if is_fan(beam) else np.broadcast_to(first, ends.shape)
    ray = ray / np.hypot(ray[..., 0], ray[..., 1])[..., None]
    low, high = np.abs(ends[..., 0] * ray[..., 1] - ends[..., 1] * ray[..., 0]).mean(axis=0)
    return float(low), float(high)


def _joined(beam: Beam, bins: int, factor: int, moved_bins: float) -> Beam:
    if isinstance(beam, VectorBeam):
        rows = beam.vectors()
        rows[:, 2:4] += moved_bins * rows[:, 4:]
        rows[:, 4:] *= factor
        return VectorBeam(beam.kind, tuple(map(tuple, rows)), bins)
    offset_mm = beam.offset_mm + moved_bins * beam.bin_mm
    return replace(beam, bins=bins, bin_mm=beam.bin_mm * factor, offset_mm=offset_mm)


def _step_rad(beam: Beam) -> float:
    return float(np.median(np.abs(np.diff(angles_of(beam)))))


def _without_rings(
    integrals: np.ndarray, variance: np.ndarray, settings: CtMeasuredSettings
) -> tuple[np.ndarray, dict[str, Any]]:
    """(integrals, {"record": ..., and a warning where stripes were left})."""
    strength, noise = rings.stripe_strength(integrals, variance)
    record: dict[str, Any] = {"rings": settings.rings, "stripes": strength}
    if settings.rings != "none":
        filtered = RING_FILTERS[settings.rings](integrals)
        record["stripes_left"] = rings.stripe_strength(filtered, variance)[0]
        return filtered, {"record": record}
    if strength > max(rings.NOTICE * noise, rings.LEAST):
        words = f"bins are off by {strength:.2g} (line integral), which makes rings: set measure.rings to sort"
        return integrals, {"record": record, "rings": words}
    return integrals, {"record": record}


def _centred(
    integrals: np.ndarray, beam: Beam, truncated: bool, settings: CtMeasuredSettings
) -> tuple[Beam, dict[str, Any]]:
    """(beam with the axis of rotation in its place, {"record": ..., and a warning where that is doubtful})."""
    wanted = settings.centre_of_rotation
    if wanted == "none" or isinstance(beam, VectorBeam):
        return beam, {"record": {"centre_of_rotation": "as the geometry says"}}
    if wanted != "auto":
        record = {"centre_of_rotation": "measure.centre_of_rotation", "axis_on_detector_mm": wanted}
        return replace(beam, offset_mm=-wanted), {"record": record}
    found = find_centre(integrals, beam, truncated)
    record = {"centre_of_rotation": found.method}
    if found.shift_mm is None:
        words = f"the axis of rotation was {found.method}; it is taken as the geometry says"
        return beam, {"record": record, "centre": words}
    beam = replace(beam, offset_mm=beam.offset_mm - found.shift_mm)
    record |= {"axis_moved_mm": found.shift_mm, "axis_moved_bins": found.shift_mm / beam.bin_mm}
    record |= {"axis_on_detector_mm": -beam.offset_mm, "axis_spread_mm": found.spread_mm}
    if found.spread_mm is not None and found.spread_mm > SPREAD_WORTH_WORDS * beam.bin_mm:
        words = f"slices disagree on the axis of rotation by {found.spread_mm:.2g} mm; give measure.centre_of_rotation"
        return beam, {"record": record, "centre": words}
    return beam, {"record": record}
