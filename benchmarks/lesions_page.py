"""docs/results/lesions.md and its pictures, from the results of the lesion test."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from benchmarks.lesion_scores import Scene, relative_contrast
from data.atomic import write_text

matplotlib.use("Agg")
from matplotlib import pyplot as plt

WINDOWS = {"lung": (-1000.0, 200.0), "soft": (-120.0, 200.0)}
HALF_PIXELS = 20
PLACES, AUCS = ("correct", "false", "missed"), ("both", "false", "missed", "alike")

INTRODUCTION = """
Two volumes were measured and reconstructed: one as it is, and one with smooth balls of known diameter and contrast put
in and real small structures of the lung taken out (filled with the median about them). A matched filter for each
diameter, least squares over an unknown even background, gives a response at every voxel.

- **recovery**: difference of the response at the place between the two reconstructions over that between the two
  truths; 1 is right, 0 is lost, and for structures taken out 0 means that the method has put them back.
- **detection**: share of 200 background places of the same tissue where the filter responds less than at the lesion,
  averaged over lesions: the area under the ROC curve of an observer who knows size and place. The truth has its own
  row: vessels and fat are background too.
- **false**, **missed**: maxima of the filter over half the smallest tested contrast that are in the reconstruction and
  not in the truth, or the other way round (no response of a quarter of that contrast within a radius and a pixel), per
  100 cm3 of the tissue deep enough for the smallest size; all anatomy counts and not the lesions alone.
- **warning AUC**: whether a score is larger at false structures than at correct ones (false), at missed ones than at
  places that are rightly empty (missed), at all wrong places than at all right ones (both), and the last between places
  of one tissue and size alone (alike): small structures are wrong more often than large ones, so that *size alone*,
  which knows nothing but the diameter, scores well on the first three. *flag* is the probability that the picture is
  wrong about a structure of the place's size (docs/uncertainty.md), *one size* the map that the pipeline writes, for
  one size everywhere, *std* the samples' standard deviation.

`pam`, `dds` and `diffusion_mbir` are the means of their samples. All diffusion methods have the same prior. The point
estimate, which stands for the truth where a flag is made for `pam`, is judged with the samples of `pam`.

Contrasts are HU for CT and shares of the signal of the tissue about a lesion for MR. MR lesions lie in white matter,
darker (as most lesions are in T1 weighting) and brighter; MR has no structures taken out.
"""


def mean_of(rows: list[dict[str, Any]], key: str, **chosen: Any) -> float:
    """Mean of a column over the rows with these values; nan where there are none."""
    values = [r[key] for r in rows if all(r[k] == v for k, v in chosen.items()) and np.isfinite(r[key])]
    return float(np.mean(values)) if values else float("nan")


def cell(value: float | None, digits: int = 2) -> str:
    return "" if value is None or not np.isfinite(value) else f"{value:.{digits}f}"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "|" + " --- |" * len(head),
        *("| " + " | ".join(r) + " |" for r in rows),
        "",
    ]


def summary_table(result: Mapping[str, Any]) -> list[str]:
    """One line a method: recovery and detection by tissue, false and missed structures."""
    tissues = list(result["truth_structures"])
    removed = any(r["kind"] == "removed" for m in result["methods"].values() for r in m["lesions"])
    head = ["method", *(f"{t}: recovery" for t in tissues), *(f"{t}: detection" for t in tissues)]
    head += ["removed: recovery"] if removed else []
    head += [f"{t}: {kind} / 100 cm3" for t in tissues for kind in ("false", "missed")]
    lines = []
    for name, record in result["methods"].items():
        rows = record["lesions"]
        cells = [name]
        for key in ("recovery", "detection"):
            cells += [cell(mean_of(rows, key, kind="inserted", tissue=t)) for t in tissues]
        cells += [cell(mean_of(rows, "recovery", kind="removed"))] if removed else []
        for t in tissues:
            volume = record["searched_cm3"][t] or float("nan")
            cells += [cell(100 * record["structures"][t][kind] / volume, 1) for kind in ("false", "missed")]
        lines.append(cells)
    return table(head, lines)


def warning_table(result: Mapping[str, Any]) -> list[str]:
    """One line a method with samples and score: how many places, and the score's AUCs."""
    lines = []
    for name, record in result["methods"].items():
        counts = [str(sum(by_kind[kind] for by_kind in record["structures"].values())) for kind in PLACES]
        for score, aucs in record["warning"].items():
            # Results of an earlier form of the test hold other scores.
            if set(aucs) == set(AUCS):
                lines.append([name, *counts, score, *(cell(aucs[kind]) for kind in AUCS)])
    if not lines:
        return ["Scores that might warn of wrong places were not computed for this result.", ""]
    return table(["warning AUC of", *PLACES, "score", *AUCS], lines)


def detail_table(result: Mapping[str, Any], key: str) -> list[str]:
    """One line a tissue, contrast and diameter: the column `key` of every method, over the inserted lesions."""
    names = list(result["methods"])
    first = [r for r in result["methods"][names[0]]["lesions"] if r["kind"] == "inserted"]
    kinds = sorted({(r["tissue"], r["contrast"], r["diameter_mm"]) for r in first})
    lines = []
    for tissue, contrast, diameter in kinds:
        chosen = {"kind": "inserted", "tissue": tissue, "contrast": contrast, "diameter_mm": diameter}
        count = sum(all(r[k] == v for k, v in chosen.items()) for r in first)
        values = [cell(mean_of(result["methods"][name]["lesions"], key, **chosen)) for name in names]
        lines.append([tissue, f"{contrast:+g}", f"{diameter:g}", str(count), *values])
    return table(["tissue", "contrast", "mm", "lesions", *names], lines)


