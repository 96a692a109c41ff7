"""Charts, maps, colours and pictures of the page."""

import re
from dataclasses import replace

import numpy as np
import pytest

from pipeline import (
    figures,
    report_budget,
    report_page,
    report_uncertainty,
    report_volumes,
)
from pipeline.report import ASSETS
from pipeline.report_series import load_series
from tests.pipeline.report_series_builder import (
    AFFINE,
    LABELS,
    SHAPE_ZYX,
    SUPPORT,
    make_series,
)


def test_charts_put_values_where_their_axes_say(tmp_path):
    make_series(tmp_path / "n")
    coverage, calibration, blocks = report_uncertainty.charts(load_series(tmp_path / "n", LABELS))
    ticks = {text: place for place, text in coverage.y_ticks}
    x, y, text = coverage.dots[2]
    assert text == "90 % interval: 91.0 % of voxels"
    places = {text: place for place, text in coverage.x_ticks}
    assert (x - places["80 %"]) / (places["95 %"] - places["80 %"]) == pytest.approx(2 / 3)
    assert (ticks["0 %"] - y) / (ticks["0 %"] - ticks["100 %"]) == pytest.approx(0.91)
    # Where the prediction is right the dot lies on the dashed line; here it is above, then below.
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in calibration.lines[0][1].split())
    above = [y < y0 + (x - x0) / (x1 - x0) * (y1 - y0) for x, y, _ in calibration.dots]
    assert above == [True, True, False]
    assert [text for _, text in blocks.x_ticks] == ["1", "2", "4", "8"]
    assert len(blocks.dots) == 4 * 3


def test_maps_are_bright_where_doubt_is_due_and_keep_their_values(tmp_path):
    volumes = make_series(tmp_path / "n")
    series = load_series(tmp_path / "n", LABELS)
    np.testing.assert_allclose(series.get("pam_share").array_zyx, 100 * (1 - SUPPORT), rtol=1e-5)
    packed = report_budget.pack_volumes(series, 40)
    step = report_budget.step_of(series, "flag")
    shown = report_volumes.unpack(packed.texts["pam_flag"], SHAPE_ZYX, step)
    assert np.abs(shown - 100 * volumes["pam_flag"]).max() <= 0.51 * step
    assert report_page.viewer_data(series, packed)["ranges"]["flag"] == 80


def test_rank_of_std_is_among_the_body(tmp_path):
    make_series(tmp_path / "n")
    series = load_series(tmp_path / "n", LABELS)
    spread = replace(series.std, array_zyx=series.get("pam_mean").array_zyx + 1000)
    changed = replace(series, images=tuple(spread if image is series.std else image for image in series.images))
    body = spread.array_zyx[series.get("pam_mean").array_zyx > report_page.BODY_HU]
    assert report_page.std_ranks(changed)[9] == pytest.approx(np.median(body))
    assert len(report_page.std_ranks(changed)) == 19


def test_colour_bar_of_differences_fits_them_with_and_without_a_truth(tmp_path):
    make_series(tmp_path / "n")
    series = load_series(tmp_path / "n", LABELS)
    # The builder's mean is 6 above the truth and 22 above the best baseline.
    assert report_page.error_range(series) == 6
    without = replace(series, images=tuple(image for image in series.images if image.role != "truth"))
    assert report_page.error_range(without) == 25


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio of two colours #rrggbb."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_stands_out_from_its_ground():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", (ASSETS / "style.css").read_text(encoding="utf-8")))
    for ink in ("text", "soft", "accent", "bad", "warn"):
        for ground in ("ground", "panel", "raised"):
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    assert contrast(colours["accent-ink"], colours["accent"]) >= 4.5
    assert contrast(colours["warn"], colours["warn-ground"]) >= 4.5


def test_pictures_have_the_patients_right_at_the_left_and_front_on_top():
    array = np.zeros(SHAPE_ZYX, np.float32)
    # With AFFINE, x = 38 is at -180 mm (left) and y = 2 at +160 mm (front); z = 11 is the top slice.
    array[SHAPE_ZYX[0] // 2, 2, 38] = 1
    volume = figures.oriented(array, AFFINE)
    row, column = np.argwhere(figures.plane_slice(volume, "axial"))[0]
    assert (row < SHAPE_ZYX[1] / 2, column > SHAPE_ZYX[2] / 2) == (True, True)
    array = np.zeros(SHAPE_ZYX, np.float32)
    array[11, :, :] = 1
    assert figures.plane_slice(figures.oriented(array, AFFINE), "coronal")[0].all()
    array = np.zeros(SHAPE_ZYX, np.float32)
    array[:, 0, :] = 1
    assert figures.plane_slice(figures.oriented(array, AFFINE), "sagittal")[:, 0].all()
