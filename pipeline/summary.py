"""Puts metrics.tsv files, one a series, under one header: the files named, or every one below a results folder.

python -m pipeline.summary --out results/summary.tsv --results results
python -m pipeline.summary --out results/COHORT/STUDY/summary.tsv results/COHORT/STUDY/*/metrics.tsv
"""

import argparse
import csv
import io
from collections.abc import Sequence
from pathlib import Path

from data.atomic import write_text
from data.errors import InputError
from pipeline.cli import main_wrapper


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a tab-separated file with a header. Raises InputError when it cannot be read."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file, delimiter="\t"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a table; delete it and run again.") from error


def join(tables: Sequence[list[dict[str, str]]]) -> str:
    """One tab-separated table: columns in the order first met, empty where a row has none."""
    columns = list(dict.fromkeys(key for rows in tables for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", delimiter="\t", lineterminator="\n")
    writer.writeheader()
    for rows in tables:
        writer.writerows(rows)
    return text.getvalue()


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline.summary", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--results", type=Path, help="take every COHORT/STUDY/SERIES/metrics.tsv below this folder")
    parser.add_argument("tables", type=Path, nargs="*")
    arguments = parser.parse_args(argv)
    tables = [*arguments.tables, *(sorted(arguments.results.glob("*/*/*/metrics.tsv")) if arguments.results else [])]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(arguments.out, join([read_rows(path) for path in tables]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
