"""Conformal intervals on a cohort of real patients, left out one at a time.

    python -m benchmarks.conformal_ct --cohort FOLDER --measure '{"views": 30}'

FOLDER holds one NIfTI a patient whose axial slices are independent: each is measured and reconstructed alone, with the
pipeline's own stages and its default solver, and the slices of a patient count as one patient. Then every patient in
turn is kept out, lambda is calibrated on the others, and coverage and width are taken on the one kept out. Results
below --work are kept, so that an interrupted run goes on. Writes docs/results/conformal.md.
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import nibabel
import numpy as np
from tqdm import tqdm

from benchmarks.methods import MEASURE
from benchmarks.series import machine, make_series
from data.atomic import write_text
from data.errors import InputError
from data.nifti import read_volume
from pipeline import measure, reconstruct
from pipeline.cli import json_object, main_wrapper
from pipeline.conformal import (
    FACTORS,
    local_scale,
    own_factors,
    patient_factor,
    patients_needed,
    risk_curve,
    risk_factor,
)
from pipeline.conformal_conditions import Conditions, conditions_of
from pipeline.evaluate import patient_mask
from pipeline.measurement import read_tensors
from pipeline.uncertainty_metrics import half_width_factor

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).parent.parent
INTERVALS = (0.8, 0.9)
CONFIDENCE = 0.9
SCALES = {"smoothed": {}, "raw": {"smooth_pixels": 0.0}}


@dataclass(frozen=True, eq=False)
class Patient:
    """By scale: risk curve and mean scale in HU within the body. raw_coverage: of the 90 % Student interval."""

    name: str
    curves: dict[str, np.ndarray]
    scale_hu: dict[str, float]
    raw_coverage: float
    raw_half_width_hu: float


def reconstruct_cohort(cohort: Path, section: dict[str, Any], settings: dict[str, Any], work: Path) -> list[list[Path]]:
    """reconstruct/pam folders of every patient's slices."""
    volumes = sorted(cohort.glob("*.nii*"))
    if not volumes:
        raise InputError(f"{cohort}: holds no NIfTI volume; name the folder of the calibration patients.")
    patients = []
    for path in tqdm(volumes, unit="patient"):
        count = nibabel.load(path).shape[2]
        name = path.name.split(".")[0]
        patients.append([one_slice(path, z, section, settings, work / name / f"slice{z}") for z in range(count)])
    return patients


def one_slice(volume: Path, z: int, section: dict[str, Any], settings: dict[str, Any], folder: Path) -> Path:
    """The reconstruction of one slice measured alone, made unless it is there."""
    out = folder / "reconstruct" / "pam"
    if (out / "run.json").is_file():
        return out
    series = make_series(volume, "ct", (z, z + 1), folder / "ingested")
    measured = ["--input", str(series), "--out", str(folder / "measurement"), "--settings", json.dumps(section)]
    made = ["--measurement", str(folder / "measurement"), "--solver", "pam", "--out", str(out)]
    if measure.main(measured) != 0 or reconstruct.main([*made, "--settings", json.dumps(settings)]) != 0:
        raise InputError(f"{volume}, slice {z}: could not be reconstructed; the message is above.")
    return out


def read_patient(slices: list[Path], name: str) -> Patient:
    """Averages over the patient's slices."""
    curves: dict[str, list[np.ndarray]] = {scale: [] for scale in SCALES}
    widths: dict[str, list[float]] = {scale: [] for scale in SCALES}
    covered, half_widths = [], []
    for path in slices:
        samples = read_tensors(path / "samples.safetensors")[0]["samples"]
        truth = read_volume(path.parents[1] / "measurement" / "truth.nii.gz").array_zyx
        mask = patient_mask(truth, "ct")
        mean, std = samples.mean(0, dtype=np.float64), samples.std(0, ddof=1, dtype=np.float64)
        for scale, options in SCALES.items():
            s = local_scale(std, **options)
            curves[scale].append(risk_curve(mean, s, truth, mask))
            widths[scale].append(float(s[mask].mean()))
        half = half_width_factor(len(samples), 0.9) * std
        covered.append(float((np.abs(truth - mean) <= half)[mask].mean()))
        half_widths.append(float(half[mask].mean()))
    return Patient(
        name,
        {scale: np.mean(found, axis=0) for scale, found in curves.items()},
        {scale: float(np.mean(found)) for scale, found in widths.items()},
        float(np.mean(covered)),
        float(np.mean(half_widths)),
    )


