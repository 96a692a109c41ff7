"""Where everything lies under results/, and the labels that folder names become.

Labels are [A-Za-z0-9]+, so that they can be joined by an underscore in file names and never carry a path or a shell
character; cohorts are named in the config and may hold underscores.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path


def label(name: str) -> str:
    """A folder's or file's name as a label; where characters had to go, six hexadecimal digits keep names apart."""
    kept = re.sub(r"[^A-Za-z0-9]", "", name)[:40]
    if kept == name:
        return kept
    return kept + hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:6]


@dataclass(frozen=True)
class StudyPaths:
    """The files of one study; `results` is the tree's root."""

    results: Path
    cohort: str
    study: str

    @property
    def folder(self) -> Path:
        return self.results / self.cohort / self.study

    @property
    def ingest(self) -> Path:
        return self.folder / "ingest"

    @property
    def manifest(self) -> Path:
        return self.ingest / "manifest.json"

    @property
    def summary(self) -> Path:
        return self.folder / "summary.tsv"

    def series(self, series: str) -> Path:
        return self.folder / series

    def metrics(self, series: str) -> Path:
        return self.series(series) / "metrics.tsv"

    def page(self, series: str) -> Path:
        return self.results / "reports" / f"{self.cohort}_{self.study}_{series}.html"
