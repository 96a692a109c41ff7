import json

import numpy as np
import pytest
from scipy import stats

from benchmarks.conformal_ct import INTERVALS, Patient, leave_one_out, oracle_factor, read_patient, rules, write_page
from data.nifti import write_volume
from pipeline.conformal import FACTORS
from pipeline.conformal_conditions import Conditions
from pipeline.measurement import write_tensors

CONDITIONS = Conditions("ct", {"views": 30}, "a" * 64, "pam", {"levels": 10}, 4)


def curve(width):
    """Share outside of errors N(0, width^2) in units of the scale."""
    return 2 * stats.norm.sf(FACTORS / width)


def patient(width):
    return Patient(
        f"p{width}", {"smoothed": curve(width), "raw": curve(1.1 * width)}, {"smoothed": 20.0, "raw": 19.0}, 0.9, 50.0
    )


def test_the_oracle_covers_what_it_says_on_these_patients():
    curves = np.stack([curve(w) for w in (0.8, 1.0, 1.3)])
    factor = oracle_factor(curves, 0.1)
    assert np.mean([2 * stats.norm.sf(factor / w) for w in (0.8, 1.0, 1.3)]) == pytest.approx(0.1, abs=0.001)


def test_the_one_left_out_has_no_say_in_its_factor():
    curves = np.stack([curve(w) for w in (1.0, 1.0, 1.0, 1.0, 5.0)])
    chosen, coverage = leave_one_out(curves, lambda others: oracle_factor(others, 0.1))
    assert chosen[-1] == pytest.approx(stats.norm.isf(0.05), rel=0.003)
    assert coverage[-1] == pytest.approx(1 - 2 * stats.norm.sf(1.645 / 5), abs=0.003)
    assert chosen[0] > 2 * chosen[-1]


def test_both_guarantees_cover_at_least_the_interval_on_average_over_like_patients():
    curves = np.stack([curve(w) for w in np.random.default_rng(0).lognormal(0, 0.1, 10)])
    for interval in INTERVALS:
        for choose in rules(1 - interval).values():
            assert leave_one_out(curves, choose)[1].mean() >= interval


def test_a_patients_slices_are_averaged_and_the_samples_own_interval_is_checked(tmp_path):
    generator = np.random.default_rng(0)
    slices = []
    for z in range(2):
        truth = np.full((1, 40, 40), -1000.0, np.float32)
        truth[:, 4:36, 4:36] = 0
        centre = truth + generator.normal(0, 20, truth.shape)
        draws = (centre + generator.normal(0, 20, (4, *truth.shape))).astype(np.float32)
        folder = tmp_path / f"slice{z}"
        write_volume(folder / "measurement" / "truth.nii.gz", truth, np.eye(4))
        write_tensors(folder / "reconstruct" / "pam" / "samples.safetensors", {"samples": draws}, {})
        slices.append(folder / "reconstruct" / "pam")
    found = read_patient(slices, "p")
    parts = [read_patient([path], "p").curves["raw"] for path in slices]
    np.testing.assert_allclose(found.curves["raw"], np.mean(parts, axis=0))
    assert found.raw_coverage == pytest.approx(0.9, abs=0.03)
    assert found.scale_hu["raw"] == pytest.approx(20 * 0.9213 + 0.2, rel=0.03)


def test_the_page_says_where_it_comes_from_and_what_too_few_patients_cannot_give(tmp_path):
    write_page(
        [patient(w) for w in np.linspace(0.9, 1.1, 8)], CONDITIONS, "python -m benchmarks.conformal_ct", tmp_path
    )
    text = (tmp_path / "conformal.md").read_text()
    assert "python -m benchmarks.conformal_ct" in text
    assert json.dumps(CONDITIONS.measure) in text
    assert "needs at least 9 patients, the cohort has 7" in text
    assert (tmp_path / "conformal.png").is_file()
