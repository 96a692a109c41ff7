"""The page of a study with a conformal calibration: its interval in the read-out, and what that promises."""

import json

import numpy as np
import pytest

from data.nifti import write_volume
from pipeline import report_budget, report_page, report_uncertainty, report_volumes
from pipeline.report_series import load_series
from tests.pipeline.report_browser import CROSS, number, on_tile, settle
from tests.pipeline.report_series_builder import AFFINE, HALF, LABELS, SHAPE_ZYX, make_series, run_page

SENTENCE = (
    "For a patient exchangeable with these 10 (same scanner, protocol, measurement, prior and solver), at most 10 % of "
    "the body's voxels are expected to lie outside their interval, on average over patients and calibration cohorts; "
    "single patients, organs and voxels may do worse."
)
# Half the calibrated interval's width, wider to one side of the image: on no account a factor of the constant std.
WIDE = np.linspace(60, 180, SHAPE_ZYX[2], dtype=np.float32) * np.ones(SHAPE_ZYX, np.float32)


def calibrated_series(folder, modality="ct", **options):
    """make_series, and what the uncertainty stage adds where a calibration was named."""
    volumes = make_series(folder, modality, **options)
    summary = folder / "uncertainty/pam"
    floor = 0.0 if modality == "mr" else -np.inf
    write_volume(summary / "conformal_lower90.nii.gz", np.maximum(volumes["pam_mean"] - WIDE, floor), AFFINE)
    write_volume(summary / "conformal_upper90.nii.gz", volumes["pam_mean"] + WIDE, AFFINE)
    record = json.loads((summary / "uncertainty.json").read_text())
    conformal = {"factor": 2.1, "patients": 10, "guarantee": "risk", "sentence": SENTENCE}
    (summary / "uncertainty.json").write_text(json.dumps(record | {"conformal": conformal}))
    return volumes


def test_calibrated_interval_travels_beside_the_samples_own(tmp_path):
    calibrated_series(tmp_path / "n")
    series = load_series(tmp_path / "n", LABELS)
    packed = report_budget.pack_volumes(series, 40)
    step = report_budget.step_of(series, "calibrated")
    half = report_volumes.unpack(packed.texts["pam_calibrated"], SHAPE_ZYX, step)
    np.testing.assert_allclose(half, WIDE, atol=step)
    data = report_page.viewer_data(series, packed)
    assert data["calibrated"] is True
    assert data["interval_factor"] is not None
    assert report_page.guarantee(series) == SENTENCE
    words = [verdict.sentence for verdict in report_uncertainty.verdicts(series)]
    assert "91.0 % of the voxels lie in the samples' own 90 % interval, as stated." in words
    assert SENTENCE in words


def test_page_without_a_calibration_promises_nothing(tmp_path):
    make_series(tmp_path / "n")
    series = load_series(tmp_path / "n", LABELS)
    data = report_page.viewer_data(series, report_budget.pack_volumes(series, 40))
    assert data["calibrated"] is False
    assert report_page.guarantee(series) == ""
    assert run_page(tmp_path / "n", tmp_path / "page.html") == 0
    assert 'id="guarantee"' not in (tmp_path / "page.html").read_text()


@pytest.mark.browser
@pytest.mark.timeout(300)
@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_read_out_shows_the_calibrated_interval_and_its_guarantee(tmp_path, open_page, modality):
    volumes = calibrated_series(tmp_path / "n", modality)
    assert run_page(tmp_path / "n", tmp_path / "page.html") == 0
    page, wrong = open_page(tmp_path / "page.html")
    for across in (0.3, 0.7):
        page.mouse.click(*on_tile(page, 1, "axial", across, 0.5))
        settle(page)
        i, j, k = page.evaluate(CROSS)
        mean, half = volumes["pam_mean"][k, j, i], WIDE[k, j, i]
        assert page.locator("#interval-name").inner_text() == "Calibrated 90 % interval"
        low, high = (number(part) for part in page.locator("#interval-text").inner_text().split(" to "))
        tolerance = 3 if modality == "ct" else 8  # three digits of a thousand
        assert [low, high] == pytest.approx([mean - half, mean + half], abs=tolerance)
        own = page.locator("#interval-plot .own title").text_content()
        ends = [number(part) for part in own.split(": ")[1].split(" to ")]
        assert ends == pytest.approx([mean - HALF, mean + HALF], abs=tolerance)
        bar, bracket = (page.locator(f"#interval-plot .{kind}").bounding_box() for kind in ("interval", "own"))
        assert bar["width"] / bracket["width"] == pytest.approx(half / HALF, rel=0.05)
        assert "The truth lies in the calibrated interval" in page.locator("#words").inner_text()
    guarantee = page.locator("#guarantee")
    assert guarantee.inner_text() == f"Calibrated interval {SENTENCE}"
    box, height = guarantee.bounding_box(), page.viewport_size["height"]
    assert box["y"] + box["height"] <= height, "the promise must be on the first screen"
    assert wrong == []


@pytest.mark.browser
def test_calibrated_magnitudes_are_not_negative(tmp_path, open_page):
    calibrated_series(tmp_path / "n", "mr")
    run_page(tmp_path / "n", tmp_path / "page.html")
    page, _ = open_page(tmp_path / "page.html")
    page.mouse.click(*on_tile(page, 1, "axial", 0.02, 0.02))
    settle(page)
    assert page.locator("#interval-text").inner_text().startswith("0 to ")
