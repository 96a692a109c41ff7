import csv
import json

import numpy as np
import pytest

from data.nifti import write_volume
from pipeline.evaluate import COLUMNS, main, patient_mask
from pipeline.measurement import write_tensors

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
SHAPE = (8, 16, 16)


def make_series(root, modality, truth, samples, baselines):
    metadata = {"modality": modality, "affine": AFFINE.tolist()}
    write_tensors(root / "measurement" / "measurement.safetensors", {"weights": np.ones(3, np.float32)}, metadata)
    if truth is not None:
        write_volume(root / "measurement" / "truth.nii.gz", truth, AFFINE)
    for name, volume in baselines.items():
        write_volume(root / "baseline" / f"{name}.nii.gz", volume, AFFINE)
        record = {"seconds": 2.0, "peak_mem_mb": 100.0, "chi2": 0.5, "nfe": 0, "heldout_error": 0.25}
        (root / "baseline" / f"{name}.json").write_text(json.dumps(record))
    solver = root / "reconstruct" / "pam"
    write_tensors(solver / "samples.safetensors", {"samples": samples.astype(np.float32)}, metadata | {"units": "HU"})
    write_volume(solver / "point.nii.gz", samples[0], AFFINE)
    each = [{"chi2": 1.0 + k, "nfe": 10, "seconds": 1.0} for k in range(len(samples))]
    mean = {"chi2": 0.9, "nfe": 10 * len(samples), "seconds": float(len(samples))}
    (solver / "run.json").write_text(json.dumps({"point": {"chi2": 0.8, "nfe": 10}, "mean": mean, "samples": each}))


def evaluate(root, *extra):
    out = root / "metrics.tsv"
    assert (
        main(["--series-dir", str(root), "--out", str(out), "--cohort", "c", "--study", "s", "--series", "n", *extra])
        == 0
    )
    with out.open() as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    assert tuple(rows[0]) == COLUMNS
    return {(row["method"], row["plane"]): row for row in rows}


def body(rng):
    truth = np.full(SHAPE, -1000.0)
    truth[:, 3:13, 3:13] = rng.uniform(-100, 300, (8, 10, 10))
    return truth


def test_ct_rows_hold_the_known_errors(tmp_path):
    rng = np.random.default_rng(0)
    truth = body(rng)
    samples = np.stack([truth + 20, truth - 20])
    make_series(tmp_path, "ct", truth, samples, {"tv": np.where(truth > -1000, truth + 2, truth - 5000)})
    table = evaluate(tmp_path)
    assert {method for method, _ in table} == {"tv", "pam_point", "pam_mean", "pam_sample"}
    # Half of the sample's distance from the truth is below -1000 in the second, so take the first, which is above.
    assert float(table["pam_sample", "axial"]["psnr_db"]) == pytest.approx(40, abs=1e-3)
    assert float(table["pam_sample", "axial"]["rmse"]) == pytest.approx(20, abs=1e-3)
    # Clipping at -1000 hides what the baseline does to the air: 100 of 256 voxels are off by 2.
    assert float(table["tv", "axial"]["rmse"]) == pytest.approx(2 * np.sqrt(100 / 256), abs=1e-3)
    assert float(table["pam_mean", "coronal"]["coverage90"]) == 1.0
    assert float(table["pam_mean", "sagittal"]["crps"]) == pytest.approx(20 - 40 / 2, abs=1e-3)
    assert table["pam_sample", "axial"]["coverage90"] == ""
    assert table["tv", "axial"]["crps"] == ""
    assert table["tv", "axial"]["nfe"] == "0"
    assert table["pam_mean", "axial"]["nfe"] == "20"
    assert table["pam_sample", "axial"]["chi2"] == "1"
    assert table["tv", "axial"]["heldout_error"] == "0.25"


