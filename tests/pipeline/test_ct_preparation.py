"""Preparation of measured CT projections: each step against a scan whose faults are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from data.projections import Frames, Projections
from operators.ct_geometry import FanBeam, ParallelBeam, VectorBeam, view_angles
from pipeline import ct_preparation_counts as counts
from pipeline import ct_preparation_rings as rings
from pipeline.ct_preparation import (
    choose_views,
    field_of_view,
    full_turn,
    is_cut_off,
    join_bins,
    prepare,
    sees_all,
)
from pipeline.ct_preparation_centre import find_centre
from pipeline.ct_preparation_words import in_words
from pipeline.settings import CtMeasuredSettings
from tests.data.ct_scans import FAN, PARALLEL, chords

SETTINGS = CtMeasuredSettings()
DARK, PHOTONS, GAIN = 300.0, 40_000.0, 0.25


def scan(beam=FAN, slices: int = 2, seed: int = 0, drift: float = -0.1, flats: int = 30) -> Projections:
    """Raw counts (z views bins) with a dark current, per-bin gains, a lamp that drifts, and electronic noise."""
    rng = np.random.default_rng(seed)
    p = np.stack([chords(beam)] * slices)
    response = 1 + rng.normal(0, 0.1, beam.bins)
    lamp = 1 + drift * np.linspace(0, 1, beam.views)[:, None]

    def detected(photons):
        return rng.poisson(photons * response) / GAIN + rng.normal(DARK, 5.0, np.shape(photons))

    def frames(level: float) -> Frames:
        stack = detected(np.full((flats, beam.bins), level))[None].repeat(slices, 0)
        scaled = stack * (stack.mean() / stack.mean(axis=(0, 2), keepdims=True)) if level else stack
        return Frames(stack.mean(1).astype(np.float32), scaled.var(1, ddof=1).astype(np.float32), flats)

    counted = detected(PHOTONS * lamp * np.exp(-p)).astype(np.float32)
    return Projections(
        counted, "counts", beam.to_dict(), frames(PHOTONS), frames(PHOTONS * (1 + drift)), frames(0.0)
    )


def test_counts_become_line_integrals_with_their_variance():
    beam = FanBeam(view_angles(200, 360), 120, 3.0, 400.0, 300.0)
    p, variance, record = counts.line_integrals(scan(beam), None)
    error = p - chords(beam)
    assert abs(error.mean()) < 5e-4
    assert record["photons_per_count"] == pytest.approx(GAIN, rel=0.05)
    assert record["gain"] == "from the flat frames"
    assert record["flat_drift"] == pytest.approx(-0.1, abs=2e-3)
    # Normalised errors have unit variance in dark and in bright rays alike.
    z = error / np.sqrt(variance)
    dark = chords(beam) > 2
    assert z[:, dark].std() == pytest.approx(1, abs=0.04)
    assert z[:, ~dark].std() == pytest.approx(1, abs=0.04)


def test_without_the_second_flat_field_a_drifting_lamp_stays():
    whole = scan()
    p, _, record = counts.line_integrals(replace(whole, flat_after=None), 0.25)
    late = (p - chords(FAN))[:, -5:].mean()
    assert late == pytest.approx(0.1, abs=0.02)
    assert record["flat_drift"] is None


def test_counts_without_photons_are_raised_and_starve():
    whole = scan()
    values = whole.values.copy()
    values[0, 3, 40:43] = [0.0, -7.0, DARK]
    p, variance, record = counts.line_integrals(replace(whole, values=values), GAIN)
    assert np.isfinite(p).all()
    assert (variance[0, 3, 40:43] > 0.5).all()
    assert record["raised_share"] == pytest.approx(3 / values.size, abs=1e-6)


def test_transmission_and_log_agree():
    p = np.stack([chords(PARALLEL)]).astype(np.float32)
    through, _, _ = counts.line_integrals(Projections(np.exp(-p), "transmission", PARALLEL.to_dict()), None)
    log, _, _ = counts.line_integrals(Projections(p, "log", PARALLEL.to_dict()), None)
    assert np.abs(through - log).max() < 1e-5


@pytest.mark.parametrize("views", [90, 720])
def test_photons_of_log_data_are_found(views):
    beam = ParallelBeam(view_angles(views, 180), 256, 0.75)
    p = np.stack([chords(beam)] * 2)
    noisy = p + np.random.default_rng(0).normal(0, 1, p.shape) * np.exp(p / 2) / 100
    step = np.pi / views
    assert counts.photons_of(noisy, step) == pytest.approx(1e4, rel=0.15)
    variance, record = counts.log_variance(p, step, 0.05)
    assert variance.min() == pytest.approx(0.05**2, rel=1e-5)
    assert record["photons_of_an_open_ray"] == pytest.approx(400)


def faulty(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(line integrals with faults, the true ones, flags of the faults)."""
    beam = FanBeam(view_angles(180, 360), 240, 1.5, 400.0, 300.0)
    rng = np.random.default_rng(seed)
    true = np.stack([chords(beam)] * 2) + rng.normal(0, 0.01, (2, 180, 240))
    p, bad = true.copy(), np.zeros(true.shape, bool)
    p[..., 90:92] = 9.0
    p[..., 30] = 0.7
    p[..., 150] += rng.normal(0, 0.5, (2, 180))
    bad[..., [90, 91, 30, 150]] = True
    places = rng.choice(2 * 180, 25, replace=False), rng.integers(100, 140, 25)
    p.reshape(360, 240)[places] -= 0.8
    bad.reshape(360, 240)[places] = True
    p[0, 7, 200] = np.nan
    bad[0, 7, 200] = True
    return p.astype(np.float32), true, bad


