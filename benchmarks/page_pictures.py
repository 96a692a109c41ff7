"""Pictures of a task's chief methods with their errors, and the curves of quality against cost."""

from pathlib import Path

import matplotlib
import numpy as np

from benchmarks.bench_results import CHIEF, Row, TaskResults
from data.nifti import read_volume
from data.volume import Volume

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import ScalarFormatter

CT_WINDOW_HU = (-1000.0, 400.0)
CT_ERROR_HU = 200.0
# Share of the window's height that ends the colour scale of MR errors.
MR_ERROR = 0.2


def shown(results: TaskResults) -> list[Row]:
    """Best classical method, chief rivals by PSNR, ours; of each method the estimate that is stored."""
    stored = [row for row in results.rows if row.estimate != "sample"]
    classical = results.best([row for row in stored if row.kind == "classical"])
    rivals = sorted(
        (row for row in stored if row.method in CHIEF), key=lambda row: row.figure("psnr_db", "axial"), reverse=True
    )
    return [*([classical] if classical else []), *rivals[:2], *(row for row in stored if row.kind == "ours")]


def picture(results: TaskResults, out: Path) -> bool:
    """Writes a JPEG: columns truth and methods, rows the three planes, each above its error; False without images.

    The column after the last method is the standard deviation of our samples.
    """
    rows = shown(results)
    if not rows:
        return False
    first = rows[0].results[0].folder
    truth = read_volume(first.parent / "measurement" / "truth.nii.gz")
    columns = [("truth", truth.array_zyx)] + [(row.label, stored(row, "estimate").array_zyx) for row in rows]
    spread = next((stored(row, "std") for row in rows if row.kind == "ours" and row.estimate == "mean"), None)
    ct = results.task.modality == "ct"
    window = CT_WINDOW_HU if ct else (0.0, float(np.percentile(truth.array_zyx, 99.8)))
    error_high = CT_ERROR_HU if ct else MR_ERROR * window[1]
    draw(columns, spread and spread.array_zyx, truth, window, error_high, out)
    return True


def stored(row: Row, name: str) -> Volume:
    """Volume (z y x) of the row's first seed in physical units."""
    result = row.results[0]
    volume = read_volume(result.folder / f"{name}.nii.gz")
    return Volume(volume.array_zyx * result.record["stored_scale"], volume.affine, volume.spacing_mm)


def draw(columns, spread: np.ndarray | None, truth: Volume, window, error_high: float, out: Path) -> None:
    """columns: (title, array (z y x)), the first being the truth; spread (z y x) or None."""
    depth, _, width = (size * edge for size, edge in zip(truth.shape, truth.spacing_mm, strict=True))
    ratios = [1.0, 1.0, *[max(depth / width, 0.08)] * 4]
    count = len(columns) + (spread is not None)
    figure, axes = plt.subplots(
        6,
        count,
        figsize=(2.1 * count, 2.1 * sum(ratios) + 0.4),
        height_ratios=ratios,
        layout="constrained",
        squeeze=False,
    )
    for column in range(count):
        title, array = columns[column] if column < len(columns) else ("std of ours", None)
        for plane in range(3):
            image, error = axes[2 * plane, column], axes[2 * plane + 1, column]
            aspect = (
                truth.spacing_mm[1] / truth.spacing_mm[2] if plane == 0 else truth.spacing_mm[0] / truth.spacing_mm[2]
            )
            if array is None:
                image.imshow(cut(spread, plane), cmap="inferno", vmin=0, vmax=error_high, aspect=aspect)
            else:
                image.imshow(cut(array, plane), cmap="gray", vmin=window[0], vmax=window[1], aspect=aspect)
                if column:
                    difference = np.abs(cut(array, plane) - cut(columns[0][1], plane))
                    error.imshow(difference, cmap="inferno", vmin=0, vmax=error_high, aspect=aspect)
        axes[0, column].set_title(title, fontsize=9)
    for axis in axes.flat:
        axis.set_axis_off()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=100, pil_kwargs={"quality": 88})
    plt.close(figure)


def cut(array: np.ndarray, plane: int) -> np.ndarray:
    """The middle axial (0), coronal (1) or sagittal (2) slice, the patient's head or front on top."""
    return np.take(array, array.shape[plane] // 2, axis=plane)[::-1]


def spread_picture(results: TaskResults, out: Path) -> bool:
    """Covered against nominal share, and error against predicted error, of the chief methods; False without any."""
    rows = [row for row in results.of(estimates=["mean"]) if row.kind == "ours" or row.method in CHIEF]
    rows = [row for row in rows if row.results[0].record.get("curves")]
    if not rows:
        return False
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for row in rows:
        curves = row.results[0].record["curves"]
        width = 2.5 if row.kind == "ours" else 1.2
        nominal = sorted(curves["coverage"], key=float)
        covered = [curves["coverage"][level] for level in nominal]
        axes[0].plot([float(level) for level in nominal], covered, "o-", label=row.method, linewidth=width)
        axes[1].plot(curves["calibration"]["predicted"], curves["calibration"]["actual"], ".-", linewidth=width)
    limit = max(axes[1].get_xlim()[1], axes[1].get_ylim()[1])
    for axis, end, labels in (
        (axes[0], 1.0, ("nominal share", "covered share")),
        (axes[1], limit, ("predicted error", "error, in bins of equal count")),
    ):
        axis.plot([0, end], [0, end], "k--", linewidth=0.8)
        axis.set_xlabel(labels[0])
        axis.set_ylabel(labels[1])
        axis.grid(alpha=0.3)
    axes[0].set_xlim(0.45, 1)
    axes[0].legend(fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    plt.close(figure)
    return True


def curve_picture(results: TaskResults, out: Path) -> bool:
    """Axial PSNR against network calls and against CPU seconds; False where there are no points."""
    lines: dict[str, list[tuple[float, float, float]]] = {}
    for row in results.rows:
        point = row.figure("network_calls"), row.figure("cpu_seconds"), row.figure("psnr_db", "axial")
        lines.setdefault(row.method.rpartition("-")[0], []).append(point)
    if not lines:
        return False
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
    for name, points in lines.items():
        calls, seconds, psnr = zip(*sorted(points), strict=True)
        for axis, across in zip(axes, (calls, seconds), strict=True):
            axis.plot(across, psnr, "o-", label=name, linewidth=2.5 if name.startswith("pam") else 1.2)
    for axis, label in zip(axes, ("network calls", "CPU seconds"), strict=True):
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_xticks(sorted({calls for points in lines.values() for calls, _, _ in points}))
    axes[0].set_ylabel("axial PSNR, dB")
    axes[0].legend(fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    plt.close(figure)
    return True
