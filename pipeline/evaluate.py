"""Stage `evaluate`: one row for every method and plane of a series, compared with the truth where there is one.

CT: PSNR, SSIM and RMSE of HU clipped to [-1000, 1000], data range 2000, RMSE in HU. MR: magnitudes divided by the
truth's 99.5th percentile, data range 1, RMSE in that unit. PSNR and SSIM are means over the slices of the plane that
the mask touches, each slice whole. z_jump and the figures of the spread are taken within the mask and are the same for
all planes. Mask, CT: truth above -500 HU; MR: truth above a tenth of its 99.5th percentile; in both the
largest connected part, with the holes of every axial slice filled (lungs count as body).

Methods: every baseline; of every solver its point estimate, its first sample and the mean of its samples. Spread is
judged in the row of the mean; pipeline/uncertainty_metrics.py says how. Without truth there is one row a method (plane
"volume") with the residual chi2 and the checks against views or k-space that were kept from the reconstruction.

Beside metrics.tsv lies uncertainty_curves.json: by method the coverage, calibration and sparsification curves and the
coverage of block means.
"""

import argparse
import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from data.atomic import write_text
from data.errors import InputError
from data.nifti import read_volume
from pipeline import metrics
from pipeline.cli import json_object, main_wrapper
from pipeline.measurement import FILE_NAME, read_metadata, read_tensors
from pipeline.uncertainty_metrics import judge

COLUMNS = (
    "cohort", "study", "series", "method", "plane", "psnr_db", "ssim", "rmse", "coverage90", "calibration_ratio",
    "crps", "z_jump", "chi2", "nfe", "seconds", "peak_mem_mb", "heldout_error", "coverage50", "coverage80",
    "coverage95", "uce", "ause", "width90", "oracle_width90", "width_ratio90", "spearman", "block2_coverage90",
    "block4_coverage90", "block8_coverage90", "heldout_z2", "heldout_coverage90",
)  # fmt: skip
COST_COLUMNS = ("chi2", "nfe", "seconds", "peak_mem_mb", "heldout_error")
CURVES_NAME = "uncertainty_curves.json"


@dataclass(frozen=True)
class Result:
    """One method's volume (z y x; float32, physical units), its costs by column name and, for a mean, its samples.

    Costs are all columns that need no truth.
    """

    method: str
    volume: np.ndarray
    costs: dict[str, float | None]
    samples: np.ndarray | None = None


@dataclass(frozen=True)
class Scale:
    """What turns physical units into those of the table: value * factor, clipped to limits, data_range for PSNR."""

    factor: float
    limits: tuple[float, float]
    data_range: float


def scale_of(truth: np.ndarray, modality: str) -> Scale:
    """Table units: HU clipped to [-1000, 1000], or magnitudes over the truth's 99.5th percentile (not clipped)."""
    if modality == "ct":
        return Scale(1.0, (-1000.0, 1000.0), 2000.0)
    peak = float(np.percentile(truth, 99.5))
    return Scale(1 / peak if peak > 0 else 1.0, (-math.inf, math.inf), 1.0)


def patient_mask(truth: np.ndarray, modality: str) -> np.ndarray:
    """Flags (z y x) of the body or head, as the module's docstring says; all true where nothing passes."""
    threshold = -500.0 if modality == "ct" else 0.1 * float(np.percentile(truth, 99.5))
    labels, count = ndimage.label(truth > threshold)
    if count == 0:
        return np.ones(truth.shape, bool)
    largest = 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    return np.stack([ndimage.binary_fill_holes(plane) for plane in labels == largest])


def compare(result: Result, truth: np.ndarray, mask: np.ndarray, scale: Scale) -> tuple[list[dict[str, Any]], dict]:
    """(rows for the planes of one method, its curves or {}); truth (z y x) and mask as above."""
    clipped_truth = np.clip(truth * scale.factor, *scale.limits)
    clipped = np.clip(result.volume * scale.factor, *scale.limits)
    shared: dict[str, Any] = {"z_jump": metrics.z_jump(clipped, clipped_truth, mask)} | result.costs
    curves: dict[str, Any] = {}
    if result.samples is not None and result.samples.shape[0] > 1:
        figures, curves = judge(result.samples, truth, mask, scale.factor)
        shared |= figures
    rows = [
        shared
        | {
            "method": result.method,
            "plane": plane,
            "psnr_db": metrics.psnr_db(clipped, clipped_truth, scale.data_range, plane, mask),
            "ssim": metrics.ssim(clipped, clipped_truth, scale.data_range, plane, mask),
            "rmse": metrics.rmse(clipped, clipped_truth, plane, mask),
        }
        for plane in metrics.PLANES
    ]
    return rows, curves


