"""Preparation of measured k-space: prewhitening, oversampling, compression, thinning, where coil maps come from."""

import numpy as np
import pytest
import torch

from data.errors import InputError
from operators.fourier import fft2
from pipeline.adopt_mr import adopt_mr, is_whole
from pipeline.kspace import noise_outside
from pipeline.measurement import unpack_kspace
from pipeline.mr_prepare import compress_coils, prewhiten, remove_oversampling, rss_image, to_working_grid
from pipeline.problem import with_start
from pipeline.problem_mr import mr_problem
from pipeline.settings import MrMeasureSettings
from tests.operators.helpers import read_cfl, write_cfl
from tests.operators.test_mri import simulated_kspace
from tests.pipeline.mr_builder import AFFINE, MEASURED, bart, complex_noise, raw


def mixing(coils, seed=3):
    return np.eye(coils) + 0.4 * complex_noise((coils, coils), seed)


@pytest.mark.oracle
@pytest.mark.interop("read", "noise prewhitening", "BART 0.8 whiten")
def test_prewhitening_is_barts_and_leaves_white_noise(tmp_path, record_property):
    """Noise of covariance M M^H: after whitening each part has unit variance; C from 2000 samples is known to 3 %."""
    mix = mixing(4)
    noise = np.einsum("dc,cn->dn", mix, complex_noise((4, 2000), 1)).astype(np.complex64)
    data = np.einsum("dc,zcyx->zdyx", mix, complex_noise((1, 4, 64, 64), 2))
    whitened, said = prewhiten(raw(data, noise=noise), "k")
    parts = whitened.array[0].reshape(4, -1)
    covariance = parts @ parts.conj().T / parts.shape[1] / 2
    assert np.abs(covariance - np.eye(4)).max() < 0.1
    assert said == ["prewhitened with 2000 noise samples of each of 4 coils"]
    write_cfl(tmp_path / "k", data[0].transpose(2, 1, 0)[:, :, None])
    write_cfl(tmp_path / "n", noise.T[:, None, None])
    bart(tmp_path, "whiten", "-n", "k", "n", "w")
    theirs = read_cfl(tmp_path / "w").reshape(64, 64, 4).transpose(2, 1, 0)
    factor = np.vdot(theirs, whitened.array[0]) / np.vdot(theirs, theirs)
    worst = np.abs(whitened.array[0] - factor * theirs).max() / np.abs(theirs).max()
    record_property("measured", f"largest difference {worst:.0e} of the largest sample")
    assert worst < 1e-2
    assert abs(factor) == pytest.approx(np.sqrt(2), rel=0.01)


@pytest.mark.parametrize("noise", [complex_noise((4, 9)), np.ones((4, 100), np.complex64)])
def test_a_noise_scan_that_cannot_be_used_is_told(noise):
    with pytest.raises(InputError, match="prewhiten to false"):
        prewhiten(raw(complex_noise((1, 4, 8, 8)), noise=noise), "k")


def test_prewhitened_data_have_unit_noise_and_averages_less():
    mask = np.ones((64, 64), bool)
    kspace = raw(complex_noise((1, 2, 64, 64)), noise=complex_noise((2, 500), 1), mask=mask, averages=4)
    kspace.array[0, :, 24:40, 24:40] += 100 * complex_noise((2, 16, 16), 5)
    measurement, _ = adopt_mr(kspace, MEASURED, "k")
    assert measurement.metadata["noise"]["sigma_per_coil"] == [0.5, 0.5]
    assert "noise from the noise scan" in measurement.metadata["preparation"]


@pytest.mark.parametrize("size", [(48, 32), (50, 31)])
def test_oversampling_is_cropped_in_the_image_and_the_noise_stays(size):
    rows, columns = size
    keep = rows // 2
    image = complex_noise((1, 2, rows, columns))
    lines = np.arange(columns) % 3 != 0
    kspace = raw(fft2(torch.from_numpy(image)).numpy() * lines, keep=(keep, columns))
    small, said = remove_oversampling(kspace)
    assert small.array.shape == (1, 2, keep, columns)
    first = rows // 2 - keep // 2
    expected = fft2(torch.from_numpy(image[:, :, first : first + keep].copy())).numpy() * lines
    np.testing.assert_allclose(small.array, expected, atol=2e-5)
    np.testing.assert_array_equal(small.mask, np.broadcast_to(lines, (keep, columns)))
    assert small.array[..., lines].real.std() == pytest.approx(1, rel=0.1)
    np.testing.assert_allclose(small.affine @ [3, 0, 0, 1], AFFINE @ [3, first, 0, 1])
    assert said == [f"oversampling along y removed: {rows} to {keep}"]


