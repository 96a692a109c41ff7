import json

import numpy as np
import pytest
from scipy import stats

from data.nifti import read_volume
from pipeline import uncertainty
from pipeline.conformal import Calibration
from pipeline.conformal_conditions import Conditions
from pipeline.measurement import write_tensors
from pipeline.uncertainty import half_width_factor, main, summarise

AFFINE = np.array([[2.0, 0, 0, -7], [0, 2.0, 0, 5], [0, 0, 3.0, 11], [0, 0, 0, 1]])


def write_samples(folder, samples, modality="ct"):
    metadata = {"affine": AFFINE.tolist(), "units": "HU", "modality": modality, "solver": "pam"}
    write_tensors(folder / "samples.safetensors", {"samples": samples.astype(np.float32)}, metadata)


def test_summary_of_three_known_samples():
    samples = np.array([1.0, 2.0, 6.0])[:, None, None, None] * np.ones((3, 2, 2, 2))
    summary = summarise(samples, 0.9)
    half = 2.919986 * np.sqrt(7.0) * np.sqrt(4 / 3)
    np.testing.assert_allclose(summary.mean, 3.0)
    np.testing.assert_allclose(summary.std, np.sqrt(7.0))
    np.testing.assert_allclose(summary.lower, 3 - half, rtol=1e-6)
    np.testing.assert_allclose(summary.upper, 3 + half, rtol=1e-6)


def test_factor_tends_to_the_normal_quantile():
    assert half_width_factor(100_000, 0.9) == pytest.approx(stats.norm.ppf(0.95), rel=1e-4)
    assert half_width_factor(2, 0.9) > 7


def test_volumes_on_disk_agree_with_the_samples_and_keep_the_grid(tmp_path):
    samples = np.random.default_rng(0).normal(40, 10, (4, 3, 5, 6)).astype(np.float32)
    write_samples(tmp_path / "in", samples)
    out = tmp_path / "out"
    assert main(["--reconstruction", str(tmp_path / "in"), "--out", str(out), "--settings", '{"interval": 0.9}']) == 0
    mean, std = read_volume(out / "mean.nii.gz"), read_volume(out / "std.nii.gz")
    np.testing.assert_allclose(mean.array_zyx, samples.mean(0), rtol=1e-5)
    np.testing.assert_allclose(std.array_zyx, samples.std(0, ddof=1), rtol=1e-4)
    np.testing.assert_allclose(mean.affine, AFFINE)
    report = json.loads((out / "uncertainty.json").read_text())
    upper = read_volume(out / "upper90.nii.gz").array_zyx
    np.testing.assert_allclose(upper, mean.array_zyx + report["half_width_factor"] * std.array_zyx, rtol=1e-4)
    assert report["samples"] == 4


def test_a_calibration_adds_its_interval_and_its_sentence(tmp_path, monkeypatch):
    conditions = Conditions("ct", {"views": 30}, "0" * 64, "pam", {}, 4)
    calibration = Calibration("risk", 0.9, None, 10, 2.5, 0.0, 0.0, (0.1,) * 10, (2.0,) * 10, conditions)
    monkeypatch.setattr(uncertainty, "calibration_for", lambda *_: calibration)
    samples = np.random.default_rng(0).normal(40, 10, (4, 3, 5, 6)).astype(np.float32)
    write_samples(tmp_path / "in", samples)
    arguments = ["--reconstruction", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--settings", '{"conformal": "cohort.json"}']) == 0
    upper = read_volume(tmp_path / "out/conformal_upper90.nii.gz").array_zyx
    np.testing.assert_allclose(upper, samples.mean(0) + 2.5 * samples.std(0, ddof=1), rtol=1e-4)
    record = json.loads((tmp_path / "out/uncertainty.json").read_text())["conformal"]
    assert record["factor"] == 2.5
    assert "10" in record["sentence"]
    assert main([*arguments, "--settings", "{}"]) == 0
    assert not (tmp_path / "out/conformal_upper90.nii.gz").exists()


def test_a_calibration_that_is_none_is_named(tmp_path, capsys):
    write_samples(tmp_path / "in", np.zeros((2, 2, 2, 2)))
    arguments = ["--reconstruction", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--settings", '{"conformal": "nowhere.json"}']) == 1
    assert "nowhere.json" in capsys.readouterr().err


def test_a_magnitude_has_no_negative_lower_end(tmp_path):
    write_samples(tmp_path / "in", np.random.default_rng(0).uniform(0, 1, (3, 2, 4, 4)), "mr")
    assert main(["--reconstruction", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 0
    assert read_volume(tmp_path / "out" / "lower90.nii.gz").array_zyx.min() == 0


@pytest.mark.parametrize("settings", ["{}", '{"interval": 1.5}', '{"intervall": 0.9}', "[1]", '{"interval": "wide"}'])
def test_one_sample_or_bad_settings_are_refused_in_one_sentence(tmp_path, capsys, settings):
    write_samples(tmp_path / "in", np.zeros((1, 2, 2, 2)))
    arguments = ["--reconstruction", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--settings", settings]
    assert main(arguments) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_damaged_samples_are_named(tmp_path, capsys):
    folder = tmp_path / "in"
    write_samples(folder, np.zeros((2, 2, 2, 2)))
    path = folder / "samples.safetensors"
    path.write_bytes(path.read_bytes()[:40])
    assert main(["--reconstruction", str(folder), "--out", str(tmp_path / "out")]) == 1
    assert "samples.safetensors" in capsys.readouterr().err
