"""docs/results/first_light.md and its pictures, from the metrics and volumes of a benchmark run."""

import json
from pathlib import Path

import matplotlib
import numpy as np

from benchmarks.methods import MEASURE
from benchmarks.series import machine
from data.nifti import read_volume
from models.prior import CARD

matplotlib.use("Agg")
from matplotlib import pyplot as plt

COLUMNS = ("ssim", "coverage90", "calibration_ratio", "crps", "z_jump", "chi2", "nfe", "seconds", "peak_mem_mb")
PLANES = ("axial", "coronal", "sagittal")
GOALS = {
    "ct": [("tv", "axial", 3.0), ("tv", "sagittal", 3.5), ("dds", "axial", 1.5)],
    "mr": [("classical", "axial", 2.0), ("dds", "axial", 1.5)],
}
CLASSICAL = ("fbp", "cgls", "tv", "zero_filled", "cg_sense", "wavelet")


def by_method(rows: list[dict[str, str]]) -> dict[str, dict[str, dict[str, str]]]:
    """rows[method][plane]."""
    table: dict[str, dict[str, dict[str, str]]] = {}
    for row in rows:
        table.setdefault(row["method"], {})[row["plane"]] = row
    return table


def table_lines(rows: list[dict[str, str]]) -> list[str]:
    head = ["method", *(f"{plane} dB" for plane in PLANES), *COLUMNS]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    methods = by_method(rows)
    for name in sorted(methods, key=lambda m: float(methods[m]["axial"]["psnr_db"])):
        planes = methods[name]
        cells = [name, *(f"{float(planes[p]['psnr_db']):.2f}" for p in PLANES)]
        cells += [f"{float(v):.3g}" if (v := planes["axial"][c]) else "" for c in COLUMNS]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def rival(methods: dict, kind: str, plane: str) -> tuple[str, float]:
    """The best rival of a kind and its PSNR: one method, the best classical one, or the best of DDS and DDS with
    TV-z."""
    if kind == "tv":
        names = ["tv"]
    elif kind == "classical":
        names = [m for m in methods if m in CLASSICAL]
    else:
        names = [m for m in methods if m.startswith("dds")]
    best = max(names, key=lambda m: float(methods[m][plane]["psnr_db"]))
    return best, float(methods[best][plane]["psnr_db"])


def goal_lines(modality: str, rows: list[dict[str, str]]) -> list[str]:
    """What was aimed at, what was reached, and by how much it was missed."""
    methods = by_method(rows)
    lines = ["| goal | rival | reached | |", "| --- | --- | --- | --- |"]
    for kind, plane, goal in GOALS[modality]:
        name, value = rival(methods, kind, plane)
        ours = max(float(methods[m][plane]["psnr_db"]) for m in ("pam_point", "pam_mean") if m in methods)
        gain = ours - value
        verdict = "reached" if gain >= goal else f"missed by {goal - gain:.2f} dB"
        lines.append(f"| +{goal:g} dB {plane} against {kind} | {name}, {value:.2f} dB | {gain:+.2f} dB | {verdict} |")
    coverage = float(methods["pam_mean"]["axial"]["coverage90"])
    verdict = "reached" if 0.85 <= coverage <= 0.95 else "missed"
    lines.append(f"| raw 90 % coverage .85 to .95 | | {coverage:.3f} | {verdict} |")
    return lines


