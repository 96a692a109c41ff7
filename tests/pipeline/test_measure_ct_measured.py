"""Measured projections through `ingest`, `measure` and the inverse problem: values in HU, references, refusals."""

from __future__ import annotations

import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch

from data.errors import InputError
from data.nifti import read_volume
from operators.ct_geometry import ParallelBeam, VectorBeam, beam_from_dict, view_angles
from pipeline import ingest, measure
from pipeline.ct_preparation import prepare
from pipeline.ingest_projections import read_ingested, write_projections
from pipeline.measure_ct_measured import RELATIVE_HU, adopt_ct, measured_settings, object_level
from pipeline.measurement import read_measurement
from pipeline.problem import load_problem
from pipeline.problem_ct import ct_problem
from solvers.classical.registry import CLASSICAL
from tests.data.ct_scans import ACRYLIC, FAN, FAN_NOTES, PARALLEL, chords, write_helsinki, write_notes, write_scan
from tests.pipeline.test_ct_preparation import scan

WATER = ((0.0, 0.0, 60.0, 0.02), (25.0, 10.0, 12.0, 0.02), (-20.0, -25.0, 14.0, -0.02))


def water_scan(beam, noise: float = 0.01):
    """Log data of a water disc (0.02/mm) of 120 mm with an insert of 1000 HU and a hole."""
    raw = scan(beam)
    values = np.stack([chords(beam, WATER)] * 2)
    values += np.random.default_rng(0).normal(0, noise, values.shape)
    return replace(raw, values=values.astype(np.float32), kind="log", flat=None, flat_after=None, dark=None)


def disc_mean(image: np.ndarray, grid, x: float, y: float, radius: float) -> float:
    places = (np.arange(grid["columns"]) - (grid["columns"] - 1) / 2) * grid["pixel_mm"]
    return float(image[:, np.hypot(places[None] - x, -places[:, None] - y) < radius].mean())


BEAMS = {
    "parallel": PARALLEL,
    "parallel_offset": ParallelBeam(view_angles(120, 360), 128, 1.2, 9.0),
    "fan": FAN,
    "fanflat_vec": VectorBeam("fanflat_vec", tuple(map(tuple, FAN.vectors())), FAN.bins),
}


@pytest.mark.parametrize("method", ["fbp", "cgls"])
@pytest.mark.parametrize("name", BEAMS)
def test_water_is_0_hu_and_its_insert_1000(name, method, record_property):
    settings = measured_settings({"mu_water_per_mm": 0.02, "working_matrix": 96, "holdout_views": 0})
    measurement, reference = adopt_ct(water_scan(BEAMS[name]), settings, "scan")
    assert reference is None
    problem, units = ct_problem(measurement)
    assert units.name == "HU"
    image = units.to_physical(CLASSICAL[method](problem))
    grid = measurement.metadata["grid"]
    found = [disc_mean(image, grid, *place) for place in ((-30, 25, 12), (25, 10, 6), (-20, -25, 6), (0, 75, 4))]
    record_property("measured", f"water {found[0]:+.0f} HU, insert {found[1]:.0f} HU")
    # Forty iterations of CGLS are noisier in small regions.
    assert found == pytest.approx([0, 1000, -1000, -1000], abs=25 if method == "fbp" else 60)
    assert abs(found[0]) < 15


def test_raw_counts_with_every_fault_end_in_hu():
    shifted = replace(FAN, offset_mm=-2.3 * FAN.bin_mm)
    raw = replace(scan(shifted), geometry=FAN.to_dict(), mu_water_per_mm=0.02)
    measurement, _ = adopt_ct(raw, measured_settings({"working_matrix": 96, "holdout_views": 3}), "scan")
    problem, units = ct_problem(measurement)
    image = units.to_physical(CLASSICAL["cgls"](problem, {"iterations": 15}))
    found = [disc_mean(image, measurement.metadata["grid"], *place) for place in ((-45, 20, 10), (35, 15, 10))]
    assert found == pytest.approx([0, 300], abs=25)
    assert len(beam_from_dict(measurement.metadata["heldout_beam"]).angles_rad) == 3
    assert units.heldout.error(problem.x_init) < 0.2
    assert 0.2 < problem.chi2(torch.from_numpy(image / 1000)) < 3


