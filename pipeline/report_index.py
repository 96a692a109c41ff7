"""The list of series behind results/index.html: what was reconstructed, and what was not and why."""

import base64
import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import InputError
from pipeline import figures
from pipeline.paths import StudyPaths
from pipeline.report_evidence import load_evidence
from pipeline.report_metrics import Figure, index_figures
from pipeline.report_provenance import withhold_paths
from pipeline.report_series import read_metrics
from pipeline.report_uncertainty import BAD, CARE, Verdict, verdicts

NOT_COHORTS = ("logs", "benchmarks", "reports")
FAILURES_FILE = "failures.tsv"
NO_REASON = "no reason was recorded"
# Twice the height at which the list shows it.
THUMBNAIL_PIXELS = 148


@dataclass(frozen=True)
class Entry:
    """One reconstructed series. `page` and link targets are relative to the index; thumbnail is a data URI or empty.

    `concern` orders by lights: what is not to be relied on counts 100, what is to be looked at twice 1.
    """

    study: str
    series: str
    page: str
    facts: str
    thumbnail: str
    figures: list[Figure]
    lights: list[Verdict]
    links: list[tuple[str, str]]

    @property
    def concern(self) -> int:
        return sum({BAD: 100, CARE: 1}.get(verdict.light, 0) for verdict in self.lights)


@dataclass(frozen=True)
class Failure:
    cohort: str
    study: str
    series: str
    reason: str


def collect(results: Path, base: Path) -> tuple[dict[str, list[Entry]], list[Failure]]:
    """Entries by cohort, and failures, from failures.tsv and results/<cohort>/<study>/ingest; links are from `base`."""
    cohorts: dict[str, list[Entry]] = {}
    failures = list(read_failures(results / FAILURES_FILE))
    told = {(item.cohort, item.study, item.series) for item in failures}
    for folder in sorted(path for path in results.glob("*/*/") if path.parent.name not in NOT_COHORTS):
        paths = StudyPaths(results, folder.parent.name, folder.name)
        entries, missing = _of_study(paths, base)
        if entries:
            cohorts.setdefault(paths.cohort, []).extend(entries)
        failures += [item for item in missing if (item.cohort, item.study, item.series) not in told]
    return cohorts, sorted(failures, key=lambda item: (item.cohort, item.study, item.series))


def read_failures(path: Path) -> Iterator[Failure]:
    """The failures of the last run, as the workflow wrote them; local paths are withheld."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", newline="") as handle:
        for row in csv.DictReader(handle, delimiter="\t", restval="", quoting=csv.QUOTE_NONE):
            reason = ": ".join(filter(None, (row.get("stage"), withhold_paths(row.get("message") or NO_REASON))))
            yield Failure(row.get("cohort") or "", row.get("study") or "", row.get("series") or "", reason)


def _of_study(paths: StudyPaths, base: Path) -> tuple[list[Entry], list[Failure]]:
    rows = _manifest_rows(paths.manifest)
    if rows is None:
        reason = "reading the study failed; its ingest log says why"
        return [], [Failure(paths.cohort, paths.study, "", reason)] if _is_study(paths.folder) else []
    if not rows:
        return [], [Failure(paths.cohort, paths.study, "", "no image series was found")]
    entries, failures = [], []
    for row in rows:
        series = str(row.get("series", ""))
        if not row.get("accepted"):
            reason = str(row.get("detail") or row.get("reason") or NO_REASON)
            failures.append(Failure(paths.cohort, paths.study, series, f"left out: {reason}"))
        elif not paths.page(series).is_file():
            failures.append(Failure(paths.cohort, paths.study, series, _unfinished(paths.series(series))))
        else:
            entries.append(_entry(paths, series, row, base))
    return entries, failures


def _unfinished(folder: Path) -> str:
    """Which stage has left no result."""
    stages = (("measurement", "measure"), ("reconstruct", "reconstruct"), ("uncertainty", "uncertainty"))
    for name, stage in stages:
        if not any((folder / name).glob("**/*.*")):
            return f"accepted, but the {stage} stage has left no result; its log says why"
    return "reconstructed, but its page was not made; the report log says why"


def _entry(paths: StudyPaths, series: str, row: dict[str, Any], base: Path) -> Entry:
    page = paths.page(series)
    metrics = read_metrics(paths.metrics(series))
    shown = _shown(metrics)
    thumbnail = page.with_name(f"{page.stem}_thumb.png")
    links = [("Picture", page.with_suffix(".png")), ("Exported files", paths.series(series) / "export")]
    return Entry(
        study=paths.study,
        series=series,
        page=_relative(page, base),
        facts=_facts(row),
        thumbnail=_data_uri(thumbnail) if thumbnail.is_file() else "",
        figures=index_figures(metrics, shown),
        lights=_lights(paths.series(series), shown),
        links=[(name, _relative(target, base)) for name, target in links if target.exists()],
    )


def _lights(folder: Path, shown: str) -> list[Verdict]:
    """The page's lights; none where a stage's file is damaged, which the page's own log tells."""
    try:
        return verdicts(load_evidence(folder, shown.rpartition("_")[0]))
    except InputError:
        return []


def _shown(metrics: list[dict[str, str]]) -> str:
    """The first mean of samples, else the first point estimate, among the rows' methods."""
    methods = [row["method"] for row in metrics]
    for ending in ("_mean", "_point"):
        for method in methods:
            if method.endswith(ending):
                return method
    return methods[0] if methods else ""


def _facts(row: dict[str, Any]) -> str:
    parts = [str(row.get("modality", "")).upper(), "raw k-space" if row.get("kind") == "kspace" else ""]
    shape = row.get("shape_zyx")
    if isinstance(shape, list) and shape:
        parts.append(f"{shape[0]} slice" + ("s" if shape[0] != 1 else ""))
    parts += [f"note: {text}" for text in row.get("warnings") or []]
    return ", ".join(part for part in parts if part)


def counts(cohorts: dict[str, list[Entry]], failures: list[Failure]) -> str:
    """ "3 series in 2 cohorts, 1 not reconstructed"."""
    number = sum(map(len, cohorts.values()))
    text = f"{number} series in {len(cohorts)} cohort{'' if len(cohorts) == 1 else 's'}"
    return text + (f", {len(failures)} not reconstructed" if failures else "")


def _manifest_rows(path: Path) -> list[dict[str, Any]] | None:
    """Rows of a manifest; None where there is none that can be read."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["series"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else None


def _is_study(folder: Path) -> bool:
    """Whether a folder without a manifest was meant for a study: it holds something other than empty folders."""
    return any(path.is_file() for path in folder.rglob("*")) or (folder / "ingest").is_dir()


def _relative(target: Path, base: Path) -> str:
    return Path(os.path.relpath(target, base)).as_posix()


def _data_uri(path: Path) -> str:
    jpeg = figures.as_jpeg(path.read_bytes(), THUMBNAIL_PIXELS)
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