def oracle_factor(curves: np.ndarray, alpha: float) -> float:
    """Smallest lambda whose mean risk over these very patients is alpha: it has seen their truths."""
    return float(FACTORS[int(np.argmax(curves.mean(axis=0) <= alpha))])


def leave_one_out(curves: np.ndarray, choose: Callable[[np.ndarray], float]) -> tuple[np.ndarray, np.ndarray]:
    """(lambda, coverage) of every patient, with lambda chosen from the others' curves."""
    chosen = [choose(np.delete(curves, j, axis=0)) for j in range(len(curves))]
    losses = [curve[np.searchsorted(FACTORS, factor)] for curve, factor in zip(curves, chosen)]
    return np.array(chosen), 1 - np.array(losses)


def rules(alpha: float) -> dict[str, Callable[[np.ndarray], float]]:
    """The two guarantees of pipeline.conformal at this level."""
    return {
        "risk: mean share outside": lambda curves: risk_factor(curves, alpha),
        f"patient: {CONFIDENCE:.0%} of patients": lambda curves: patient_factor(curves, alpha, CONFIDENCE),
    }


def table(patients: list[Patient]) -> list[str]:
    """Coverage and width of both guarantees, intervals and scales, each patient left out in turn."""
    head = ["interval", "guarantee", "scale", "lambda", "lambda, all", "coverage, mean", "lowest"]
    head += ["patients at or above", "half width HU", "over oracle width"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for interval in INTERVALS:
        for scale in SCALES:
            curves = np.stack([p.curves[scale] for p in patients])
            widths = np.array([p.scale_hu[scale] for p in patients])
            alpha = 1 - interval
            oracle = oracle_factor(curves, alpha) * widths.mean()
            for name, choose in rules(alpha).items():
                try:
                    chosen, coverage = leave_one_out(curves, choose)
                    everything = choose(curves)
                except InputError as error:
                    lines.append(f"| {interval:.0%} | {name} | {scale} | {error} |" + " |" * 6)
                    continue
                width = float((chosen * widths).mean())
                good = int((coverage >= interval - 1e-9).sum())
                cells = [f"{interval:.0%}", name, scale, f"{chosen.mean():.2f}", f"{everything:.2f}"]
                cells += [f"{coverage.mean():.3f}", f"{coverage.min():.3f}", f"{good} of {len(patients)}"]
                lines.append(f"| {' | '.join([*cells, f'{width:.0f}', f'{width / oracle:.2f}'])} |")
    return [*lines, ""]


def share_of_risk(n: int, alpha: float) -> float:
    """Mean empirical risk that n patients may have for lambda to be accepted: alpha - (1 - alpha) / n."""
    return alpha - (1 - alpha) / n


def notes(patients: list[Patient]) -> list[str]:
    n = len(patients)
    factors = own_factors(np.stack([p.curves["smoothed"] for p in patients]), 0.1)
    needs = "; ".join(f"{k} patients {100 * share_of_risk(k, 0.1):.1f} %" for k in (9, 10, 20, 50, 100))
    own = ", ".join(f"{factor:.2f}" for factor in sorted(factors))
    return [
        f"- Each patient's own lambda for 90 % (smoothed scale), sorted: {own}. The guarantee `patient` takes one of "
        "these; the closer they lie together, the closer its width comes to the oracle's.",
        "- The guarantee `risk` counts the new patient as wholly outside: the cohort's own mean share outside has to "
        f"fall to alpha - (1 - alpha) / n. At 90 % that is, for {needs}. With the fewest patients that are accepted, "
        f"{patients_needed(0.1)}, not one voxel may lie outside; leaving one of {n} out comes near that case: "
        "its width is the price of few patients, not of the samples.",
        "- *smoothed*: the samples' variance averaged over neighbours in the slice before it scales the interval, as "
        "`pipeline.conformal` does; *raw*: voxel by voxel.",
        "- The oracle's lambda has the stated mean coverage on these very patients; its width uses the same scale.",
    ]


def write_page(patients: list[Patient], conditions: Conditions, command: str, out: Path) -> None:
    raw = [p.raw_coverage for p in patients]
    half_width = np.mean([p.raw_half_width_hu for p in patients])
    lines = [
        "# Conformal intervals on real patients",
        "",
        f"Command: `{command}`. {len(patients)} patients, each slice measured and reconstructed alone. Measurement: "
        f"`{json.dumps(conditions.measure)}`. Prior {conditions.prior_sha256[:12]}, solver {conditions.solver}, "
        f"{conditions.samples} samples. Machine: {machine()}.",
        "",
        "Every patient is left out once: lambda comes from the others, coverage and width from the one left out.",
        "",
        *table(patients),
        f"Without calibration the 90 % Student interval of the samples covers {np.mean(raw):.3f} of the body's voxels "
        f"(lowest patient {min(raw):.3f}) with a half width of {half_width:.0f} HU.",
        "",
        "![share outside against lambda](conformal.png)",
        "",
        *notes(patients),
    ]
    out.mkdir(parents=True, exist_ok=True)
    picture(patients, out / "conformal.png")
    write_text(out / "conformal.md", "\n".join(lines) + "\n")


def picture(patients: list[Patient], out: Path) -> None:
    """Every patient's share outside against lambda, and the lambda of both guarantees at 90 %."""
    curves = np.stack([p.curves["smoothed"] for p in patients])
    figure, axis = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    axis.plot(FACTORS, curves.T, color="tab:blue", alpha=0.5, linewidth=1)
    axis.plot(FACTORS, curves.mean(0), color="black", label="mean")
    for (name, choose), colour in zip(rules(0.1).items(), ("tab:red", "tab:green")):
        try:
            axis.axvline(choose(curves), color=colour, label=name)
        except InputError:
            continue
    axis.axhline(0.1, color="0.6", linewidth=1)
    axis.set(xscale="log", xlim=(0.3, 30), ylim=(0, 1), xlabel="lambda", ylabel="share of body voxels outside")
    axis.legend(fontsize=8)
    figure.savefig(out, dpi=90)
    plt.close(figure)


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohort", type=Path, required=True, help="folder with one NIfTI a patient")
    parser.add_argument("--measure", default="{}", help="JSON: changes of the 30-view measurement of the bench")
    parser.add_argument("--prior", type=Path, default=ROOT / "models" / "weights" / "ct")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--levels", type=int, default=10)
    parser.add_argument("--work", type=Path, default=ROOT / "results" / "conformal_ct")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    arguments = parser.parse_args(argv)
    changes = json_object(arguments.measure, "--measure")
    section = {"modality": "ct", **MEASURE["ct"], **changes}
    settings = {"prior": str(arguments.prior), "samples": arguments.samples, "levels": arguments.levels, "point": False}
    card = json.loads((arguments.prior / "prior.json").read_text(encoding="utf-8"))
    parts = [section, arguments.samples, arguments.levels, card["sha256"], card.get("r2_scale")]
    work = arguments.work / hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]
    found = reconstruct_cohort(arguments.cohort, section, settings, work)
    patients = [read_patient(slices, slices[0].parents[2].name) for slices in found]
    command = f"python -m benchmarks.conformal_ct --cohort {arguments.cohort.name} --measure '{json.dumps(changes)}'"
    command += f" --samples {arguments.samples} --levels {arguments.levels}"
    write_page(patients, conditions_of(found[0][0]), command, arguments.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