def test_without_a_water_value_hu_are_relative_and_said_to_be():
    settings = measured_settings({"working_matrix": 64})
    measurement, _ = adopt_ct(water_scan(FAN), settings, "scan")
    meta = measurement.metadata
    assert meta["mu_water_per_mm"] == pytest.approx(0.02, rel=0.03)
    assert meta["units"] == RELATIVE_HU
    assert any("no water value" in words for words in meta["warnings"])
    assert ct_problem(measurement)[1].name == RELATIVE_HU


def test_object_level_of_the_helsinki_disc(tmp_path):
    write_helsinki(tmp_path / "a" / "htc.mat", 0, 200)
    ingest.main(["--study", str(tmp_path / "a"), "--out", str(tmp_path / "i"), "--settings", '{"modality": "ct"}'])
    (series,) = (path for path in (tmp_path / "i").iterdir() if path.is_dir())
    assert object_level(prepare(read_ingested(series), measured_settings({}))) == pytest.approx(ACRYLIC, rel=0.03)


@pytest.mark.interop("read", "Helsinki Tomography Challenge 2022 .mat through measure", "closed-form disc with holes")
@pytest.mark.parametrize(("limits", "matrix", "error"), [((0, 360), 128, 0.03), ((40, 130), 128, 0.3)])
def test_helsinki_files_reconstruct_from_the_file_alone(tmp_path, limits, matrix, error, record_property):
    write_helsinki(tmp_path / "study" / "htc2022_05a.mat", *limits)
    out = tmp_path / "ingest"
    assert ingest.main(["--study", str(tmp_path / "study"), "--out", str(out), "--settings", '{"modality": "ct"}']) == 0
    row = json.loads((out / "manifest.json").read_text())["series"][0]
    assert (row["kind"], row["modality"], row["accepted"]) == ("projections", "ct", True)
    section = {"source": "measured", "views": {"every": 6}, "working_matrix": matrix, "mu_water_per_mm": ACRYLIC}
    arguments = ["--input", str(out / row["series"]), "--out", str(tmp_path / "m"), "--settings", json.dumps(section)]
    assert measure.main(arguments) == 0
    problem, units = load_problem(tmp_path / "m")
    image = units.to_physical(CLASSICAL["tv"](problem, {"iterations": 25}))
    grid = read_measurement(tmp_path / "m").metadata["grid"]
    material = disc_mean(image, grid, -20, -5, 4)
    hole = disc_mean(image, grid, 10, 12, 4)
    record_property("measured", f"acrylic {material:+.0f} HU, hole {hole:.0f} HU")
    assert material == pytest.approx(0, abs=1000 * error)
    assert hole < -1000 * (1 - 2 * error)
    # All views of the full scan make a reference; a limited range makes none.
    assert (tmp_path / "m" / "truth.nii.gz").is_file() is (limits == (0, 360))


def test_the_reference_is_the_classical_image_of_all_views(tmp_path):
    beam = ParallelBeam(view_angles(180, 180), 128, 1.5)
    settings = measured_settings({"mu_water_per_mm": 0.02, "working_matrix": 96, "views": {"every": 6}})
    measurement, reference = adopt_ct(water_scan(beam), settings, "scan")
    assert measurement.metadata["reference"] == {"method": "fbp", "views": 180}
    assert reference.shape == measurement.shape_zyx
    assert disc_mean(reference, measurement.metadata["grid"], 25, 10, 6) == pytest.approx(1000, abs=30)
    assert adopt_ct(water_scan(beam), replace(settings, reference=False), "scan")[1] is None