def section(result: Mapping[str, Any], image: str) -> list[str]:
    """Heading, conditions, tables and picture of one task."""
    first, last = result["slices"]
    searched = next(iter(result["methods"].values()))["searched_cm3"]
    truth = ", ".join(f"{n} in {searched[t]:.0f} cm3 of {t}" for t, n in result["truth_structures"].items())
    return [
        f"## {result['title']} (`{result['task']}`)",
        "",
        f"Command: `{result['command']}`. {result['volume']}, slices {first} to {last - 1}; measurement "
        f"`{json.dumps(result['measurement'])}`; {result['samples']} samples; prior {result['prior_sha256'][:12]}; "
        f"machine: {result['machine']}. Structures in the truth: {truth}.",
        "",
        *summary_table(result),
        *warning_table(result),
        f"![{result['task']}]({image})",
        "",
        "Recovery of inserted lesions:",
        "",
        *detail_table(result, "recovery"),
        "Detection of inserted lesions:",
        "",
        *detail_table(result, "detection"),
    ]


def write_page(work: Path, out: Path) -> None:
    """lesions.md and lesions_<task>.png of all results below `work`; a task's newest result wins."""
    newest: dict[str, Path] = {}
    for path in sorted(work.glob("*/*/result.json"), key=lambda p: p.stat().st_mtime):
        newest[path.parent.name] = path
    lines = ["# Lesion test", *INTRODUCTION.rstrip().splitlines(), ""]
    out.mkdir(parents=True, exist_ok=True)
    for task in sorted(newest):
        image = f"lesions_{task}.png"
        shutil.copyfile(newest[task].parent / "picture.png", out / image)
        lines += section(json.loads(newest[task].read_text(encoding="utf-8")), image)
    notes = out / "lesions_notes.md"
    if notes.is_file():
        lines += [notes.read_text(encoding="utf-8").strip(), ""]
    write_text(out / "lesions.md", "\n".join(lines).rstrip() + "\n")


def shown(scene: Scene) -> list[tuple[str, Any]]:
    """(caption, lesion or removal) for the picture's rows: of each tissue a faint 8 mm and a 4 mm lesion, a removal."""
    chosen = []
    for tissue in scene.masks:
        for diameter in (8.0, 4.0):
            fitting = [x for x in scene.phantom.lesions if x.tissue == tissue and x.diameter_mm == diameter]
            if fitting:
                faintest = min(fitting, key=lambda x: abs(x.contrast))
                chosen.append((f"{tissue}, {diameter:g} mm, {relative_contrast(scene, faintest):+.3g}", faintest))
    if scene.phantom.removals:
        strongest = max(scene.phantom.removals, key=lambda x: abs(x.contrast))
        caption = f"removed, {strongest.diameter_mm:.0f} mm, {relative_contrast(scene, strongest):+.3g}"
        chosen.append((caption, strongest))
    return chosen


def picture(
    scene: Scene, images: Mapping[str, np.ndarray], flags: Mapping[str, np.ndarray], modality: str, out: Path
) -> None:
    """Rows: single lesions; columns: truth before and after, every method's reconstruction, the flag of the samples."""
    rows = shown(scene)
    columns: dict[str, np.ndarray] = {"truth, before": scene.phantom.original, **images}
    flag = next(((f"flag of {n}", flags[n]) for n in ("pam", *flags) if n in flags), None)
    count = len(columns) + (flag is not None)
    figure, axes = plt.subplots(
        len(rows), count, figsize=(1.7 * count, 1.85 * len(rows)), layout="compressed", squeeze=False
    )
    for line, (caption, item) in zip(axes, rows):
        crop = window_about(item.centre, scene.phantom.original.shape)
        low, high = WINDOWS.get(item.tissue, (0.0, 1.5 * scene.unit))
        for axis, (name, volume) in zip(line, columns.items()):
            _show(axis, volume[crop], "gray", low, high, modality)
            axis.set_title(name, fontsize=8)
        if flag is not None:
            values = flag[1]
            _show(line[-1], values[crop], "inferno", 0.0, float(np.percentile(values, 99.5)), modality)
            line[-1].set_title(flag[0], fontsize=8)
        line[0].set_ylabel(caption, fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=80)
    plt.close(figure)


def window_about(centre: tuple[int, int, int], shape: tuple[int, ...]) -> tuple[int, slice, slice]:
    """Axial slice and square of 2 HALF_PIXELS pixels about a voxel, inside the volume."""
    z, y, x = centre
    low = [
        int(np.clip(i - HALF_PIXELS, 0, max(size - 2 * HALF_PIXELS, 0))) for i, size in ((y, shape[1]), (x, shape[2]))
    ]
    return z, slice(low[0], low[0] + 2 * HALF_PIXELS), slice(low[1], low[1] + 2 * HALF_PIXELS)


def _show(axis: Any, plane: np.ndarray, colours: str, low: float, high: float, modality: str) -> None:
    turn: Callable[[np.ndarray], np.ndarray] = np.flipud
    axis.imshow(turn(plane), cmap=colours, vmin=low, vmax=high, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
