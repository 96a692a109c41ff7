import numpy as np
import pytest
from scipy import stats

from pipeline import metrics
from pipeline.uncertainty import summarise

EVERYWHERE = np.ones((6, 10, 12), bool)


def test_psnr_and_rmse_of_a_known_offset():
    truth = np.random.default_rng(0).uniform(-900, 900, EVERYWHERE.shape)
    for plane in metrics.PLANES:
        assert metrics.psnr_db(truth + 20, truth, 2000, plane, EVERYWHERE) == pytest.approx(40.0)
        assert metrics.rmse(truth + 20, truth, plane, EVERYWHERE) == pytest.approx(20.0)


def test_psnr_is_the_mean_of_slice_values_and_leaves_out_slices_without_mask():
    truth = np.zeros((3, 8, 8))
    estimate = truth + np.array([0.1, 0.01, 5.0])[:, None, None]
    mask = np.zeros(truth.shape, bool)
    mask[:2, 4, 4] = True
    assert metrics.psnr_db(estimate, truth, 1.0, "axial", mask) == pytest.approx((20 + 40) / 2)
    assert metrics.rmse(estimate, truth, "axial", mask) == pytest.approx(np.sqrt((0.1**2 + 0.01**2) / 2))


def test_planes_cut_the_axes_they_name():
    truth = np.zeros((4, 8, 8))
    estimate = truth.copy()
    estimate[:, :, 3] = 0.5
    mask = np.zeros(truth.shape, bool)
    mask[:, :, 3] = True
    assert metrics.rmse(estimate, truth, "sagittal", mask) == pytest.approx(0.5)
    assert metrics.rmse(estimate, truth, "coronal", mask) == pytest.approx(0.5 / np.sqrt(8))


def test_ssim_of_constant_slices_is_the_luminance_term():
    truth, estimate = np.full((7, 9, 9), 400.0), np.full((7, 9, 9), 500.0)
    stabiliser = (0.01 * 2000) ** 2
    luminance = (2 * 400 * 500 + stabiliser) / (400**2 + 500**2 + stabiliser)
    mask = np.ones(truth.shape, bool)
    for plane in metrics.PLANES:
        assert metrics.ssim(estimate, truth, 2000, plane, mask) == pytest.approx(luminance, rel=1e-9)


def test_ssim_is_empty_where_a_slice_is_smaller_than_the_window():
    volume = np.zeros((3, 16, 16))
    mask = np.ones(volume.shape, bool)
    assert metrics.ssim(volume, volume, 1.0, "axial", mask) == pytest.approx(1.0)
    assert np.isnan(metrics.ssim(volume, volume, 1.0, "coronal", mask))


def test_z_jump_of_a_stretched_ramp_and_of_noise_that_copies_the_truth():
    ramp = np.broadcast_to(np.arange(6.0)[:, None, None], EVERYWHERE.shape)
    assert metrics.z_jump(2.5 * ramp + 7, ramp, EVERYWHERE) == pytest.approx(2.5)
    outside = EVERYWHERE.copy()
    outside[3:] = False
    spoiled = np.where(outside, ramp, 1000.0)
    assert metrics.z_jump(spoiled, ramp, outside) == pytest.approx(1.0)
    assert np.isnan(metrics.z_jump(ramp[:1], ramp[:1], EVERYWHERE[:1]))


def test_crps_of_gaussian_samples_is_the_analytic_one():
    rng = np.random.default_rng(1)
    shape, draws, offset, sigma = (20, 60, 60), 6, 1.3, 2.0
    truth = np.full(shape, offset)
    samples = rng.normal(0, sigma, (draws, *shape))
    z = offset / sigma
    analytic = sigma * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))
    assert metrics.crps(samples, truth, np.ones(shape, bool)) == pytest.approx(analytic, abs=0.01)


def test_crps_agrees_with_the_double_sum():
    rng = np.random.default_rng(2)
    samples, truth = rng.normal(size=(5, 2, 3, 4)), rng.normal(size=(2, 3, 4))
    pairs = np.abs(samples[:, None] - samples[None]).sum((0, 1)) / (2 * 5 * 4)
    expected = np.mean(np.abs(samples - truth).mean(0) - pairs)
    assert metrics.crps(samples, truth, np.ones(truth.shape, bool)) == pytest.approx(expected)


@pytest.mark.parametrize("draws", [2, 4, 16])
def test_exchangeable_draws_are_covered_and_calibrated(draws):
    rng = np.random.default_rng(3)
    shape = (16, 64, 64)
    centre = rng.normal(0, 5, shape)
    spread = rng.uniform(0.5, 2, shape)
    samples = centre + spread * rng.normal(size=(draws, *shape))
    truth = centre + spread * rng.normal(size=shape)
    mask = np.ones(shape, bool)
    summary = summarise(samples, 0.9)
    assert metrics.coverage(summary.lower, summary.upper, truth, mask) == pytest.approx(0.90, abs=0.01)
    assert metrics.calibration_ratio(samples, truth, mask) == pytest.approx(1.0, abs=0.03)


def test_calibration_ratio_is_the_square_of_an_overstated_spread():
    rng = np.random.default_rng(4)
    shape, draws = (16, 64, 64), 8
    samples = 2 * rng.normal(size=(draws, *shape))
    truth = rng.normal(size=shape)
    expected = (1 + 1 / draws) * 4 / (1 + 4 / draws)
    assert metrics.calibration_ratio(samples, truth, np.ones(shape, bool)) == pytest.approx(expected, rel=0.03)


def test_one_sample_has_no_spread_to_judge():
    one = np.zeros((1, 2, 2, 2))
    mask = np.ones((2, 2, 2), bool)
    assert np.isnan(metrics.crps(one, one[0], mask))
    assert np.isnan(metrics.calibration_ratio(one, one[0], mask))