def test_small_objects_are_shown_to_the_prior_as_large_as_a_trunk():
    large = ParallelBeam(view_angles(30, 180), 160, 1.5)
    measurement, _ = adopt_ct(water_scan(large), measured_settings({"working_matrix": 96}), "scan")
    assert measurement.metadata["prior_scale"] == 1.0
    small = replace(water_scan(PARALLEL), geometry=replace(PARALLEL, bin_mm=0.3).to_dict())
    measurement, _ = adopt_ct(small, measured_settings({"working_matrix": 96}), "scan")
    assert ct_problem(measurement)[0].spacing_mm[2] == pytest.approx(4.0)
    assert measurement.spacing_mm[2] == pytest.approx(0.4, rel=1e-4)
    assert any("prior is told" in words for words in measurement.metadata["warnings"])
    told = measured_settings({"working_matrix": 96, "prior_pixel_mm": "none"})
    assert adopt_ct(small, told, "scan")[0].metadata["prior_scale"] == 1.0


def test_the_image_wish_of_the_geometry_wins():
    raw = replace(water_scan(FAN), image={"matrix": 80, "pixel_mm": 2.0})
    measurement, _ = adopt_ct(raw, measured_settings({"working_matrix": 64}), "scan")
    assert measurement.metadata["grid"] == {"rows": 80, "columns": 80, "pixel_mm": 2.0}
    with pytest.raises(InputError, match="reaches the source"):
        adopt_ct(replace(raw, image={"matrix": 800, "pixel_mm": 2.0}), measured_settings({}), "scan")


def test_projections_that_are_cut_off_get_a_wider_image_and_a_warning():
    narrow = ParallelBeam(view_angles(90, 180), 64, 1.5)
    raw = replace(water_scan(narrow), geometry=narrow.to_dict())
    measurement, _ = adopt_ct(raw, measured_settings({"mu_water_per_mm": 0.02, "working_matrix": 64}), "scan")
    assert measurement.metadata["truncated"]
    assert measurement.metadata["grid"]["pixel_mm"] == pytest.approx(1.4 * 64 * 1.5 / 64)
    assert any("past the detector" in words for words in measurement.metadata["warnings"])
    problem, units = ct_problem(measurement)
    image = units.to_physical(CLASSICAL["fbp"](problem))
    assert disc_mean(image, measurement.metadata["grid"], -10, 20, 6) == pytest.approx(0, abs=120)


@pytest.mark.parametrize("form", ["npy", "h5", "tiff", "stack", "mat", "mat73"])
def test_ingest_keeps_what_every_form_says(tmp_path, form):
    write_scan(tmp_path / "study", form, chords(FAN), FAN_NOTES)
    out = tmp_path / "ingest"
    assert ingest.main(["--study", str(tmp_path / "study"), "--out", str(out), "--settings", '{"modality": "ct"}']) == 0
    (series,) = (path for path in out.iterdir() if path.is_dir())
    projections = read_ingested(series)
    assert np.abs(projections.values[0] - chords(FAN)).max() < 1e-6
    assert beam_from_dict(projections.geometry) == FAN


def test_projections_survive_their_file(tmp_path):
    raw = replace(scan(), image={"matrix": 64}, mu_water_per_mm=0.02, photons_per_count=3.0)
    write_projections(tmp_path, raw)
    again = read_ingested(tmp_path)
    for name in ("kind", "geometry", "slice_mm", "image", "mu_water_per_mm", "photons_per_count"):
        assert getattr(again, name) == getattr(raw, name)
    for name in ("flat", "flat_after", "dark"):
        assert np.array_equal(getattr(again, name).variance, getattr(raw, name).variance)
        assert getattr(again, name).count == getattr(raw, name).count


WRONG = [
    ({"rings": "sorting"}, "choose one of none, sort, wavelet"),
    ({"centre_of_rotation": "maybe"}, "is not auto, none or a number"),
    ({"centre_of_rotation": float("nan")}, "out of range"),
    ({"prior_pixel_mm": -1}, "out of range"),
    ({"views": {"evry": 2}}, "unknown key 'evry'"),
    ({"views": {"every": 0}}, "whole number of at least 1"),
    ({"views": {"range_deg": [3]}}, "[first, last]"),
    ({"views": {"range_deg": [500, 501]}}, "0 views are left of 60"),
    ({"join_bins": 0}, "out of range"),
    ({"working_matrx": 3}, "did you mean 'working_matrix'"),
]


