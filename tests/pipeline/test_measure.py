"""Stage `measure`, CT: simulated projections."""

import json

import numpy as np
import pytest

from data.nifti import read_volume, write_volume
from data.volume import Volume
from pipeline.measure import main
from pipeline.measure_ct import (
    area_average,
    field_of_view_radius_mm,
    make_beam,
    mu_integrals,
    regrid_affine,
    simulate_ct,
)
from pipeline.measurement import read_measurement
from pipeline.settings import CtMeasureSettings


def water_disc(matrix, pixel_mm, radius_mm, centre_mm=(0.0, 0.0), oversampling=8):
    """HU of a disc of water in air, by the share of each pixel that it covers."""
    fine = matrix * oversampling
    at = (np.arange(fine) - (fine - 1) / 2) * pixel_mm / oversampling
    inside = np.hypot(at[None] - centre_mm[0], at[:, None] - centre_mm[1]) <= radius_mm
    share = inside.reshape(matrix, oversampling, matrix, oversampling).mean((1, 3))
    return (1000 * (share - 1)).astype(np.float32)[None]


def ct_volume(matrix=64, pixel_mm=2.0, slices=2, radius_mm=40.0):
    disc = np.repeat(water_disc(matrix, pixel_mm, radius_mm, (5.0, -8.0)), slices, axis=0)
    return Volume.from_affine(disc, np.diag([-pixel_mm, -pixel_mm, 3.0, 1.0]))



def test_area_average_keeps_means_and_splits_cells():
    plane = np.array([[[1.0, 2, 3], [4, 5, 6], [7, 8, 9]]])
    np.testing.assert_allclose(area_average(plane, (3, 3)), plane)
    halves = area_average(plane, (2, 2))
    np.testing.assert_allclose(halves[0, 0, 0], (1 + 2 / 2 + 4 / 2 + 5 / 4) / 2.25, rtol=1e-6)
    np.testing.assert_allclose(halves.mean(), 5.0, rtol=1e-6)


@pytest.mark.parametrize("matrix", [(6, 6), (5, 4), (12, 12)])
def test_a_coarser_grid_stays_where_it_was_in_the_patient(matrix):
    rows = columns = 12
    affine = np.array([[0, -2.0, 0, 30], [1.5, 0, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]])
    x, y = np.meshgrid(np.arange(columns), np.arange(rows))
    world = np.stack([affine[axis, 0] * x + affine[axis, 1] * y + affine[axis, 3] for axis in range(2)])
    coarse = regrid_affine(affine, (rows / matrix[0], columns / matrix[1]), (0, 0))
    averaged = area_average(world, matrix)
    x, y = np.meshgrid(np.arange(matrix[1]), np.arange(matrix[0]))
    expected = np.stack([coarse[axis, 0] * x + coarse[axis, 1] * y + coarse[axis, 3] for axis in range(2)])
    # A cell that is split counts with its one value, so a ramp is kept to a fraction of a cell where cells are split.
    np.testing.assert_allclose(averaged, expected, atol=1e-4 if rows % matrix[0] == columns % matrix[1] == 0 else 0.12)


@pytest.mark.parametrize("beam", ["parallel", "fan"])
def test_noiseless_rays_through_a_disc_are_its_chords(beam):
    settings = CtMeasureSettings(beam=beam, views=7, range_deg=360.0, simulation_model="line")
    pixel_mm, radius, centre = 0.5, 40.0, (5.0, -8.0)
    geometry = make_beam(settings, 128, 1.0)
    integrals = mu_integrals(water_disc(256, pixel_mm, radius, centre), pixel_mm, geometry, settings, native=True)[0]
    angles = np.array(geometry.angles_rad)[:, None]
    s = (np.arange(geometry.bins) - (geometry.bins - 1) / 2) * geometry.bin_mm
    if beam == "fan":
        fan = np.arctan2(s, settings.source_axis_mm + settings.axis_detector_mm)
        s, angles = settings.source_axis_mm * np.sin(fan), angles - fan
    # Rows run downwards, so the disc's centre is at y = -centre[1].
    distance = s - (centre[0] * np.cos(angles) - centre[1] * np.sin(angles))
    chords = 0.0192 * 2 * np.sqrt(np.maximum(radius**2 - distance**2, 0))
    error = integrals.numpy() - chords
    assert np.sqrt(np.mean(error**2)) < 0.005 * chords.max()
    assert integrals.sum() == pytest.approx(chords.sum(), rel=2e-3)


def test_truth_is_the_volume_averaged_and_padding_becomes_air():
    volume = ct_volume()
    array = volume.array_zyx.copy()
    array[:, :3] = -2000
    measurement, truth = simulate_ct(
        Volume.from_affine(array, volume.affine), CtMeasureSettings(working_matrix=32), "v"
    )
    assert truth.shape == measurement.shape_zyx == (2, 32, 32)
    np.testing.assert_allclose(truth, np.maximum(array, -1000).reshape(2, 32, 2, 32, 2).mean((2, 4)), atol=1e-2)
    assert measurement.spacing_mm == (3.0, 4.0, 4.0)
    assert measurement.tensors["line_integrals"].shape == (2, 30, 48)


