import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from data.errors import InputError
from data.nifti import write_volume
from pipeline import conformal
from pipeline.conformal import (
    FACTORS,
    calibrate,
    calibration_for,
    conformal_bounds,
    local_scale,
    main,
    own_factors,
    patient_factor,
    patients_needed,
    read_calibration,
    risk_curve,
    risk_factor,
    write_calibration,
)
from pipeline.conformal_conditions import Conditions, difference
from pipeline.measurement import write_tensors

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
CONDITIONS = Conditions("ct", {"views": 30, "photons": 1e4}, "a" * 64, "pam", {"levels": 10, "sigma_init": 0.3}, 4)


def normal_curve(scale_error):
    """L(lambda) of a patient whose errors are N(0, scale_error^2) in units of s."""
    return 2 * stats.norm.sf(FACTORS / scale_error)


def some_curves(count, seed=0):
    generator = np.random.default_rng(seed)
    return np.stack([normal_curve(s) for s in generator.lognormal(0, 0.3, count)])


def test_the_curve_is_the_share_outside_the_interval_it_stands_for():
    generator = np.random.default_rng(0)
    mean, truth = generator.normal(size=(2, 3, 20, 20))
    scale = generator.uniform(0.1, 2, (3, 20, 20))
    mask = generator.random((3, 20, 20)) < 0.4
    curve = risk_curve(mean, scale, truth, mask)
    for index in (0, 2000, 3300, 3500, 4000, FACTORS.size - 1):
        outside = np.abs(truth - mean) > FACTORS[index] * scale
        assert curve[index] == pytest.approx(outside[mask].mean(), abs=1e-12)
    assert (np.diff(curve) <= 1e-15).all()


def test_zero_spread_counts_as_outside_only_where_the_mean_is_wrong():
    mean, scale, mask = np.zeros((1, 1, 2)), np.zeros((1, 1, 2)), np.ones((1, 1, 2), bool)
    curve = risk_curve(mean, scale, np.array([[[0.0, 1.0]]]), mask)
    np.testing.assert_array_equal(curve, 0.5)


def test_risk_factor_is_the_smallest_that_satisfies_the_inequality_of_the_paper():
    curves, alpha = some_curves(30), 0.1
    index = int(np.searchsorted(FACTORS, risk_factor(curves, alpha)))
    bound = (curves.sum(axis=0) + 1) / 31
    assert bound[index] <= alpha < bound[index - 1]


def test_equal_patients_give_the_quantile_that_the_correction_for_n_asks_for():
    n, alpha = 50, 0.1
    curves = np.repeat(normal_curve(2.0)[None], n, axis=0)
    mean_loss = alpha - (1 - alpha) / n
    assert risk_factor(curves, alpha) == pytest.approx(2 * stats.norm.isf(mean_loss / 2), rel=0.003)
    assert patient_factor(curves, alpha, 0.9) == pytest.approx(2 * stats.norm.isf(alpha / 2), rel=0.003)


def test_factors_grow_with_the_interval_and_with_the_confidence():
    curves = some_curves(60)
    by_risk = [risk_factor(curves, alpha) for alpha in (0.3, 0.2, 0.1, 0.05)]
    by_patient = [patient_factor(curves, 0.1, confidence) for confidence in (0.5, 0.8, 0.9, 0.98)]
    assert by_risk == sorted(by_risk)
    assert by_risk[0] < by_risk[-1]
    assert by_patient == sorted(by_patient)
    assert by_patient[0] < by_patient[-1]


@pytest.mark.parametrize(("level", "patients"), [(0.1, 9), (1 - 0.9, 9), (0.05, 19), (0.2, 4), (0.04, 24), (1 / 3, 2)])
def test_patients_needed_for_a_level(level, patients):
    assert patients_needed(level) == patients
    curves = np.repeat(normal_curve(1.0)[None], patients, axis=0)
    assert risk_factor(curves, level) > 0
    with pytest.raises(InputError, match=f"at least {patients} patients, the cohort has {patients - 1}"):
        risk_factor(curves[1:], level)
    with pytest.raises(InputError, match=f"at least {patients} patients"):
        patient_factor(curves[1:], 0.1, 1 - level)


def exchangeable_patients(generator, cohorts, patients, voxels):
    """Ratios |error| / s (cohorts, patients, voxels): every patient has a spread and a tail of its own."""
    spread = generator.lognormal(0, 0.6, (cohorts, patients, 1))
    freedom = generator.choice([2.0, 4.0, 30.0], (cohorts, patients, 1))
    return np.abs(generator.standard_t(np.broadcast_to(freedom, (cohorts, patients, voxels))) * spread)