def test_bad_bins_and_spikes_are_found_and_nothing_else():
    p, true, bad = faulty()
    found = counts.bad_samples(p)
    assert (found & bad).sum() >= 0.99 * bad.sum()
    assert (found & ~bad).mean() < 1e-3
    filled = counts.interpolate_bins(np.nan_to_num(p), found)
    assert np.abs(filled - true)[bad].mean() < 0.05
    # Bins of the detector's other places are as they were.
    assert np.array_equal(filled[~found], p[~found])


def test_a_dense_pin_on_the_axis_and_clean_data_keep_their_weight():
    beam = ParallelBeam(view_angles(120, 180), 160, 1.0)
    p = np.stack([chords(beam, ((0, 0, 60, 0.02), (0, 0, 1.2, 0.5)))])
    noisy = p + np.random.default_rng(0).normal(0, 0.01, p.shape)
    assert counts.bad_samples(noisy).mean() < 1e-3
    assert counts.bad_samples(np.stack([chords(beam)])).mean() < 1e-3


@pytest.mark.parametrize("method", ["sort", "wavelet"])
def test_rings_are_suppressed(method):
    beam = FanBeam(view_angles(180, 360), 240, 1.5, 400.0, 300.0)
    rng = np.random.default_rng(0)
    true = np.stack([chords(beam)])
    noisy = true + rng.normal(0, 0.005, true.shape)
    striped = noisy + rng.normal(0, 0.03, 240)
    strength, noise = rings.stripe_strength(striped, np.full(striped.shape, 0.005**2))
    assert strength == pytest.approx(0.03, rel=0.3)
    assert noise < 0.001
    clean = {"sort": rings.by_sorting, "wavelet": rings.by_wavelets}[method](striped)
    left = rings.stripe_strength(clean, np.full(striped.shape, 0.005**2))[0]
    assert left < 0.15 * strength
    if method == "sort":
        assert np.abs((clean - true).mean(axis=1)).mean() < 0.7 * np.abs((striped - true).mean(axis=1)).mean()
        untouched = rings.by_sorting(true) - true
        assert np.sqrt(np.mean(untouched**2)) < 0.005


CENTRES = {
    "parallel_half_turn": (PARALLEL, "moments"),
    "parallel_30_views": (ParallelBeam(view_angles(30, 180), 144, 1.5), "moments"),
    "parallel_full_turn": (ParallelBeam(view_angles(160, 360), 144, 1.5), "opposite rays"),
    "fan_full_turn": (FanBeam(view_angles(180, 360), 260, 2.0, 400.0, 300.0), "opposite rays"),
    "fan_40_views": (FanBeam(view_angles(40, 360), 260, 2.0, 400.0, 300.0), "opposite rays"),
    "fan_short_scan_clockwise": (
        FanBeam(tuple(-a for a in view_angles(100, 230, 77)), 260, 2.0, 400.0, 300.0),
        "opposite rays",
    ),
}


@pytest.mark.parametrize("shift_bins", [2.3, -7.61, 0.0])
@pytest.mark.parametrize("name", CENTRES)
def test_axis_of_rotation_is_found_to_a_part_of_a_bin(name, shift_bins, record_property):
    beam, method = CENTRES[name]
    true = replace(beam, offset_mm=-shift_bins * beam.bin_mm)
    noise = np.random.default_rng(0).normal(0, 0.02, (3, beam.views, beam.bins))
    found = find_centre((chords(true)[None] + noise).astype(np.float32), beam, truncated=False)
    error = found.shift_mm / beam.bin_mm - shift_bins
    record_property("measured", f"{error:+.2f} bins")
    assert found.method == method
    assert abs(error) < 0.15
    assert found.spread_mm < 0.2 * beam.bin_mm