def test_a_volume_that_is_not_square_is_padded_with_air_and_keeps_its_place():
    volume = ct_volume()
    cut = Volume.from_affine(
        volume.array_zyx[:, 8:56], volume.affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 8], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    )
    whole, whole_truth = simulate_ct(volume, CtMeasureSettings(working_matrix=32), "v")
    padded, padded_truth = simulate_ct(cut, CtMeasureSettings(working_matrix=32), "v")
    np.testing.assert_allclose(padded_truth, whole_truth)
    np.testing.assert_allclose(padded.affine, whole.affine)


def test_noise_has_the_size_that_was_asked_for_and_weights_say_so():
    volume = ct_volume(slices=12)
    settings = CtMeasureSettings(working_matrix=32, noise_of_largest_ray=0.01, model_error=0.0)
    measurement, _ = simulate_ct(volume, settings, "v")
    pixel_mm = measurement.spacing_mm[1]
    clean = mu_integrals(volume.array_zyx, 2.0, make_beam(settings, 32, pixel_mm), settings, native=True).numpy()
    noise = measurement.tensors["line_integrals"] - clean
    assert np.sqrt(np.mean(noise**2)) == pytest.approx(0.01 * clean.max(), rel=0.03)
    assert np.mean(measurement.tensors["weights"] * noise**2) == pytest.approx(1.0, abs=0.05)


def test_model_error_lowers_the_weights_of_rays_through_matter_only():
    volume = ct_volume()
    with_error, without = (
        simulate_ct(volume, CtMeasureSettings(working_matrix=32, photons=1e6, model_error=size), "v")[0].tensors
        for size in (0.01, 0.0)
    )
    share = with_error["weights"] / without["weights"]
    assert share[without["line_integrals"] < 0.002].min() > 0.95
    assert share[without["line_integrals"] > 1].max() < 0.2


def test_a_small_detector_sees_a_disc_and_nothing_outside_it():
    settings = CtMeasureSettings(working_matrix=32, bins=20)
    measurement, truth = simulate_ct(ct_volume(radius_mm=60.0), settings, "v")
    radius = field_of_view_radius_mm(make_beam(settings, 32, 4.0))
    centres = (np.arange(32) - 15.5) * 4.0
    outside = np.hypot(centres[:, None], centres[None]) > radius
    assert radius == 40.0
    assert (truth[:, outside] == -1000).all()
    assert (truth[:, ~outside] > -1000).any()
    assert measurement.tensors["line_integrals"].shape[-1] == 20


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"views": 2_000_000}, "views"),
        ({"views": 90_000, "working_matrix": 64, "bins": 90_000}, "GB are free"),
        ({"view": 3}, "did you mean 'views'"),
        ({"beam": "helix"}, "parallel, fan"),
        ({"working_matrix": 64, "simulation_model": "linear"}, "must differ"),
        ({"source": "measured"}, "set measure.source to simulate"),
        ({"photons": -1}, "measure.photons"),
    ],
)
def test_bad_ct_settings_are_one_sentence_and_leave_nothing(tmp_path, capsys, section, words):
    write_volume(tmp_path / "ingest" / "S1" / "volume.nii.gz", ct_volume().array_zyx, ct_volume().affine)
    assert main([
        "--input", str(tmp_path / "ingest" / "S1"), "--out", str(tmp_path / "out"),
        "--settings", json.dumps({"modality": "ct"} | section),
    ]) == 1  # fmt: skip
    error = capsys.readouterr().err.strip()
    assert words in error
    assert len(error.splitlines()) == 1
    assert not list((tmp_path / "out").glob("*"))


def test_pixels_that_are_far_from_square_are_refused():
    volume = Volume.from_affine(ct_volume().array_zyx, np.diag([0.2, 2.5, 3.0, 1.0]))
    with pytest.raises(ValueError, match="too far from square"):
        simulate_ct(volume, CtMeasureSettings(), "v")


def test_ct_stage_reads_the_modality_from_the_manifest_and_repeats_itself(tmp_path):
    series = tmp_path / "ingest" / "S1"
    write_volume(series / "volume.nii.gz", ct_volume().array_zyx, ct_volume().affine)
    (series.parent / "manifest.json").write_text(json.dumps({"series": [{"series": "S1", "modality": "CT"}]}))
    for out in ("a", "b"):
        arguments = ["--input", str(series), "--out", str(tmp_path / out), "--settings", '{"working_matrix": 32}']
        assert main(arguments) == 0
    first, second = (read_measurement(tmp_path / out) for out in ("a", "b"))
    assert all(np.array_equal(first.tensors[name], second.tensors[name]) for name in first.tensors)
    np.testing.assert_allclose(read_volume(tmp_path / "a" / "truth.nii.gz").affine, first.affine, atol=1e-5)
