"""Raw counts with known faults: the same scan from every form, and corrected."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.measured_ct import (
    BIN_MM,
    BINS,
    FORMS,
    MU_WATER,
    PHOTONS,
    SHIFT_BINS,
    as_projections,
    raw_counts,
    scanner,
    write_form,
)
from data.projections import read_projections
from data.study import find_series
from pipeline.config import find_studies
from pipeline.ct_preparation import prepare
from pipeline.measure_ct_measured import image_grid, measured_settings, reference_volume
from tests.data.ct_scans import chords

DISCS = ((10.0, 5.0, 120.0, MU_WATER), (40.0, 30.0, 20.0, MU_WATER), (-50.0, -20.0, 30.0, -MU_WATER))


@pytest.fixture(scope="module")
def frames():
    beam = replace(scanner(), angles_rad=scanner().angles_rad[::2])
    return raw_counts(np.exp(-chords(beam, DISCS))[None])


@pytest.mark.interop("read", "raw CT counts with flat and dark fields: .npy, .h5, TIFF stack, .mat", "one another")
def test_every_form_of_raw_counts_is_the_same_scan(tmp_path, frames):
    beam = replace(scanner(0.0), angles_rad=scanner().angles_rad[::2])
    scans = []
    for form in FORMS:
        path = write_form(tmp_path / form, form, frames, beam)
        (found,) = find_series(tmp_path / form)
        assert found.kind == "projections"
        assert list(find_studies(tmp_path / form)) == [form]
        scans.append(read_projections(path))
    for other in scans[1:]:
        assert np.array_equal(other.values, scans[0].values)
        assert other.geometry == scans[0].geometry
        for name in ("flat", "flat_after", "dark"):
            assert np.array_equal(getattr(other, name).mean, getattr(scans[0], name).mean)
            assert np.array_equal(getattr(other, name).variance, getattr(scans[0], name).variance)


def test_corrections_find_the_faults_and_the_values(frames, tmp_path, record_property):
    beam = replace(scanner(0.0), angles_rad=scanner().angles_rad[::2])
    projections = read_projections(write_form(tmp_path / "scan", "npy", frames, beam))
    settings = measured_settings({"rings": "sort", "working_matrix": 160})
    prepared = prepare(projections, settings)
    assert prepared.record["axis_moved_bins"] == pytest.approx(SHIFT_BINS, abs=0.1)
    assert prepared.record["flat_drift"] == pytest.approx(-0.03, abs=0.003)
    assert prepared.record["photons_per_count"] == pytest.approx(1, rel=0.1)
    for bin_ in (97, 98, 401, 260):
        assert (prepared.weights[..., bin_] == 0).all()
    assert (prepared.weights > 0).mean() > 0.985
    grid = image_grid(projections, prepared, settings)
    image = reference_volume(prepared, grid, MU_WATER)[0]
    places = (np.arange(160) - 79.5) * grid.pixel_mm
    found = {}
    for name, (x, y, radius) in {"water": (-40, 60, 15), "insert": (40, 30, 12), "hole": (-50, -20, 20)}.items():
        found[name] = image[np.hypot(places[None] - x, -places[:, None] - y) < radius].mean()
    record_property("measured", ", ".join(f"{name} {value:+.0f} HU" for name, value in found.items()))
    assert list(found.values()) == pytest.approx([0, 1000, -1000], abs=25)


def test_faultless_counts_need_no_dark_field():
    clean = as_projections({"counts": np.full((1, 180, BINS), PHOTONS / 2), "flat": np.full((1, 3, BINS), PHOTONS)})
    assert clean.dark is None
    assert clean.geometry["bin_mm"] == BIN_MM
