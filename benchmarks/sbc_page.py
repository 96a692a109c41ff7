"""docs/results/sbc.md, its rank histograms and the picture of the prior's own draws."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from scipy import stats
from torch import Tensor

from data.atomic import write_text

matplotlib.use("Agg")
from matplotlib import pyplot as plt

TITLES = {"gaussian": "Gaussian prior, everything in closed form", "network": "The trained prior's own draws as truths"}
INTRODUCTION = """
Truths are drawn from the prior, measured with the very operator and noise that the sampler is told, and sampled K
times; the rank of the truth among its samples is uniform when the sampler is exact (Talts et al. 2018). This isolates
the sampler's error from the prior's misfit to patients. Each cell: **p** of a chi-square test of uniform ranks
(replicates are independent), and **spread**, the variance of the ranks over that of uniform ones: above 1 (a histogram
like a U) the samples are too narrow, below 1 too wide; chance alone gives 1 +- {margin:.2f} at {replicates} replicates.
The last columns are (1 + 1/K) V / B over all voxels, 1 when spread equals error, and the root mean squared error of the
mean of the samples, in prior units.
"""


def margin(samples: int, replicates: int) -> float:
    """Two standard deviations of the rank variance's ratio to uniform, for independent replicates."""
    rank = np.arange(samples + 1) - samples / 2
    squares = rank**2 / np.mean(rank**2)
    return float(2 * squares.std() / np.sqrt(replicates))


def table(figures: Mapping[str, Any]) -> list[str]:
    names = list(next(iter(figures.values()))["uniformity"])
    head = ["sampler", *names, "(1 + 1/K) V / B", "rmse", "seconds"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for sampler, row in figures.items():
        cells = [f"p {u['p']:.2g}, spread {u['spread']:.2f}" for u in row["uniformity"].values()]
        numbers = [f"{row['calibration_ratio']:.2f}", f"{row['rmse']:.4f}", f"{row['seconds']:.0f}"]
        lines.append("| " + " | ".join([sampler, *cells, *numbers]) + " |")
    return [*lines, ""]


def histograms(figures: Mapping[str, Any], out: Path) -> None:
    """Rows: samplers; columns: statistics; the band holds 99 % of a bin's counts under uniformity."""
    names = list(next(iter(figures.values()))["ranks"])
    size = (1.9 * len(names), 1.5 * len(figures))
    figure, axes = plt.subplots(len(figures), len(names), figsize=size, layout="compressed", squeeze=False)
    for line, (sampler, row) in zip(axes, figures.items()):
        for axis, name in zip(line, names):
            counts = np.array(row["ranks"][name])
            low, high = stats.binom.interval(0.99, counts.sum(), 1 / counts.size)
            axis.axhspan(low, high, color="0.88")
            axis.bar(np.arange(counts.size), counts, width=0.9, color="tab:blue")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_title(name if line is axes[0] else "", fontsize=8)
        line[0].set_ylabel(sampler, fontsize=8)
    _save(figure, out)


def draws_picture(truth: Tensor, out: Path) -> None:
    """The first eight truths, HU -1000 to 400."""
    count = min(8, len(truth))
    figure, axes = plt.subplots(1, count, figsize=(1.5 * count, 1.6), layout="compressed", squeeze=False)
    for axis, plane in zip(axes[0], truth):
        axis.imshow(plane.numpy()[::-1], cmap="gray", vmin=-1.0, vmax=0.4)
        axis.set_axis_off()
    _save(figure, out)


def write_page(
    folder: Path, conditions: Mapping[str, str], parts: Mapping[str, tuple[Any, Mapping[str, Any]]], truth: Tensor
) -> None:
    """sbc.md with a table and a picture of histograms a part."""
    folder.mkdir(parents=True, exist_ok=True)
    setting = parts["network"][0]
    text = INTRODUCTION.format(margin=margin(setting.samples, setting.replicates), replicates=setting.replicates)
    lines = [
        "# Simulation-based calibration",
        *text.rstrip().splitlines(),
        "",
        f"Command: `{conditions['command']}`. Prior {conditions['prior'][:12]}. Machine: {conditions['machine']}.",
        "",
    ]
    for name, (size, figures) in parts.items():
        lines += [
            f"## {TITLES[name]}",
            "",
            f"{size.replicates} slices of {size.side} x {size.side} pixels of {size.pixel_mm:g} mm, {size.views} "
            f"parallel views, white noise of {100 * size.noise_of_largest:g} % of the largest ray through water, "
            f"K = {size.samples}.",
            "",
            *table(figures),
            f"![ranks](sbc_{name}.png)",
            "",
        ]
        histograms(figures, folder / f"sbc_{name}.png")
    draws_picture(truth, folder / "sbc_draws.png")
    lines += ["The first truths of the trained prior, HU -1000 to 400:", "", "![truths](sbc_draws.png)", ""]
    notes = folder / "sbc_notes.md"
    if notes.is_file():
        lines += [notes.read_text(encoding="utf-8").strip(), ""]
    write_text(folder / "sbc.md", "\n".join(lines).rstrip() + "\n")


def _save(figure: Any, out: Path) -> None:
    figure.savefig(out, dpi=80)
    plt.close(figure)