def test_noise_is_found_beside_the_object_where_the_readout_is_oversampled():
    """A bright object in the middle half of the columns, a third of the lines: k-space has signal up to its edge."""
    sigma = np.array([0.5, 2.0])
    noise = complex_noise((1, 2, 240, 96)) * sigma[None, :, None, None].astype(np.float32)
    image = np.zeros((1, 2, 240, 96), np.complex64)
    image[..., 80:160, 30:66] = 300 * complex_noise((1, 2, 80, 36), 1)
    mask = np.arange(240)[:, None] % 3 * np.ones((1, 96)) == 0
    kspace = (fft2(torch.from_numpy(image)).numpy() + noise) * mask
    found = noise_outside(kspace, mask, (240, 48), "k")
    np.testing.assert_allclose(found, sigma, rtol=0.06)
    assert noise_outside(kspace, mask, None, "k") is None
    assert noise_outside(kspace, mask, (120, 96), "k") is None
    measurement, _ = adopt_mr(
        raw(kspace + 0, mask=mask, keep=(240, 48), calibration=fft2(torch.from_numpy(image)).numpy()), MEASURED, "k"
    )
    np.testing.assert_allclose(measurement.metadata["noise"]["sigma_per_coil"], sigma, rtol=0.06)


def test_an_asymmetric_echo_keeps_its_oversampling():
    kspace = complex_noise((1, 2, 48, 32))
    kspace[:, :, :10] = 0
    kept, said = remove_oversampling(raw(kspace, keep=(24, 32)))
    np.testing.assert_array_equal(kept.array, kspace)
    assert said == ["oversampling along y was kept: that axis was not sampled whole"]


def test_partial_fourier_is_no_shift_and_its_gap_is_no_data():
    """A point at (20, 41): its image stays there when the first 3/8 of the lines were not measured."""
    image = torch.zeros((1, 1, 64, 64), dtype=torch.complex64)
    image[..., 20, 41] = 1000
    kspace = fft2(image).numpy() + complex_noise((1, 1, 64, 64), sigma=0.1)
    kspace[..., :24] = 0
    measurement, _ = adopt_mr(raw(kspace), MEASURED, "k")
    _, mask = unpack_kspace(measurement.tensors)
    assert not mask[:, :24].any()
    assert mask[:, 24:].all()
    problem, units = mr_problem(with_start(measurement))
    assert np.unravel_index(int(problem.x_init[0].abs().argmax()), (64, 64)) == (20, 41)
    np.testing.assert_allclose(units.affine, AFFINE)


def test_a_coarser_working_grid_keeps_the_inner_samples_and_the_place():
    kspace, _, _ = simulated_kspace((1, 128, 100), noise=0.01)
    data = raw(kspace.numpy(), mask=np.ones((128, 100), bool))
    small, said = to_working_grid(data, 3.0)
    assert small.array.shape == (1, 8, 64, 66)
    np.testing.assert_array_equal(small.array, kspace.numpy()[..., 32:96, 17:83])
    assert small.spacing_mm == pytest.approx((4.0, 3.0, 200 / 66))
    np.testing.assert_allclose(small.affine @ [33, 32, 0, 1], data.affine @ [50, 64, 0, 1])
    assert said == ["working grid 64 x 66 of 128 x 100"]
    assert to_working_grid(data, 1.0)[0] is data
    angle = np.pi * np.arange(9) / 9
    radius = np.arange(64) / 2 - 16
    path = np.stack([radius * np.sin(angle)[:, None], radius * np.cos(angle)[:, None]], axis=-1).astype(np.float32)
    spokes = raw(complex_noise((1, 2, 9, 64)), trajectory=path, matrix=(32, 32))
    inner = to_working_grid(spokes, 4.0)[0]
    assert inner.matrix == (12, 16)
    assert np.abs(inner.trajectory).max() <= 6
    assert inner.array.shape[3] == inner.trajectory.shape[1] < 64