def picture(series: Path, rows: list[dict[str, str]], modality: str, out: Path) -> None:
    """Middle axial and sagittal slice of truth, best classical method, best DDS, ours, spread and error."""
    methods = by_method(rows)
    classical = rival(methods, "classical", "axial")[0]
    dds = rival(methods, "dds", "axial")[0].rsplit("_", 1)[0]
    truth = read_volume(series / "measurement" / "truth.nii.gz").array_zyx
    point = read_volume(series / "reconstruct" / "pam" / "point.nii.gz").array_zyx
    volumes = {
        "truth": truth,
        classical: read_volume(series / "baseline" / f"{classical}.nii.gz").array_zyx,
        dds: read_volume(series / "uncertainty" / dds / "mean.nii.gz").array_zyx,
        "ours, point": point,
        "ours, mean": read_volume(series / "uncertainty" / "pam" / "mean.nii.gz").array_zyx,
        "std": read_volume(series / "uncertainty" / "pam" / "std.nii.gz").array_zyx,
        "|error| of point": np.abs(point - truth),
    }
    window = (-1000.0, 400.0) if modality == "ct" else (0.0, float(np.percentile(truth, 99.8)))
    spread = (0.0, 150.0 if modality == "ct" else float(np.percentile(volumes["std"], 99.8)))
    z, x = truth.shape[0] // 2, truth.shape[2] // 2
    size = (3 * len(volumes), 4.4)
    figure, axes = plt.subplots(2, len(volumes), figsize=size, height_ratios=(3, 1.1), layout="compressed")
    aspect = _slice_aspect(series)
    for column, (name, volume) in enumerate(volumes.items()):
        low, high = spread if name in ("std", "|error| of point") else window
        colours = "inferno" if name in ("std", "|error| of point") else "gray"
        axes[0, column].imshow(volume[z, ::-1], cmap=colours, vmin=low, vmax=high)
        axes[1, column].imshow(volume[::-1, :, x], cmap=colours, vmin=low, vmax=high, aspect=aspect)
        axes[0, column].set_title(name)
    for axis in axes.flat:
        axis.set_axis_off()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=90)
    plt.close(figure)


def _slice_aspect(series: Path) -> float:
    spacing = read_volume(series / "measurement" / "truth.nii.gz").spacing_mm
    return spacing[0] / spacing[1]


def prior_line(series: Path) -> str:
    run = json.loads((series / "reconstruct" / "pam" / "run.json").read_text(encoding="utf-8"))
    name = run["settings"]["prior"]
    card = Path(__file__).parent.parent / "models" / "weights" / name / CARD
    training = json.loads(card.read_text(encoding="utf-8"))["training"] if card.is_file() else {}
    return f"Prior {name}: {training.get('minutes', '?')} minutes of training, {training.get('steps', '?')} steps."


INTRODUCTION = """
One volume a modality, never trained or tuned on. Every method has its best setting from training patients
([CT](tuning_ct.md), [MR](tuning_mr.md)); all diffusion methods have the same prior and start. PSNR is the mean over
the slices that touch the patient: CT on HU clipped to [-1000, 1000], range 2000; MR magnitudes over the 99.5th
percentile, range 1. SSIM is of the axial plane, the columns after it of the volume; crps is in HU for CT.
`_mean` is the mean of posterior samples, `_sample` one of them, `_point` the point estimate. nfe counts network calls.
"""


def section(modality: str, series: Path, rows: list[dict[str, str]]) -> list[str]:
    """Heading, conditions, table, goals and picture of one modality."""
    measured = f"Measurement: `{json.dumps(MEASURE[modality])}`. {prior_line(series)}"
    image = f"![{modality}](first_light_{modality}.png)"
    return [
        "",
        f"## {modality.upper()}",
        "",
        measured,
        "",
        *table_lines(rows),
        "",
        *goal_lines(modality, rows),
        "",
        image,
    ]


def write_page(series: dict[str, tuple[Path, list[dict[str, str]]]], command: str, folder: Path) -> None:
    """first_light.md with one table and one picture a modality; ends with first_light_notes.md where there is one."""
    lines = ["# First light", "", f"Command: `{command}`. Seed 0. Machine: {machine()}."]
    lines += INTRODUCTION.rstrip().splitlines()
    for modality, (path, rows) in series.items():
        picture(path, rows, modality, folder / f"first_light_{modality}.png")
        lines += section(modality, path, rows)
    notes = folder / "first_light_notes.md"
    if notes.is_file():
        lines += ["", notes.read_text(encoding="utf-8").strip()]
    (folder / "first_light.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
