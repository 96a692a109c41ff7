"""docs/results/networks.md and its chart."""

from pathlib import Path

import matplotlib
import numpy as np

from benchmarks.series import machine

matplotlib.use("Agg")
from matplotlib import pyplot as plt

PAGES = Path(__file__).parent.parent / "docs" / "results"


def gain_db(row, base) -> float:
    """Mean over noise levels of the error's ratio to that of `base`, in dB; positive is better."""
    return float(-10 * np.mean(np.log10(np.array(row.errors) / np.array(base.errors))))


def write_page(rows, chains, sigmas, command: str, data: tuple[str, list[str]]) -> None:
    """Table of all variants, chains of plain and residual start, chart; ends with networks_notes.md where there is
    one."""
    PAGES.mkdir(parents=True, exist_ok=True)
    chart(rows, sigmas, PAGES / "networks.png")
    held_out, trained = data
    lines = [
        "# Which network",
        "",
        f"Command: `{command}`. Seed 0. Machine: {machine()}; one thread.",
        f"Trained on {', '.join(trained)}; 96-pixel crops, batches of 8. Errors on 12 middle slices of {held_out},",
        "which no variant was trained on, under the same white noise: mean squared error in (HU/1000)^2.",
        "Minutes of training rank who learns fast, not who ends best.",
        "",
        "| variant | M weights | steps | CPU s | " + " | ".join(f"sigma {s:g}" for s in sigmas) + " | mean gain dB "
        "| CPU s a slice |",
        "|" + " --- |" * (6 + len(sigmas)),
    ]
    for row in rows:
        errors = " | ".join(f"{e:.2e}" for e in row.errors)
        lines.append(
            f"| {row.name} | {row.parameters / 1e6:.1f} | {row.steps} | {row.seconds:.0f} | {errors} "
            f"| {gain_db(row, rows[0]):+.2f} | {row.slice_seconds:.3f} |"
        )
    lines += [
        "",
        "The rows with pairs are trained on 12 slices of each patient, beside their classical 30-view start.",
        "",
        "![networks](networks.png)",
        "",
        "Ten corrected levels from the classical start, 30 views of 8 slices of the held-out patient; PSNR in dB of",
        "the point estimate, by the factor on the predicted error variance:",
        "",
        "| variant | " + " | ".join(f"x {t:g}" for t in next(iter(chains.values()))) + " |",
        "|" + " --- |" * (1 + len(next(iter(chains.values())))),
        *(f"| {name} | " + " | ".join(f"{v:.2f}" for v in values.values()) + " |" for name, values in chains.items()),
    ]
    notes = PAGES / "networks_notes.md"
    if notes.is_file():
        lines += ["", notes.read_text(encoding="utf-8").strip()]
    (PAGES / "networks.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def chart(rows, sigmas, out: Path) -> None:
    """Left: gain over the first variant by noise level. Right: mean gain against the cost of inference."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    base = np.array(rows[0].errors)
    for row in rows:
        gains = -10 * np.log10(np.array(row.errors) / base)
        (line,) = left.semilogx(sigmas, gains, marker="o", label=row.name)
        right.plot(1000 * row.slice_seconds, gain_db(row, rows[0]), marker="o", color=line.get_color())
        right.annotate(row.name, (1000 * row.slice_seconds, gain_db(row, rows[0])), fontsize=7, xytext=(4, 3),
                       textcoords="offset points")  # fmt: skip
    left.set(xlabel="noise level, HU/1000", ylabel=f"gain over {rows[0].name}, dB")
    right.set(xlabel="CPU milliseconds a slice", ylabel="mean gain, dB")
    left.legend(fontsize=7)
    figure.savefig(out, dpi=90)
    plt.close(figure)
