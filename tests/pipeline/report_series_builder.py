"""A small results folder of one series, with closed-form contents, for tests of the report."""

import json
from pathlib import Path

import numpy as np

from data.nifti import write_volume
from pipeline.evaluate import COLUMNS
from pipeline.measurement import write_tensors
from pipeline.report import main

SHAPE_ZYX = (12, 36, 40)
AFFINE = np.array([[-10.0, 0, 0, 200], [0, -10.0, 0, 180], [0, 0, 5.0, -30], [0, 0, 0, 1]])
STD, HALF = 20.0, 50.0
SAMPLES = 4
SUPPORT = 0.27
LABELS = ("c", "s", "n")
CHECKS = {
    "chi2": [0.9, 1.1],
    "heldout": {"z2": 4.2, "coverage90": 0.61, "noise_share": 0.3, "count": 900},
    "epistemic_share": 0.3,
}
COVERAGE = {"0.5": 0.52, "0.8": 0.79, "0.9": 0.91, "0.95": 0.94}
CURVES = {
    "samples": SAMPLES,
    "coverage": COVERAGE,
    "calibration": {"uce": 3.1, "predicted": [2.0, 10.0, 60.0], "actual": [3.0, 12.0, 55.0], "counts": [9, 9, 9]},
    "blocks": {
        "2": {"blocks": 90, "coverage": COVERAGE, "calibration_ratio": 1.0},
        "4": {"blocks": 20, "coverage": {level: value - 0.2 for level, value in COVERAGE.items()}},
        "8": {"blocks": 0, "coverage": dict.fromkeys(COVERAGE)},
    },
}


def phantom(offset: float, scale: float = 1.0) -> np.ndarray:
    """(z y x): an ellipse of soft tissue in air, with a ramp along each axis, so that no two voxels nearby agree."""
    z, y, x = np.meshgrid(*(np.arange(size) for size in SHAPE_ZYX), indexing="ij")
    inside = ((y - 18) / 15) ** 2 + ((x - 20) / 17) ** 2 < 1
    return (np.where(inside, 40 + 4 * x - 2 * y + 6 * z + offset, -1000.0) * scale).astype(np.float32)


def make_series(
    folder: Path, modality: str = "ct", truth: bool = True, affine: np.ndarray = AFFINE, checks: dict = CHECKS, **extra
) -> dict:
    """Write the folder; returns its volumes (z y x) by the page's keys, and "samples" (K z y x), evenly spaced by STD.

    extra: added to run.json.
    """
    lift = 1000.0 if modality == "mr" else 0.0
    arrays = {
        "fbp": phantom(30) + lift,
        "tv": phantom(-16) + lift,
        "pam_mean": phantom(6) + lift,
        "truth": phantom(0) + lift,
        "pam_std": np.full(SHAPE_ZYX, STD, np.float32),
        "pam_flag": np.linspace(0, 0.8, SHAPE_ZYX[2], dtype=np.float32) * np.ones(SHAPE_ZYX, np.float32),
    }
    for name in ("fbp", "tv"):
        write_volume(folder / f"baseline/{name}.nii.gz", arrays[name], affine)
        (folder / f"baseline/{name}.json").write_text(json.dumps({"seconds": 1.5, "nfe": 0}))
    summary = folder / "uncertainty/pam"
    write_volume(summary / "mean.nii.gz", arrays["pam_mean"], affine)
    write_volume(summary / "std.nii.gz", arrays["pam_std"], affine)
    write_volume(summary / "lower90.nii.gz", arrays["pam_mean"] - HALF, affine)
    write_volume(summary / "upper90.nii.gz", arrays["pam_mean"] + HALF, affine)
    write_volume(summary / "support.nii.gz", np.full(SHAPE_ZYX, SUPPORT, np.float32), affine)
    write_volume(summary / "flag.nii.gz", arrays["pam_flag"], affine)
    (summary / "checks.json").write_text(json.dumps(checks))
    (folder / "uncertainty_curves.json").write_text(json.dumps({"pam_mean": CURVES}))
    (summary / "uncertainty.json").write_text(json.dumps({"interval": 0.9, "samples": SAMPLES}))
    run = folder / "reconstruct/pam"
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"solver": "pam", "seed": 7, "prior": {"name": "chest"}} | extra))
    places = STD * (np.arange(SAMPLES, dtype=np.float32) - (SAMPLES - 1) / 2)
    arrays["samples"] = arrays["pam_mean"] + places[:, None, None, None]
    header = {"modality": modality, "affine": affine.tolist(), "units": "HU" if modality == "ct" else "arbitrary"}
    write_tensors(run / "samples.safetensors", {"samples": arrays["samples"]}, header)
    if truth:
        write_volume(folder / "measurement/truth.nii.gz", arrays["truth"], affine)
    header = {"modality": modality, "affine": affine.tolist(), "source": "simulate", "settings": {"views": 30}}
    write_tensors(folder / "measurement/measurement.safetensors", {"x": np.zeros(1, np.float32)}, header)
    rows = [("fbp", 20.0, "0", ""), ("tv", 28.0, "0", ""), ("pam_mean", 31.5, "60", 0.91)]
    write_metrics(folder / "metrics.tsv", rows)
    return arrays


def write_metrics(path: Path, rows: list[tuple]) -> None:
    """Rows of (method, axial PSNR, network calls, coverage); coronal and sagittal are 1 and 2 dB above."""
    lines = ["\t".join(COLUMNS)]
    for method, psnr, calls, coverage in rows:
        for step, plane in enumerate(("axial", "coronal", "sagittal")):
            cells = dict.fromkeys(COLUMNS, "") | {"cohort": "c", "study": "s", "series": "n", "method": method}
            cells |= {"plane": plane, "psnr_db": f"{psnr + step}", "nfe": calls, "coverage90": f"{coverage}"}
            lines.append("\t".join(cells[column] for column in COLUMNS))
    path.write_text("\n".join(lines) + "\n")


def run_page(folder: Path, out: Path, labels: tuple[str, str, str] = LABELS, **options) -> int:
    """The page command's exit status; options are its settings."""
    cohort, study, series = labels
    names = ["--cohort", cohort, "--study", study, "--series", series]
    return main(["page", "--series-dir", str(folder), "--out", str(out), *names, "--settings", json.dumps(options)])


def make_results(root: Path) -> tuple[Path, dict]:
    """Pages of a CT series (cohort c) and an MR series (cohort m) under `root`; returns it and the CT's volumes."""
    volumes = make_series(root / "c/s/n")
    make_series(root / "m/s/n", modality="mr")
    for cohort in ("c", "m"):
        if run_page(root / cohort / "s/n", root / f"reports/{cohort}_s_n.html", (cohort, "s", "n")):
            raise AssertionError(f"the page of cohort {cohort} was not made")
    return root, volumes