@pytest.mark.parametrize(("patients", "alpha"), [(9, 0.1), (10, 0.2), (25, 0.1)])
def test_the_mean_risk_of_a_new_patient_is_at_most_alpha_and_not_far_below(patients, alpha):
    cohorts, voxels = 600, 40
    ratios = exchangeable_patients(np.random.default_rng(patients), cohorts, patients + 1, voxels)
    one = np.ones((1, 1, voxels))
    risks = []
    for cohort in ratios:
        curves = np.stack([risk_curve(0 * one, one, ratio[None, None], one > 0) for ratio in cohort[:-1]])
        risks.append(np.mean(cohort[-1] > risk_factor(curves, alpha)))
    margin = 3 * np.std(risks) / np.sqrt(cohorts)
    assert np.mean(risks) <= alpha + margin
    # Never conservative by more than 2 / (n + 1) (Angelopoulos et al., theorem 2).
    assert np.mean(risks) >= alpha - 2 / (patients + 1) - margin


def test_the_patient_guarantee_holds_for_the_share_of_patients_it_promises():
    cohorts, patients, voxels, confidence = 800, 10, 60, 0.9
    ratios = exchangeable_patients(np.random.default_rng(1), cohorts, patients + 1, voxels)
    one = np.ones((1, 1, voxels))
    good = []
    for cohort in ratios:
        curves = np.stack([risk_curve(0 * one, one, ratio[None, None], one > 0) for ratio in cohort[:-1]])
        good.append(np.mean(cohort[-1] > patient_factor(curves, 0.1, confidence)) <= 0.1)
    assert np.mean(good) == pytest.approx(10 / 11, abs=3 * np.sqrt(0.09 * 0.91 / cohorts) + 0.01)


def test_slices_in_place_of_patients_break_the_guarantee():
    """Why the patient is the unit: slices of one patient repeat one another, and n of them promise too much."""
    cohorts, slices, voxels, alpha = 300, 60, 20, 0.1
    ratios = exchangeable_patients(np.random.default_rng(2), cohorts, 2, slices * voxels)
    one = np.ones((1, 1, voxels))
    risks = []
    for calibration, test in ratios:
        parts = calibration.reshape(slices, 1, 1, voxels)
        curves = np.stack([risk_curve(0 * one, one, part, one > 0) for part in parts])
        risks.append(np.mean(test > risk_factor(curves, alpha)))
    assert np.mean(risks) > alpha + 3 * np.std(risks) / np.sqrt(cohorts)


def test_bounds_are_symmetric_about_the_mean_and_scale_with_the_units():
    generator = np.random.default_rng(0)
    mean, std = generator.normal(size=(2, 8, 8)), generator.uniform(1, 2, (2, 8, 8))
    calibration = calibrate(some_curves(12), CONDITIONS, 0.9, "risk", 0.9)
    lower, upper = conformal_bounds(mean, std, calibration)
    np.testing.assert_allclose((lower + upper) / 2, mean, atol=1e-12)
    np.testing.assert_allclose(upper - lower, 2 * calibration.factor * local_scale(std))
    wide = conformal_bounds(1000 * mean, 1000 * std, calibration)
    np.testing.assert_allclose(wide[0], 1000 * lower, rtol=1e-9)


def test_the_scale_of_an_even_spread_is_that_spread_and_slices_stay_apart():
    np.testing.assert_allclose(local_scale(np.full((3, 9, 9), 2.0)), 2.0 * 1.01)
    std = np.zeros((3, 9, 9))
    std[1] = 1.0
    scale = local_scale(std, floor_share=0.0)
    np.testing.assert_allclose(scale[1], 1.0)
    np.testing.assert_allclose(scale[[0, 2]], 0.0)


def test_a_smoothed_variance_shortens_the_interval_of_few_samples():
    generator = np.random.default_rng(3)
    samples, truth = generator.normal(size=(4, 1, 64, 64)), generator.normal(size=(1, 64, 64))
    mean, std, mask = samples.mean(0), samples.std(0, ddof=1), np.ones((1, 64, 64), bool)
    raw, smooth = (
        own_factors(risk_curve(mean, local_scale(std, pixels), truth, mask)[None], 0.1)[0] for pixels in (0.0, 1.5)
    )
    # Student's t with 3 degrees of freedom against nearly the normal quantile, times sqrt(1 + 1/4).
    assert raw == pytest.approx(2.353 * 1.118, rel=0.06)
    assert smooth == pytest.approx(1.645 * 1.118, rel=0.06)


def write_series(folder, generator, views=30, samples=4, solver="pam", sha="a" * 64, error=1.0):
    """A finished series: a body of 12x12 voxels whose samples spread by 20 HU about a truth `error` times as far."""
    truth = np.full((2, 16, 16), -1000.0, np.float32)
    truth[:, 2:14, 2:14] = generator.normal(0, 20, (2, 12, 12))
    centre = truth + error * generator.normal(0, 20, truth.shape)
    draws = (centre + generator.normal(0, 20, (samples, *truth.shape))).astype(np.float32)
    meta = {"modality": "ct", "settings": {"views": views, "photons": 1e4, "seed": int(generator.integers(99))}}
    write_tensors(folder / "measurement" / "measurement.safetensors", {"weights": np.zeros(1)}, meta)
    write_volume(folder / "measurement" / "truth.nii.gz", truth, AFFINE)
    out = folder / "reconstruct" / solver
    write_tensors(out / "samples.safetensors", {"samples": draws}, {"modality": "ct"})
    run = {
        "solver": solver,
        "solver_settings": {"levels": 10},
        "sigma_init": 0.3,
        "prior": {"sha256": sha},
        "samples": [{}] * samples,
    }
    (out / "run.json").write_text(json.dumps(run))
    return out


