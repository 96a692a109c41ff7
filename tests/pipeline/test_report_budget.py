"""What travels in a page: packing, down-sampling, samples, and the limit of its size."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from pipeline import report_budget, report_page, report_volumes
from pipeline.report_samples import open_samples
from pipeline.report_series import load_series
from tests.pipeline.report_series_builder import (
    AFFINE,
    HALF,
    LABELS,
    SAMPLES,
    SHAPE_ZYX,
    STD,
    make_series,
    run_page,
)


@settings(max_examples=60, deadline=None)
@given(arrays_of.arrays(np.int16, (2, 3, 5), elements=st.integers(-32767, 32767)), st.sampled_from([0.5, 2.0]))
def test_pack_keeps_every_value_that_is_a_multiple_of_the_step(quantised, step):
    array = quantised.astype(np.float32) * np.float32(step)
    assert np.array_equal(report_volumes.unpack(report_volumes.pack(array, step), array.shape, step), array)


def test_step_bounds_the_error_even_with_outliers():
    array = np.random.default_rng(0).normal(size=(4, 8, 8)).astype(np.float32)
    array[0, 0, 0] = 1e5
    step = report_volumes.quantisation_step([array], 0.0)
    shown = report_volumes.unpack(report_volumes.pack(array, step), array.shape, step)
    assert np.abs(shown - array).max() <= 0.51 * step


def test_blocks_lie_where_their_voxels_lie():
    factor = (1, 2, 4)
    coarse = report_volumes.block_affine(AFFINE, factor)
    fine = np.mean([AFFINE @ [x, y, 5, 1] for x in range(8, 12) for y in range(6, 8)], axis=0)
    assert np.allclose(coarse @ [2, 3, 5, 1], fine)
    array = np.arange(2 * 4 * 8, dtype=np.float32).reshape(2, 4, 8)
    assert report_volumes.block_mean(array, factor)[1, 0, 1] == array[1, 0:2, 4:8].mean()


def test_finest_axes_are_averaged_first():
    assert report_volumes.next_factor((1, 1, 1), (3.0, 0.7, 0.7), (20, 512, 512)) == (1, 2, 2)
    assert report_volumes.next_factor((1, 4, 4), (3.0, 0.7, 0.7), (20, 512, 512)) == (2, 8, 8)
    assert report_volumes.next_factor((1, 2, 2), (1.0, 1.0, 1.0), (1, 2, 2)) == (1, 2, 2)


def test_a_page_over_its_limit_shows_fewer_samples_then_coarser_voxels_and_says_so(tmp_path):
    volumes = make_series(tmp_path / "n")
    series = load_series(tmp_path / "n", LABELS)
    full = report_budget.pack_volumes(series, 40)
    assert (full.factor, full.samples) == ((1, 1, 1), SAMPLES)
    assert report_page.shrunk_sentence(series, full) == ""
    size = sum(map(len, full.texts.values())) / 1e6
    last = len(full.texts[f"pam_sample{SAMPLES}"]) / 1e6
    fewer = report_budget.pack_volumes(series, report_budget.OVERHEAD_MB + size - 0.5 * last)
    assert (fewer.factor, fewer.samples) == ((1, 1, 1), report_budget.FEWEST_SAMPLES)
    assert report_page.shrunk_sentence(series, fewer).startswith("The first 3 of 4 samples")
    packed = report_budget.pack_volumes(series, report_budget.OVERHEAD_MB + 0.7 * size)
    assert packed.factor != (1, 1, 1)
    data = report_page.viewer_data(series, packed)
    step = report_budget.CT_STEP_HU
    shown = report_volumes.unpack(packed.texts["tv"], tuple(data["shape_xyz"][::-1]), step)
    assert np.abs(shown - report_volumes.block_mean(volumes["tv"], packed.factor)).max() <= 1.001
    assert "mean of 1 × 1 × 2 voxels" in report_page.shrunk_sentence(series, packed)


def test_size_is_estimated_from_a_few_slabs(tmp_path):
    make_series(tmp_path / "n")
    series = load_series(tmp_path / "n", LABELS)
    step = {role: report_budget.step_of(series, role) for role in {image.role for image in series.images}}
    truth = series.truth
    whole = len(report_volumes.pack(truth.array_zyx, step["truth"]))
    assert report_budget._estimate(series, truth, (1, 1, 1), step) == pytest.approx(whole, rel=0.25)


def test_interval_travels_as_a_factor_of_std_only_where_it_is_one(tmp_path):
    make_series(tmp_path / "ct")
    series = load_series(tmp_path / "ct", LABELS)
    assert report_budget.interval_factor(series, 0.1) == pytest.approx(HALF / STD)
    assert report_page.viewer_data(series, report_budget.pack_volumes(series, 40))["interval_factor"] is not None
    upper = series.get("pam_upper")
    moved = replace(upper, array_zyx=upper.array_zyx + 9)
    skewed = replace(series, images=tuple(moved if image is upper else image for image in series.images))
    assert report_budget.interval_factor(skewed, 0.1) is None
    texts = report_budget.pack_volumes(skewed, 40).texts
    assert {"pam_lower", "pam_upper"} <= set(texts)
    step = report_budget.step_of(skewed, "upper")
    assert np.abs(report_volumes.unpack(texts["pam_upper"], SHAPE_ZYX, step) - HALF - 9).max() <= step


def test_samples_on_another_grid_or_of_another_kind_are_left_out(tmp_path):
    volumes = make_series(tmp_path / "n")
    path = tmp_path / "n/reconstruct/pam/samples.safetensors"
    found = open_samples(path, SHAPE_ZYX, AFFINE, 2)
    assert len(found) == 2
    np.testing.assert_array_equal(found[1], volumes["samples"][1])
    assert open_samples(path, SHAPE_ZYX, AFFINE + np.eye(4), 2) == []
    assert open_samples(path, (1, 2, 3), AFFINE, 2) == []
    assert open_samples(path, SHAPE_ZYX, AFFINE, 0) == []
    assert open_samples(tmp_path / "none", SHAPE_ZYX, AFFINE, 2) == []


def test_too_small_a_limit_is_one_sentence_and_leaves_nothing(tmp_path, capsys):
    make_series(tmp_path / "n")
    assert run_page(tmp_path / "n", tmp_path / "out/page.html", max_mb=1) == 1
    assert capsys.readouterr().err.startswith("report.max_mb: ")
    assert not (tmp_path / "out").exists()
