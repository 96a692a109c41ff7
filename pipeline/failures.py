"""After a failed run: what failed, in the stages' own sentences, and an index of what exists nevertheless."""

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from data.atomic import write_text

FILE_NAME = "failures.tsv"
_LOG_LINE = re.compile(r"^\s+log: (.+?)(?: \(check log file\(s\) for error details\))?$", re.MULTILINE)
_PROGRESS = re.compile(r"\d+%\|")


@dataclass(frozen=True)
class Failure:
    """One failed stage; study and series are empty where the stage has none."""

    cohort: str
    study: str
    series: str
    stage: str
    message: str

    def __str__(self) -> str:
        return f"{'/'.join(filter(None, (self.cohort, self.study, self.series)))} {self.stage}: {self.message}".strip()


def find(snakemake_log: str, logs: Path) -> list[Failure]:
    """The failures that a Snakemake log tells of, each with the last line of the stage's own log."""
    found = {}
    for error in re.split(r"^Error in (?:rule|checkpoint) ", snakemake_log, flags=re.MULTILINE)[1:]:
        match = _LOG_LINE.search(error)
        if match:
            path = Path(match.group(1).split(", ")[0])
            found[path] = _failure(path, logs)
    return list(found.values())


def report(snakemake_logs: Iterable[str | Path], results: Path, logs: Path) -> list[Failure]:
    """Print each failure on stderr and keep them in results/failures.tsv, from which the index shows them."""
    texts = (Path(log).read_text(encoding="utf-8", errors="replace") for log in snakemake_logs if Path(log).is_file())
    failed = find("\n".join(texts), logs)
    if failed:
        lines = ["\t".join(field.name for field in fields(Failure))]
        lines += ["\t".join(value.replace("\t", " ") for value in astuple(failure)) for failure in failed]
        results.mkdir(parents=True, exist_ok=True)
        write_text(results / FILE_NAME, "\n".join(lines) + "\n")
        print("\nWhat failed:", *(f"  {failure}" for failure in failed), sep="\n", file=sys.stderr)
    return failed


def clear(results: Path) -> None:
    """Forget the failures of an earlier run."""
    (results / FILE_NAME).unlink(missing_ok=True)


def rebuild_index(results: Path) -> None:
    """summary.tsv and index.html over what exists, dated before everything, so that the next run makes them again."""
    summary, index = results / "summary.tsv", results / "index.html"
    commands = (
        ["-m", "pipeline.summary", "--results", str(results), "--out", str(summary)],
        ["-m", "pipeline.report", "index", "--results", str(results), "--out", str(index)],
    )
    for command, made in zip(commands, (summary, index), strict=True):
        if subprocess.run([sys.executable, *command], check=False).returncode == 0 and made.is_file():
            os.utime(made, (1, 1))
    if index.is_file():
        print(f"What was finished is listed in {index}", file=sys.stderr)


def _failure(path: Path, logs: Path) -> Failure:
    parts = path.relative_to(logs).with_suffix("").parts if path.is_relative_to(logs) else (path.stem,)
    cohort, study, series = (*parts[:-1], "", "", "")[:3]
    return Failure(cohort, study, series, parts[-1], last_line(path))


def last_line(path: Path) -> str:
    """The last line of a log that says something: neither blank nor a progress bar."""
    try:
        lines = [line.strip() for line in re.split(r"[\r\n]+", path.read_text(encoding="utf-8", errors="replace"))]
    except OSError:
        return f"no log was written to {path}"
    words = (line for line in reversed(lines) if line and not _PROGRESS.search(line))
    return next(words, "was stopped before it could say why (killed, or no memory left); run again to go on.")