@pytest.mark.parametrize(("section", "words"), WRONG)
def test_wrong_settings_are_one_sentence(section, words):
    with pytest.raises(InputError) as caught:
        adopt_ct(water_scan(FAN), measured_settings(section), "scan")
    assert words in caught.value.user_message


def test_what_only_simulations_use_is_left_alone():
    """Cohorts get these from configs/default.yaml whatever their source."""
    section = {"source": "measured", "beam": "parallel", "views": 30, "range_deg": 180, "photons": 1e4, "seed": 0}
    assert measured_settings(section | {"working_matrix": 256}).views is None


def test_a_volume_is_no_projections(tmp_path, capsys):
    (tmp_path / "volume.nii.gz").write_bytes(b"")
    settings = '{"modality": "ct", "source": "measured"}'
    assert measure.main(["--input", str(tmp_path), "--out", str(tmp_path / "m"), "--settings", settings]) == 1
    assert "set measure.source to simulate" in capsys.readouterr().err


def test_the_written_reference_says_what_it_is(tmp_path):
    write_projections(tmp_path / "s", water_scan(ParallelBeam(view_angles(60, 180), 96, 2.0)))
    settings = {"modality": "ct", "source": "measured", "views": {"every": 2}, "working_matrix": 48}
    arguments = ["--input", str(tmp_path / "s"), "--out", str(tmp_path / "m"), "--settings", json.dumps(settings)]
    assert measure.main(arguments) == 0
    assert read_volume(tmp_path / "m" / "truth.nii.gz").array_zyx.shape == (2, 48, 48)
    description = nibabel.load(tmp_path / "m" / "truth.nii.gz").header["descrip"]
    assert b"all views" in bytes(description)


def test_a_slab_of_slices_is_taken_and_rows_of_a_cone_are_no_slices(tmp_path, capsys):
    stack = np.stack([chords(FAN) * (1 + row / 10) for row in range(4)], axis=1).astype(np.float32)
    write_notes(tmp_path / "study", FAN_NOTES | {"axes": "views rows columns"})
    np.save(tmp_path / "study" / "scan.npy", stack)
    arguments = ["--study", str(tmp_path / "study"), "--out", str(tmp_path / "i")]
    arguments += ["--settings", '{"modality": "ct", "slices": [1, 3]}']
    assert ingest.main(arguments) == 0
    (series,) = (path for path in (tmp_path / "i").iterdir() if path.is_dir())
    assert np.array_equal(read_ingested(series).values, stack.transpose(1, 0, 2)[1:3])
    write_notes(tmp_path / "study", FAN_NOTES | {"axes": "views rows columns", "type": "cone"})
    assert ingest.main(arguments) == 1
    assert "rows are no slices" in capsys.readouterr().err


def test_samples_that_are_not_finite_are_told_and_count_for_nothing(tmp_path):
    values = chords(FAN)
    values[3, 40:44] = np.nan
    write_scan(tmp_path / "study", "npy", values, FAN_NOTES)
    out = tmp_path / "i"
    assert ingest.main(["--study", str(tmp_path / "study"), "--out", str(out), "--settings", '{"modality": "ct"}']) == 0
    row = json.loads((out / "manifest.json").read_text())["series"][0]
    assert row["warnings"] == ["4 samples are not finite; they count for nothing"]
    section = {"holdout_views": 0, "join_bins": 1, "working_matrix": 48}
    measurement, _ = adopt_ct(read_ingested(out / row["series"]), measured_settings(section), "scan")
    assert (measurement.tensors["weights"][0, 3, 40:44] == 0).all()
    assert np.isfinite(measurement.tensors["line_integrals"]).all()