def test_axis_of_rotation_of_half_a_turn_that_is_cut_off_is_not_guessed():
    beam = ParallelBeam(view_angles(120, 180), 80, 1.5)
    found = find_centre(chords(beam)[None].astype(np.float32), beam, truncated=True)
    assert found.shift_mm is None
    assert "cut off" in found.method


def test_too_small_a_range_is_said():
    beam = FanBeam(view_angles(60, 120), 260, 2.0, 400.0, 300.0)
    found = find_centre(chords(beam)[None].astype(np.float32), beam, truncated=False)
    assert found.shift_mm is None
    assert "too small" in found.method


def test_everything_together_and_in_words():
    shifted = replace(FAN, offset_mm=-2.3 * FAN.bin_mm)
    raw = replace(scan(shifted), geometry=FAN.to_dict())
    values = raw.values.copy()
    values[..., 61] = 0
    prepared = prepare(replace(raw, values=values), SETTINGS)
    assert (prepared.weights[..., 61] == 0).all()
    assert (prepared.weights > 0).mean() > 0.98
    assert prepared.record["axis_moved_bins"] == pytest.approx(2.3, abs=0.1)
    assert prepared.beam.offset_mm == pytest.approx(-2.3 * FAN.bin_mm, abs=0.3)
    assert not prepared.truncated
    said = in_words(prepared.record)
    assert any("opposite rays" in line for line in said)
    assert any("1 bad bins" in line or "2 bad bins" in line for line in said)
    given = prepare(raw, replace(SETTINGS, centre_of_rotation=4.0))
    assert given.beam.offset_mm == -4.0
    assert prepare(raw, replace(SETTINGS, centre_of_rotation="none")).beam == FAN


def test_trajectories_keep_their_vectors():
    vectors = VectorBeam("fanflat_vec", tuple(map(tuple, FAN.vectors())), FAN.bins)
    prepared = prepare(replace(scan(), geometry=vectors.to_dict()), SETTINGS)
    assert prepared.beam == vectors


def test_projections_that_are_cut_off_are_noticed():
    narrow = ParallelBeam(view_angles(60, 180), 60, 1.5)
    assert is_cut_off(chords(narrow)[None], narrow)
    assert not is_cut_off(chords(PARALLEL)[None], PARALLEL)
    half = FanBeam(view_angles(120, 360), 100, 3.0, 400.0, 300.0, 110.0)
    assert not is_cut_off(chords(half)[None], half)


def test_views_are_chosen_by_number_and_angle():
    prepared = prepare(scan(), SETTINGS)
    every = choose_views(prepared, {"every": 4})
    assert every.beam.angles_rad == prepared.beam.angles_rad[::4]
    assert np.array_equal(every.weights, prepared.weights[:, ::4])
    assert every.record["views_measured"] == 60
    ranged = choose_views(prepared, {"range_deg": [30, 90], "every": 2})
    assert np.rad2deg(ranged.beam.angles_rad) == pytest.approx([30, 42, 54, 66, 78])
    assert choose_views(prepared, None) is prepared


@pytest.mark.parametrize("factor", [2, 3, 7])
def test_joined_bins_see_the_same_rays(factor):
    prepared = prepare(scan(drift=0.0), replace(SETTINGS, centre_of_rotation="none"))
    joined = join_bins(prepared, factor)
    assert joined.beam.bins == FAN.bins // factor
    smooth = chords(joined.beam)
    # The mean over a bin and the middle of it differ at edges: the median is that of the smooth parts.
    assert abs(np.median((joined.integrals - smooth)[:, smooth > 0.3])) < 0.01
    assert joined.weights.sum() == pytest.approx(prepared.weights.sum(), rel=0.1)
    # A bad bin takes nothing from the bin that it is joined to.
    prepared.weights[..., 60] = 0
    prepared.integrals[..., 60] = 50
    assert join_bins(prepared, factor).integrals.max() < 5


@pytest.mark.parametrize(
    ("beam", "radius", "turn", "enough"),
    [
        (ParallelBeam(view_angles(60, 180), 100, 2.0, 10.0), 90.0, False, True),
        (ParallelBeam(view_angles(60, 360), 100, 2.0, 10.0), 110.0, True, True),
        (ParallelBeam(view_angles(60, 120), 100, 2.0), 100.0, False, False),
        (FAN, 400 * np.sin(np.arctan(180 / 700)), True, True),
        (FanBeam(view_angles(60, 200), 120, 3.0, 400.0, 300.0), 400 * np.sin(np.arctan(180 / 700)), False, False),
        (FanBeam(view_angles(60, 215), 120, 3.0, 400.0, 300.0), 400 * np.sin(np.arctan(180 / 700)), False, True),
    ],
)
def test_field_of_view_and_range(beam, radius, turn, enough):
    assert field_of_view(beam) == pytest.approx(radius)
    assert full_turn(beam) is turn
    assert sees_all(beam) is enough
