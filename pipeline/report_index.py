"""The list of series behind results/index.html: what was reconstructed, and what was not and why."""

import base64
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.paths import StudyPaths
from pipeline.report_metrics import headlines_of
from pipeline.report_series import read_metrics

NO_REASON = "no reason was recorded"


@dataclass(frozen=True)
class Entry:
    """One reconstructed series. `page` and link targets are relative to the index; thumbnail is a data URI or empty."""

    study: str
    series: str
    page: str
    facts: str
    thumbnail: str
    headlines: list[tuple[str, str, str]]
    links: list[tuple[str, str]]


@dataclass(frozen=True)
class Failure:
    cohort: str
    study: str
    series: str
    reason: str


def collect(results: Path, base: Path) -> tuple[dict[str, list[Entry]], list[Failure]]:
    """Entries by cohort, and failures, from the manifests under results/<cohort>/<study>/ingest; links from `base`."""
    cohorts: dict[str, list[Entry]] = {}
    failures: list[Failure] = []
    for folder in sorted(path for path in results.glob("*/*/") if path.is_dir() and path.parent.name != "reports"):
        paths = StudyPaths(results, folder.parent.name, folder.name)
        rows = _manifest_rows(paths.manifest)
        if rows is None:
            if _is_study(folder):
                failures.append(Failure(paths.cohort, paths.study, "", "reading the study failed; its ingest log says why"))
            continue
        if not rows:
            failures.append(Failure(paths.cohort, paths.study, "", "no image series was found"))
        for row in rows:
            _sort_in(paths, row, base, cohorts, failures)
    return cohorts, failures


def _sort_in(paths: StudyPaths, row: dict[str, Any], base: Path, cohorts: dict, failures: list[Failure]) -> None:
    series = str(row.get("series", ""))
    if not row.get("accepted"):
        failures.append(Failure(paths.cohort, paths.study, series, str(row.get("reason") or NO_REASON)))
    elif not paths.page(series).is_file():
        failures.append(Failure(paths.cohort, paths.study, series, _unfinished(paths.series(series))))
    else:
        cohorts.setdefault(paths.cohort, []).append(_entry(paths, series, row, base))


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
    thumbnail = page.with_name(f"{page.stem}_thumb.png")
    links = [("Picture", page.with_suffix(".png")), ("Exported files", paths.series(series) / "export")]
    return Entry(
        study=paths.study,
        series=series,
        page=_relative(page, base),
        facts=_facts(row),
        thumbnail=_data_uri(thumbnail) if thumbnail.is_file() else "",
        headlines=headlines_of(metrics, _shown(metrics))[:4],
        links=[(name, _relative(target, base)) for name, target in links if target.exists()],
    )


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
    if slices := row.get("slices"):
        parts.append(f"{slices} slice" + ("s" if slices != 1 else ""))
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
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