def test_spread_is_judged_at_every_level_and_curves_lie_beside(tmp_path):
    rng = np.random.default_rng(1)
    truth = body(rng)
    samples = truth + 20 * rng.normal(size=(6, *SHAPE)) + 20 * rng.normal(size=SHAPE)
    make_series(tmp_path, "ct", truth, samples, {"tv": truth + 1})
    checks = {"heldout": {"z2": 1.25, "coverage90": 0.875, "noise_share": 0.1}}
    (tmp_path / "uncertainty/pam").mkdir(parents=True)
    (tmp_path / "uncertainty/pam/checks.json").write_text(json.dumps(checks))
    row = evaluate(tmp_path)["pam_mean", "axial"]
    # The samples' centre is off by as much as they spread, as an exchangeable truth's would be.
    for level in (50, 80, 90, 95):
        assert float(row[f"coverage{level}"]) == pytest.approx(level / 100, abs=0.06)
    assert float(row["width_ratio90"]) == pytest.approx(1, abs=0.15)
    assert 0 < float(row["uce"]) < 20
    assert (row["heldout_z2"], row["heldout_coverage90"]) == ("1.25", "0.875")
    assert all(row[name] != "" for name in ("ause", "spearman", "oracle_width90", "block2_coverage90"))
    curves = json.loads((tmp_path / "uncertainty_curves.json").read_text())
    assert set(curves) == {"pam_mean"}
    assert curves["pam_mean"]["coverage"]["0.9"] == float(row["coverage90"])
    assert curves["pam_mean"]["blocks"]["8"]["coverage"]["0.9"] is None or 0 <= float(row["block8_coverage90"]) <= 1
    assert len(curves["pam_mean"]["calibration"]["predicted"]) == 20


def test_mr_rows_are_in_units_of_the_truths_percentile(tmp_path):
    truth = np.zeros(SHAPE)
    truth[:, 2:14, 2:14] = 500.0
    samples = np.stack([truth + 50, truth + 50])
    make_series(tmp_path, "mr", truth, samples, {})
    table = evaluate(tmp_path)
    for plane in ("axial", "coronal", "sagittal"):
        assert float(table["pam_mean", plane]["psnr_db"]) == pytest.approx(20, abs=1e-3)
        assert float(table["pam_mean", plane]["rmse"]) == pytest.approx(0.1, abs=1e-5)
    assert float(table["pam_mean", "axial"]["crps"]) == pytest.approx(0.1, abs=1e-5)
    assert float(table["pam_mean", "axial"]["coverage90"]) == 0


def test_without_truth_only_residuals_are_given(tmp_path):
    samples = np.random.default_rng(0).uniform(0, 1, (2, *SHAPE))
    make_series(tmp_path, "mr", None, samples, {"cg_sense": samples[0]})
    table = evaluate(tmp_path)
    assert table["cg_sense", "volume"]["heldout_error"] == "0.25"
    assert table["pam_mean", "volume"]["chi2"] == "0.9"
    assert all(row["psnr_db"] == "" and row["z_jump"] == "" for row in table.values())


def test_only_the_methods_asked_for_are_listed(tmp_path):
    truth = body(np.random.default_rng(0))
    make_series(tmp_path, "ct", truth, truth[None] + 1, {"tv": truth, "fbp": truth})
    table = evaluate(tmp_path, "--settings", '{"baselines": ["fbp"], "solvers": []}')
    assert {method for method, _ in table} == {"fbp"}
    assert ("pam_mean", "axial") not in evaluate(tmp_path)


def test_a_volume_on_another_grid_is_refused(tmp_path, capsys):
    truth = body(np.random.default_rng(0))
    make_series(tmp_path, "ct", truth, truth[None], {"tv": truth[:, :12]})
    labels = ["--cohort", "c", "--study", "s", "--series", "n"]
    assert main(["--series-dir", str(tmp_path), "--out", str(tmp_path / "m.tsv"), *labels]) == 1
    assert "tv has another grid" in capsys.readouterr().err
    assert not (tmp_path / "m.tsv").exists()


def test_mask_fills_lungs_and_drops_the_table():
    truth = np.full((3, 20, 20), -1000.0)
    truth[:, 3:15, 3:17] = 0
    truth[:, 5:10, 5:10] = -800
    truth[:, 18, 4:16] = 100
    expected = np.zeros(truth.shape, bool)
    expected[:, 3:15, 3:17] = True
    np.testing.assert_array_equal(patient_mask(truth, "ct"), expected)