@pytest.fixture
def cohort(tmp_path):
    generator = np.random.default_rng(0)
    for patient in range(10):
        for series in range(1 + patient % 2):
            write_series(tmp_path / "results" / "mine" / f"p{patient}" / f"s{series}", generator)
    return tmp_path


def fit(folder, *more, interval="0.9"):
    arguments = ["--results", str(folder / "results"), "--cohort", "mine", "--interval", interval]
    return main(["fit", *arguments, "--out", str(folder / "conformal.json"), *more])


def test_fit_counts_patients_and_not_series_and_says_what_it_promises(cohort, capsys):
    assert fit(cohort) == 0
    said = capsys.readouterr().out
    assert "at most 10 % of the body's voxels" in said
    assert len(said.strip().splitlines()) == 1
    calibration = read_calibration(cohort / "conformal.json")
    assert calibration.patients == 10
    # Sum of losses at most 0.1 * 11 - 1.
    assert sum(calibration.losses) <= 0.1 + 1e-9
    assert calibration.conditions.measure == {"views": 30, "photons": 1e4}
    text = (cohort / "conformal.json").read_text()
    assert '"p3"' not in text
    assert calibration.conditions.prior_sha256 in text


def test_series_of_one_patient_are_averaged_into_one_loss(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    first = write_series(tmp_path / "mine" / "p0" / "s0", generator)
    second = write_series(tmp_path / "mine" / "p0" / "s1", generator, error=3.0)
    curves, _ = conformal.patient_curves(tmp_path / "mine", None)
    parts = [conformal.series_curve(path, "ct") for path in (first, second)]
    assert curves.shape == (1, FACTORS.size)
    np.testing.assert_allclose(curves[0], (parts[0] + parts[1]) / 2)


def test_too_few_patients_or_an_empty_cohort_are_refused_in_one_sentence(cohort, capsys):
    assert fit(cohort, interval="0.95") == 1
    assert "needs at least 19 patients, the cohort has 10" in capsys.readouterr().err
    assert fit(cohort, "--solver", "dds") == 1
    assert "no reconstructed series with a truth" in capsys.readouterr().err
    assert not (cohort / "conformal.json").exists()


def test_several_solvers_ask_for_a_choice(cohort, capsys):
    write_series(cohort / "results" / "mine" / "p0" / "s0", np.random.default_rng(1), solver="dds")
    assert fit(cohort) == 1
    assert "choose one with --solver: dds, pam" in capsys.readouterr().err
    assert fit(cohort, "--solver", "pam") == 0


def test_a_cohort_measured_in_two_ways_is_refused(cohort, capsys):
    write_series(cohort / "results" / "mine" / "p9" / "s0", np.random.default_rng(1), views=15)
    assert fit(cohort) == 1
    assert "measure.views: 30 and 15" in capsys.readouterr().err


def test_a_calibration_is_used_only_where_it_holds(cohort):
    assert fit(cohort) == 0
    path, generator = cohort / "conformal.json", np.random.default_rng(5)
    good = write_series(cohort / "new" / "good", generator)
    assert calibration_for(path, good, 0.9).factor > 0
    with pytest.raises(InputError, match=r"uncertainty.interval asks for 80 %"):
        calibration_for(path, good, 0.8)
    for name, change, words in [
        ("views", {"views": 15}, r"measure\.views: 30 and 15"),
        ("prior", {"sha": "b" * 64}, "prior_sha256"),
        ("samples", {"samples": 2}, "samples: 4 and 2"),
    ]:
        with pytest.raises(InputError, match=words):
            calibration_for(path, write_series(cohort / "new" / name, generator, **change), 0.9)


def test_a_calibration_survives_the_disk_and_an_edited_one_is_refused(tmp_path):
    path = tmp_path / "conformal.json"
    for guarantee in ("risk", "patient"):
        calibration = calibrate(some_curves(12), CONDITIONS, 0.9, guarantee, 0.9)
        write_calibration(path, calibration)
        assert read_calibration(path) == calibration
    record = json.loads(path.read_text())
    record["conditions"]["measure"]["views"] = 8
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match="was edited"):
        read_calibration(path)
    path.write_text("[]")
    with pytest.raises(InputError, match="no conformal calibration"):
        read_calibration(path)


def test_samples_without_spread_cannot_be_calibrated():
    with pytest.raises(InputError, match="no spread"):
        risk_factor(np.full((20, FACTORS.size), 0.5), 0.1)


def test_the_seed_of_the_noise_is_no_condition_but_its_strength_is():
    assert difference(CONDITIONS, replace(CONDITIONS)) is None
    other = replace(CONDITIONS, measure={"views": 30, "photons": 2e4})
    assert difference(CONDITIONS, other) == "measure.photons: 10000.0 and 20000.0"
    assert CONDITIONS.measure_sha256 != other.measure_sha256
