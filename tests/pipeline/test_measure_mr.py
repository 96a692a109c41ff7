"""Stage `measure`, MR: simulated and adopted k-space."""

import numpy as np
import pytest
import torch

from data.kspace_common import KSpace
from data.volume import Volume
from operators.fourier import fft2, ifft2
from pipeline import kspace as ks
from pipeline.adopt_mr import adopt_mr
from pipeline.measure import main
from pipeline.measure_mr import (
    crop_kspace,
    cropped_affine,
    resample_sensitivities,
    simulate_mr,
    working_matrix,
)
from pipeline.measurement import read_measurement, unpack_kspace, write_tensors
from pipeline.settings import MrMeasureSettings


def head(shape=(2, 32, 40), rng=None):
    """A smooth positive ellipsoid with an inner structure."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
    inside = (y / 0.8) ** 2 + (x / 0.7) ** 2 < 1
    return Volume.from_affine(
        (inside * (600 + 200 * np.cos(6 * x) + 100 * z)).astype(np.float32), np.diag([2.0, 2, 4, 1])
    )


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