def read_baselines(folder: Path, names: list[str] | None) -> Iterator[Result]:
    """Results of baseline/<method>.nii.gz; those named, or all there are."""
    if names is None:
        names = sorted(path.name.removesuffix(".nii.gz") for path in folder.glob("*.nii.gz"))
    for name in names:
        yield Result(name, read_volume(folder / f"{name}.nii.gz").array_zyx, costs(read_json(folder / f"{name}.json")))


def read_solvers(folder: Path, names: list[str] | None) -> Iterator[Result]:
    """Of reconstruct/<solver>: <solver>_point, <solver>_mean and <solver>_sample (the first)."""
    if names is None:
        names = sorted(path.parent.name for path in folder.glob("*/run.json"))
    for name in names:
        run = read_json(folder / name / "run.json")
        samples = read_tensors(folder / name / "samples.safetensors")[0]["samples"]
        if run["point"] is not None:
            yield Result(f"{name}_point", read_volume(folder / name / "point.nii.gz").array_zyx, costs(run["point"]))
        if samples.shape[0] > 1:
            checks = heldout_figures(folder.parent / "uncertainty" / name / "checks.json")
            yield Result(f"{name}_mean", samples.mean(axis=0), costs(run["mean"]) | checks, samples)
        if samples.shape[0] > 0:
            yield Result(f"{name}_sample", samples[0], costs(run["samples"][0]))


def costs(record: dict[str, Any]) -> dict[str, float | None]:
    """The cost columns of a record in run.json or beside a baseline."""
    return {name: record.get(name) for name in COST_COLUMNS}


def heldout_figures(path: Path) -> dict[str, float | None]:
    """heldout_z2 and heldout_coverage90 of the support stage's checks; nothing where it has not run."""
    heldout = (read_json(path).get("heldout") if path.is_file() else None) or {}
    return {f"heldout_{name}": heldout[name] for name in ("z2", "coverage90") if name in heldout}


def read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: missing or not JSON; delete it and run its stage again.") from error


def evaluate(
    series_dir: Path, baselines: list[str] | None, solvers: list[str] | None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(rows of one series without the cohort, study and series columns, curves by method)."""
    modality = read_metadata(series_dir / "measurement" / FILE_NAME)["modality"]
    truth_path = series_dir / "measurement" / "truth.nii.gz"
    truth = read_volume(truth_path).array_zyx if truth_path.is_file() else None
    rows: list[dict[str, Any]] = []
    curves: dict[str, Any] = {}
    if truth is not None:
        scale, mask = scale_of(truth, modality), patient_mask(truth, modality)
    results = read_baselines(series_dir / "baseline", baselines), read_solvers(series_dir / "reconstruct", solvers)
    for result in (item for group in results for item in group):
        if truth is None:
            rows.append({"method": result.method, "plane": "volume"} | result.costs)
            continue
        if result.volume.shape != truth.shape:
            raise InputError(f"{series_dir}: {result.method} has another grid than truth.nii.gz; run its stage again.")
        own, curve = compare(result, truth, mask, scale)
        rows.extend(own)
        if curve:
            curves[result.method] = curve
    return rows, curves


def finite(value: Any) -> Any:
    """The value for JSON: six significant digits, None for what is not finite."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def format_cell(value: Any) -> str:
    """Text of a table cell: six significant digits, empty for None and nan."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, int | float | np.floating) else str(value)


def to_tsv(rows: list[dict[str, Any]]) -> str:
    """Tab-separated text with a header line, columns in the order of COLUMNS."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter="\t", lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([format_cell(row.get(column)) for column in COLUMNS] for row in rows)
    return buffer.getvalue()


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline.evaluate", description=__doc__.split("\n")[0])
    parser.add_argument("--series-dir", type=Path, required=True, help="results/<cohort>/<study>/<series>")
    parser.add_argument("--out", type=Path, required=True, help="metrics.tsv to write")
    for label in ("cohort", "study", "series"):
        parser.add_argument(f"--{label}", required=True)
    parser.add_argument(
        "--settings", default="{}", help='JSON, e.g. {"baselines": ["tv"], "solvers": ["pam"]}; else all'
    )
    arguments = parser.parse_args(argv)
    chosen = json_object(arguments.settings)
    labels = {name: getattr(arguments, name) for name in ("cohort", "study", "series")}
    rows, curves = evaluate(arguments.series_dir, chosen.get("baselines"), chosen.get("solvers"))
    write_text(arguments.out.with_name(CURVES_NAME), json.dumps(finite(curves)) + "\n")
    write_text(arguments.out, to_tsv([labels | row for row in rows]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
