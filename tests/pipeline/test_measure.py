import json

import numpy as np
import pytest
import torch

from data.kspace_common import KSpace
from data.nifti import read_volume, write_volume
from data.volume import Volume
from operators.fourier import fft2, ifft2
from pipeline import kspace as ks
from pipeline.adopt_mr import adopt_mr
from pipeline.measure import main
from pipeline.measure_ct import (
    area_average,
    field_of_view_radius_mm,
    make_beam,
    mu_integrals,
    regrid_affine,
    simulate_ct,
)
from pipeline.measure_mr import (
    crop_kspace,
    cropped_affine,
    resample_sensitivities,
    simulate_mr,
    working_matrix,
)
from pipeline.measurement import read_measurement, unpack_kspace, write_tensors
from pipeline.settings import CtMeasureSettings, MrMeasureSettings


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


def head(shape=(2, 32, 40), rng=None):
    """A smooth positive ellipsoid with an inner structure."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
    inside = (y / 0.8) ** 2 + (x / 0.7) ** 2 < 1
    return Volume.from_affine(
        (inside * (600 + 200 * np.cos(6 * x) + 100 * z)).astype(np.float32), np.diag([2.0, 2, 4, 1])
    )


# --- CT ---------------------------------------------------------------------------------------------------------------


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


# --- MR ---------------------------------------------------------------------------------------------------------------


def test_full_noiseless_kspace_gives_the_volume_back():
    volume = head()
    settings = MrMeasureSettings(acceleration=1.0, noise_fraction=1e-6, coils=4)
    measurement, truth = simulate_mr(volume, settings, "v")
    kspace, mask = unpack_kspace(measurement.tensors)
    combined = (ifft2(torch.from_numpy(kspace)).numpy() * measurement.tensors["sensitivities"].conj()).sum(1)
    assert mask.all()
    np.testing.assert_allclose(truth, volume.array_zyx, atol=0.02)
    np.testing.assert_allclose(np.abs(combined), truth, atol=0.02)
    assert np.abs(np.angle(combined[truth > 100])).max() > 0.1


def test_undersampled_kspace_is_noise_where_sampled_and_zero_elsewhere():
    measurement, truth = simulate_mr(head((8, 64, 64)), MrMeasureSettings(noise_fraction=0.02), "v")
    clean, _ = simulate_mr(head((8, 64, 64)), MrMeasureSettings(noise_fraction=1e-6), "v")
    noisy, mask = unpack_kspace(measurement.tensors)
    difference = (noisy - unpack_kspace(clean.tensors)[0])[..., mask]
    sigma = 0.02 * np.percentile(truth, 99.5)
    assert difference.real.std() == pytest.approx(sigma, rel=0.03)
    assert difference.imag.std() == pytest.approx(sigma, rel=0.03)
    assert measurement.metadata["noise"]["sigma_per_coil"][0] == pytest.approx(sigma)
    assert 2.5 < 1 / mask.mean() < 6
    assert not noisy[..., ~mask].any()


def test_a_cropped_kspace_keeps_intensities_and_the_affine_keeps_the_field_of_view():
    flat = torch.full((1, 12, 16), 3.0, dtype=torch.complex64)
    small = ifft2(crop_kspace(fft2(flat), (8, 6)))
    np.testing.assert_allclose(small.numpy(), 3.0, atol=1e-5)
    measurement, truth = simulate_mr(head((2, 64, 64)), MrMeasureSettings(working_spacing_mm=4.0), "v")
    assert truth.shape == (2, 32, 32)
    assert measurement.spacing_mm == pytest.approx((4.0, 4.0, 4.0))
    mean = head((2, 64, 64)).array_zyx.mean()
    assert truth.mean() == pytest.approx(mean, rel=0.03)


@pytest.mark.parametrize(("columns", "matrix"), [(32, 16), (32, 20), (31, 16), (30, 30)])
def test_a_wave_keeps_its_place_in_the_patient_when_kspace_is_cropped(columns, matrix):
    native = np.diag([2.0, 2.0, 1.0, 1.0])
    field_mm = 2.0 * columns
    wave = np.exp(2j * np.pi * 3 * 2.0 * np.arange(columns) / field_mm) * np.ones((1, 24, 1))
    coarse = ifft2(crop_kspace(fft2(torch.from_numpy(wave)), (12, matrix))).numpy()[0, 0]
    affine = cropped_affine(native, (24, columns), (12, matrix))
    at_mm = affine[0, 0] * np.arange(matrix) + affine[0, 3]
    np.testing.assert_allclose(coarse, np.exp(2j * np.pi * 3 * at_mm / field_mm), atol=1e-6)


def test_coarser_sensitivities_lie_where_the_cropped_image_lies():
    columns, matrix = 32, 20
    angle = torch.linspace(0, 1.5, columns).expand(1, 1, 8, columns)
    coils = torch.cat([angle.cos(), angle.sin()], dim=1).to(torch.complex64)
    coarse = resample_sensitivities(coils, (8, matrix))[0].real
    affine = cropped_affine(np.eye(4), (8, columns), (8, matrix))
    places = np.minimum(affine[0, 0] * np.arange(matrix) + affine[0, 3], columns - 1)
    found = torch.atan2(coarse[1, 0], coarse[0, 0]).numpy()
    np.testing.assert_allclose(found, 1.5 * places / (columns - 1), atol=1e-4)


def test_working_matrix_is_even_and_never_finer():
    volume = head((2, 50, 61))
    assert working_matrix(volume, None) == (50, 61)
    assert working_matrix(volume, 3.0) == (34, 40)
    assert working_matrix(volume, 1.0) == (50, 61)


def test_coarser_sensitivities_are_normalised():
    rng = np.random.default_rng(0)
    coils = torch.from_numpy(rng.normal(size=(2, 3, 12, 12)) + 1j * rng.normal(size=(2, 3, 12, 12))).to(torch.complex64)
    power = resample_sensitivities(coils, (6, 4)).abs().square().sum(1)
    np.testing.assert_allclose(power.numpy(), 1.0, rtol=1e-5)


def test_calibration_is_the_sampled_rectangle_about_the_centre():
    mask = np.zeros((20, 30), bool)
    mask[6:15, 11:21] = True
    mask[7, 22] = mask[2, 15] = True
    assert ks.find_calibration(mask) == (slice(6, 15), slice(11, 21))
    lines = np.zeros((20, 30), bool)
    lines[:, 13:18] = True
    lines[:, 25] = True
    assert ks.find_calibration(lines) == (slice(0, 20), slice(13, 18))
    rows, columns = ks.find_calibration(np.zeros((4, 4), bool))
    assert (rows.stop - rows.start) * (columns.stop - columns.start) == 0


def test_noise_is_found_beneath_a_strong_image():
    rng = np.random.default_rng(0)
    at = torch.linspace(-3, 3, 64)
    image = 600 * torch.exp(-(at[:, None] ** 2) - at**2).expand(4, 64, 64).to(torch.complex64)
    clean = fft2(image[:, None] * torch.tensor([1.0, 0.3])[None, :, None, None]).numpy()
    sigma = np.array([4.0, 9.0])
    noise = rng.normal(size=(*clean.shape, 2)) @ np.array([1, 1j]) * sigma[None, :, None, None]
    mask = rng.random((64, 64)) < 0.4
    found = ks.noise_per_coil((clean + noise) * mask, mask, "k")
    np.testing.assert_allclose(found, sigma, rtol=0.15)


def test_heldout_places_and_lines_are_disjoint_and_spare_the_centre():
    rng = np.random.default_rng(0)
    places = rng.random((40, 50)) < 0.3
    places[15:25, 20:30] = True
    kept, heldout = ks.split_heldout(places, (slice(15, 25), slice(20, 30)), 0.05, rng)
    assert not (kept & heldout).any()
    np.testing.assert_array_equal(kept | heldout, places)
    assert heldout.sum() == round(0.05 * (places.sum() - 100))
    assert not heldout[15:25, 20:30].any()
    lines = np.broadcast_to(rng.random(50) < 0.5, (40, 50)).copy()
    lines[:, 20:30] = True
    kept, heldout = ks.split_heldout(lines, (slice(0, 40), slice(20, 30)), 0.1, rng)
    assert heldout.any()
    assert all(column.all() or not column.any() for column in heldout.T)


def test_kspace_with_its_peak_in_the_corner_is_shifted():
    image = torch.from_numpy(head((1, 16, 16)).array_zyx).to(torch.complex64)
    centred = fft2(image[:, None]).numpy()
    np.testing.assert_array_equal(ks.centre_kspace(np.fft.ifftshift(centred, axes=(-2, -1))), centred)
    np.testing.assert_array_equal(ks.centre_kspace(centred), centred)


def measured_kspace(coils=4):
    settings = MrMeasureSettings(acceleration=1.0, noise_fraction=0.01, coils=coils)
    kspace, _ = unpack_kspace(simulate_mr(head((1, 64, 64)), settings, "v")[0].tensors)
    mask = np.random.default_rng(0).random((64, 64)) < 0.4
    mask[26:39, 26:39] = True
    return kspace * mask, mask


def test_measured_kspace_is_adopted_whole_and_partly_kept_back(tmp_path, capsys):
    kspace, mask = measured_kspace()
    series = tmp_path / "ingest" / "S1"
    write_tensors(series / "kspace.safetensors", {"kspace": kspace}, {"affine": np.diag([2.0, 2, 4, 1]).tolist()})
    settings = '{"source": "measured", "holdout_fraction": 0.04}'
    assert main(["--input", str(series), "--out", str(tmp_path / "m"), "--settings", settings]) == 0
    measurement = read_measurement(tmp_path / "m")
    (seen, seen_mask), (kept, kept_mask) = (unpack_kspace(measurement.tensors, prefix) for prefix in ("", "heldout_"))
    np.testing.assert_array_equal(seen + kept, kspace)
    np.testing.assert_array_equal(seen_mask ^ kept_mask, mask)
    assert not (tmp_path / "m" / "truth.nii.gz").exists()
    assert measurement.modality == "mr"
    assert main(["--input", str(series), "--out", str(tmp_path / "n")]) == 1
    assert "set measure.source to measured" in capsys.readouterr().err


def test_kspace_without_a_calibration_region_is_refused():
    kspace, _ = measured_kspace()
    kspace[..., 31:34, 31:34] = 0
    settings = MrMeasureSettings(source="measured", calibration="region")
    with pytest.raises(ValueError, match="too few to estimate"):
        adopt_mr(KSpace(kspace, np.eye(4), (1.0, 1.0, 1.0)), settings, "k")
