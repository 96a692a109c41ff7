"""Markdown tables of the bench's pages."""

import json
from collections.abc import Iterator, Sequence

from benchmarks.bench_results import CHIEF, Row, TaskResults
from benchmarks.page_goals import Line
from benchmarks.published import CITED, ROWS
from benchmarks.tasks import TASKS

PLANES = ("axial", "coronal", "sagittal")
# Heading, figure, key, digits.
IMAGE_COLUMNS = (
    *((f"{plane} dB", "psnr_db", plane, 2) for plane in PLANES),
    *((f"SSIM {plane[:3]}", "ssim", plane, 3) for plane in PLANES),
    ("RMSE", "rmse", "axial", None),
    ("z-jump", "z_jump", None, 2),
    ("chi2", "chi2", None, 2),
    ("calls", "network_calls", None, 0),
    ("seconds", "seconds", None, 0),
    ("CPU s", "cpu_seconds", None, 0),
    ("MiB", "peak_mem_mb", None, 0),
)
SPREAD_COLUMNS = (
    *((f"cov. {level}", f"coverage{level}", 3) for level in (50, 80, 90, 95)),
    ("calibration", "calibration_ratio", 2),
    ("CRPS", "crps", None),
    ("UCE", "uce", None),
    ("AUSE", "ause", 3),
    ("Spearman", "spearman", 2),
    *((f"block {side}", f"block{side}_coverage90", 3) for side in (2, 4, 8)),
    ("width 90", "width90", None),
    ("width / oracle", "width_ratio90", 2),
)


def table(head: Sequence[str], rows: list[Sequence[str]]) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield "| " + " | ".join(head) + " |"
    yield "|" + " --- |" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def number(value: float | None, digits: int | None) -> str:
    """Digits behind the point, or three significant ones."""
    if value is None:
        return ""
    return f"{value:.3g}" if digits is None else f"{value:.{digits}f}"


def image_table(results: TaskResults) -> Iterator[str]:
    """All estimates by axial PSNR."""
    rows = sorted(results.rows, key=lambda row: row.figure("psnr_db", "axial") or 0.0)
    cells = [[name_cell(row), *(number(row.figure(f, k), d) for _, f, k, d in IMAGE_COLUMNS)] for row in rows]
    cells += [
        [result.method, result.failed, *[""] * (len(IMAGE_COLUMNS) - 1)] for result in results.results if result.failed
    ]
    yield from table(["method", *(head for head, *_ in IMAGE_COLUMNS)], cells)


def spread_table(results: TaskResults) -> Iterator[str]:
    """The spread of every method that has samples."""
    rows = [row for row in results.of(estimates=["mean"]) if row.results[0].record["spread"]]
    cells = []
    for row in rows:
        samples = str(row.results[0].record["samples"])
        cells.append([row.method, samples, *(number(row.spread(f), d) for _, f, d in SPREAD_COLUMNS)])
    yield from table(["method", "samples", *(head for head, *_ in SPREAD_COLUMNS)], cells)


def settings_table(results: TaskResults) -> Iterator[str]:
    """What each method ran with, and where its settings were searched."""
    cells = []
    for result in results.results:
        record = result.record
        source = "default" if record["kind"] == "ours" else record["tuned_on"] or "defaults, not searched"
        prior = (record["prior_sha256"] or "")[:8]
        coupling = "" if record["coupling"] == "none" else record["coupling"]
        settings = f"`{json.dumps(record['settings'])}`"
        cells.append(
            [result.method, str(result.seed), settings, coupling, source, prior, record["code"], record["date"][:16]]
        )
    yield from table(["method", "seed", "settings", "coupling", "searched on", "prior", "code", "date (UTC)"], cells)


def summary_table(found: dict[str, TaskResults], plane: str) -> Iterator[str]:
    """One row a task: best classical, ours, best chief rival, best other rival, and our spread."""
    head = ["task", "classical", "ours", "chief rivals", "other rivals", "gain over classical", "over rivals"]
    head += ["cov. 90", "calibration", "z-jump of a sample"]
    cells = []
    for name, results in found.items():
        classical = results.best(results.of(kinds=["classical"]), plane)
        chief = results.best(results.of(methods=CHIEF), plane)
        others = [row for row in results.of(kinds=["rival"]) if row.method not in CHIEF]
        other, ours = results.best(others, plane), results.ours(plane)
        rival = results.best([row for row in (chief, other) if row], plane)
        spread = next(iter(results.of(methods=["pam"], estimates=["mean"])), None)
        sample = next(iter(results.of(methods=["pam"], estimates=["sample"])), None)
        cells.append(
            [
                f"[{name}](bench_{name}.md)",
                *(best_cell(row, plane) for row in (classical, ours, chief, other)),
                *(gain_cell(ours, row, plane) for row in (classical, rival)),
                number(spread and spread.spread("coverage90"), 3),
                number(spread and spread.spread("calibration_ratio"), 2),
                number(sample and sample.figure("z_jump"), 2),
            ]
        )
    yield from table(head, cells)


def goals_table(lines: Iterator[Line]) -> Iterator[str]:
    cells = [[line.goal, line.figure, line.reached, line.verdict] for line in lines]
    yield from table(["goal", "figure", "reached", ""], cells)


def published_table(found: dict[str, TaskResults]) -> Iterator[str]:
    """Published figures, each with our figure on the nearest task."""
    cells = []
    for row in ROWS:
        ours = found[row.near].ours() if row.near in found else None
        nearest = f"{row.near}: {best_cell(ours, 'axial')}" if ours else row.near
        star = "*" if row.read == CITED else ""
        cells.append([row.task, row.method, row.psnr_db + star, row.calls, row.source, row.conditions, nearest])
    yield from table(["task", "method", "PSNR dB", "calls", "source", "conditions there", "ours, nearest task"], cells)
    yield ""
    yield "\\* as another paper or a reader's notes give it, not checked against the paper's own table."


def name_cell(row: Row) -> str:
    return f"**{row.label}**" if row.kind == "ours" else row.label


def best_cell(row: Row | None, plane: str) -> str:
    return f"{row.figure('psnr_db', plane):.2f} ({row.label})" if row else ""


def gain_cell(ours: Row | None, other: Row | None, plane: str) -> str:
    if not ours or not other:
        return ""
    return f"{ours.figure('psnr_db', plane) - other.figure('psnr_db', plane):+.2f}"


def conditions(results: TaskResults) -> Iterator[str]:
    """Data, seeds, machine, priors and dates of a task's table."""
    section = {k: v for k, v in TASKS[results.task.name].section(0).items() if k not in ("seed", "modality")}
    z, y, x = results.results[0].record["shape_zyx"]
    dates = sorted(result.record["date"][:10] for result in results.results)
    priors = ", ".join(sha[:12] for sha in results.provenance("prior_sha256")) or "none"
    yield f"{results.task.title}. `{json.dumps(section)}`"
    yield ""
    seeds = ", ".join(map(str, sorted({result.seed for result in results.results})))
    machines = " and ".join(results.provenance("machine"))
    yield f"{z} slices of {y} x {x}; seed {seeds}; prior {priors}; {machines}; runs of {dates[0]} to {dates[-1]}."