def test_an_image_at_the_edges_of_its_field_of_view_is_told():
    kspace, _, _ = simulated_kspace((1, 64, 64), noise=0.01)
    ramp = (-1.0) ** (np.arange(64)[:, None] + np.arange(64))
    for data, warned in ((kspace.numpy(), False), (kspace.numpy() * ramp, True)):
        said = adopt_mr(raw(data), MEASURED, "k")[0].metadata["warnings"]
        assert any("origin" in text for text in said) == warned


@pytest.mark.oracle
@pytest.mark.interop("read", "coil compression", "BART 0.8 cc")
def test_coils_are_compressed_as_bart_does_and_the_image_stays(tmp_path, record_property):
    kspace, _, inside = simulated_kspace((1, 96, 80), noise=0.001)
    twelve = np.einsum("dc,zcyx->zdyx", complex_noise((12, 8), 4), kspace.numpy())
    small, sigma, said = compress_coils(raw(twelve), np.ones(12), 5, 0.99)
    assert small.array.shape == (1, 5, 96, 80)
    np.testing.assert_array_equal(sigma, 1)
    assert "12 coils compressed to 5" in said[0]
    write_cfl(tmp_path / "k", twelve[0].transpose(2, 1, 0)[:, :, None])
    bart(tmp_path, "cc", "-S", "-A", "-p", 5, "k", "c")
    theirs = read_cfl(tmp_path / "c").reshape(80, 96, 5).transpose(2, 1, 0)
    ours = small.array[0].reshape(5, -1)
    turn = np.linalg.lstsq(theirs.reshape(5, -1).T, ours.T, rcond=None)[0]
    worst = np.abs(turn.T @ theirs.reshape(5, -1) - ours).max() / np.abs(ours).max()
    record_property("measured", f"same five virtual coils within {worst:.0e}")
    assert worst < 1e-4
    auto, _, said = compress_coils(raw(twelve), np.ones(12), None, 0.999)
    assert auto.array.shape[1] < 9
    images = [rss_image(k.array)[0][inside.numpy()] for k in (raw(twelve), auto)]
    assert np.abs(images[1] / images[0] - 1).mean() < 0.01


def test_data_of_few_coils_are_not_compressed():
    kspace = raw(complex_noise((1, 8, 16, 16)))
    assert compress_coils(kspace, np.ones(8), None, 0.9)[0] is kspace


def test_whole_kspace_is_thinned_on_request_and_compared_with_all_of_it():
    kspace, _, inside = simulated_kspace((2, 96, 80), noise=0.002)
    settings = MrMeasureSettings(source="measured", undersample=True, acceleration=3.0, calibration_fraction=0.2)
    reference = rss_image(kspace.numpy())[:, 10:-10, 8:-8]
    measurement, truth = adopt_mr(raw(kspace.numpy(), reference=reference), settings, "k")
    np.testing.assert_allclose(truth, rss_image(kspace.numpy()))
    _, mask = unpack_kspace(measurement.tensors)
    assert 0.25 < mask.mean() < 0.36
    said = measurement.metadata["preparation"]
    assert "the image that came with the data and that of all samples correlate with 1.0000" in said
    problem, units = mr_problem(with_start(measurement))
    error = np.abs(units.to_physical(problem.x_init) - truth)[:, inside.numpy()]
    assert error.mean() < 0.1 * truth.max()
    assert mask.T.any(axis=0).all()
    lines = adopt_mr(raw(kspace.numpy(), phase_axis="y"), settings, "k")[0]
    lines = unpack_kspace(lines.tensors)[1]
    assert all(row.all() or not row.any() for row in lines)


def test_undersampled_kspace_is_not_thinned_again():
    kspace, _, _ = simulated_kspace((1, 64, 64), noise=0.01)
    thin = kspace.numpy() * (np.arange(64) % 2 == 0)
    with pytest.raises(InputError, match="undersampled already"):
        adopt_mr(raw(thin), MrMeasureSettings(source="measured", undersample=True), "k")
    assert not is_whole(np.arange(64)[None] % 2 * np.ones((64, 1)) > 0)
    zero_filled_edges = np.ones((64, 64), bool)
    zero_filled_edges[:, :9] = False
    assert is_whole(zero_filled_edges)
