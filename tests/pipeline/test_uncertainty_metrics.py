"""Figures of uncertainty where the right answer is known."""

import numpy as np
import pytest
from scipy import ndimage, stats

from pipeline import uncertainty_metrics as um

SHAPE = (16, 64, 64)
EVERYWHERE = np.ones(SHAPE, bool)


def gaussian_world(seed: int, draws: int, overstate: float = 1.0, shape=SHAPE) -> tuple:
    """(samples, truth, spread): both about one centre with the voxel's own spread, the samples' times `overstate`."""
    rng = np.random.default_rng(seed)
    centre, spread = rng.normal(0, 5, shape), rng.uniform(0.5, 2, shape)
    samples = centre + overstate * spread * rng.normal(size=(draws, *shape))
    return samples, centre + spread * rng.normal(size=shape), spread


@pytest.mark.parametrize("draws", [2, 4, 16])
def test_exchangeable_draws_are_covered_at_every_level(draws):
    samples, truth, _ = gaussian_world(0, draws)
    for level, share in um.coverage_curve(*um.moments(samples), draws, truth, EVERYWHERE).items():
        assert share == pytest.approx(level, abs=0.008)


def test_halved_spread_covers_what_students_t_says():
    samples, truth, _ = gaussian_world(1, 8, overstate=0.5)
    # m - truth has variance 1 + 1/32 in units where s has 1/4.
    narrower = np.sqrt((1 + 1 / 8) / 4 / (1 + 1 / 32))
    cover = um.coverage_curve(*um.moments(samples), 8, truth, EVERYWHERE)
    for level, share in cover.items():
        expected = 2 * stats.t.cdf(stats.t.ppf(0.5 + level / 2, 7) * narrower, 7) - 1
        assert share == pytest.approx(expected, abs=0.008)


def test_calibration_error_is_nought_for_the_true_spread_and_the_excess_for_a_constant_excess():
    rng = np.random.default_rng(2)
    std = rng.uniform(1, 3, SHAPE)
    draws = 10**9
    truth = std * rng.normal(size=SHAPE)
    curve = um.calibration_curve(np.zeros(SHAPE), std, draws, truth, EVERYWHERE)
    assert curve["uce"] < 0.05
    assert len(curve["predicted"]) == um.BINS
    assert max(curve["counts"]) - min(curve["counts"]) <= 1
    np.testing.assert_allclose(curve["actual"], curve["predicted"], rtol=0.06)
    twice = um.calibration_curve(np.zeros(SHAPE), 2 * std, draws, truth, EVERYWHERE)
    assert twice["uce"] == pytest.approx(std.mean(), rel=0.03)


def test_sparsification_is_nought_in_the_oracles_order_and_known_for_a_useless_one():
    rng = np.random.default_rng(3)
    error = rng.uniform(0, 1, SHAPE)
    mean = np.zeros(SHAPE)
    assert um.sparsification(mean, error**3, error, EVERYWHERE)["ause"] == pytest.approx(0, abs=1e-12)
    # Errors uniform on [0, 1]: what the oracle leaves of the share 1 - f has root mean square 1 - f over all's.
    useless = um.sparsification(mean, rng.uniform(size=SHAPE), error, EVERYWHERE)
    assert useless["ause"] == pytest.approx(0.99 - (1 - 0.01**2) / 2, abs=0.01)
    assert um.sparsification(mean, -error, error, EVERYWHERE)["ause"] > useless["ause"]
    assert um.sparsification(mean, error, mean, EVERYWHERE)["ause"] == 0


def test_block_means_are_those_of_cubes_and_of_all_slices_where_there_are_few():
    array = np.arange(2 * 3 * 8 * 9, dtype=float).reshape(2, 3, 8, 9)
    blocks = um.block_means(array, 4)
    assert blocks.shape == (2, 1, 2, 2)
    assert blocks[1, 0, 1, 0] == pytest.approx(array[1, :, 4:8, 0:4].mean())


@pytest.mark.parametrize("side", um.BLOCKS)
def test_blocks_of_exchangeable_draws_are_covered(side):
    samples, truth, _ = gaussian_world(4, 4)
    result = um.block_coverage(samples, truth, EVERYWHERE, side)
    assert result["blocks"] == (16 // side) * (64 // side) ** 2
    tolerance = 4 * np.sqrt(0.25 / result["blocks"])
    for level, share in result["coverage"].items():
        assert share == pytest.approx(level, abs=tolerance)


def test_blocks_betray_errors_that_hang_together_more_than_the_samples():
    rng = np.random.default_rng(5)
    smooth = ndimage.gaussian_filter(rng.normal(size=SHAPE), 4, mode="wrap")
    truth = smooth / smooth.std()
    samples = rng.normal(size=(8, *SHAPE))
    cover = um.coverage_curve(*um.moments(samples), 8, truth, EVERYWHERE)
    assert cover[0.9] == pytest.approx(0.9, abs=0.02)
    assert um.block_coverage(samples, truth, EVERYWHERE, 4)["coverage"][0.9] < 0.4


def test_only_blocks_that_lie_in_the_mask_whole_count():
    samples, truth, _ = gaussian_world(6, 3)
    mask = np.zeros(SHAPE, bool)
    mask[:8, :8, :9] = True
    assert um.block_coverage(samples, truth, mask, 4)["blocks"] == 2 * 2 * 2
    assert np.isnan(um.block_coverage(samples, truth, np.zeros(SHAPE, bool), 4)["coverage"][0.9])


def test_oracle_width_covers_exactly_and_calibrated_intervals_are_nearly_as_narrow():
    samples, truth, _ = gaussian_world(7, 64)
    mean, std = um.moments(samples)
    result = um.widths(mean, std, 64, truth, EVERYWHERE)
    half = result["oracle_width"] / (2 * std.mean()) * std
    assert np.mean(np.abs(truth - mean) <= half * (1 + 1e-9)) == pytest.approx(0.9, abs=1e-3)
    assert result["ratio"] == pytest.approx(1.0, abs=0.03)
    tripled = um.widths(mean, 3 * std, 64, truth, EVERYWHERE)
    assert tripled["ratio"] == pytest.approx(3 * result["ratio"])
    assert tripled["oracle_width"] == pytest.approx(result["oracle_width"])


def test_rank_correlation_sees_the_order_alone():
    error = np.random.default_rng(8).uniform(1, 2, SHAPE)
    zeros = np.zeros(SHAPE)
    assert um.rank_correlation(zeros, error**5, -error, EVERYWHERE) == pytest.approx(1)
    assert um.rank_correlation(zeros, 1 / error, error, EVERYWHERE) == pytest.approx(-1)
    assert np.isnan(um.rank_correlation(zeros, zeros, error, EVERYWHERE))


def test_all_figures_scale_with_the_unit_or_do_not():
    samples, truth, _ = gaussian_world(9, 4, shape=(8, 16, 16))
    mask = np.ones(truth.shape, bool)
    (one, curves), (milli, _) = um.judge(samples, truth, mask), um.judge(samples, truth, mask, factor=1e-3)
    for name in ("crps", "uce", "width90", "oracle_width90"):
        assert milli[name] == pytest.approx(1e-3 * one[name])
    for name in ("coverage50", "coverage90", "ause", "spearman", "width_ratio90", "block2_coverage90"):
        assert milli[name] == pytest.approx(one[name])
    assert set(curves["blocks"]) == {"2", "4", "8"}
