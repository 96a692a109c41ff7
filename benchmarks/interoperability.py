"""docs/results/interoperability.md: formats and peers, faults, hostile input, fuzzing, indexing and export.

    python -m benchmarks.interoperability                       # everything
    python -m benchmarks.interoperability --only fuzz --fuzz-seconds 120 --fuzz-target dicom

Runs the tests that carry the markers interop, fault and hostile (at all moments of kills), the fuzz targets, and
times the indexing of a folder and the export of a study; each part's figures are kept in --store, and the page is made
from what is there. No figure on the page is written by hand.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.interop_page import page
from benchmarks.interop_versions import peers
from benchmarks.series import machine

ROOT = Path(__file__).parents[1]
MARKED = ("interop", "fault", "hostile")
PARTS = (*MARKED, "fuzz", "indexing", "export")
INDEXED_FILES, INDEXED_SERIES = 5000, 10


def run_marked(marker: str, store: Path, quick: bool, tests: str) -> list[dict[str, Any]]:
    """Run the tests of a marker; a row for each. Failures are rows, too: the page shows them.

    tests: an expression of pytest's -k; then the kept rows of the other tests stay.
    """
    kept = store / f"{marker}.json"
    known = json.loads(kept.read_text(encoding="utf-8"))["figures"] if tests and kept.is_file() else []
    rows = store / f"{marker}.rows"
    rows.unlink(missing_ok=True)
    environment = os.environ | {"INTEROP_ROWS": str(rows), "SLICEWEAVE_LONG": "" if quick else "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-m", marker, "-p", "benchmarks.interop_plugin", "--tb=line"]
    command += ["-k", tests] if tests else []
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False, stdout=sys.stderr)
    if done.returncode not in (0, 1):
        raise SystemExit(f"pytest ended with {done.returncode}: its words above say why.")
    read = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    new = {row["test"]: row for row in read if row["marker"] == marker}
    return [new.pop(row["test"], row) for row in known] + list(new.values())


def run_fuzz(store: Path, seconds: float, targets: Sequence[str]) -> list[dict[str, Any]]:
    """Figures of every target: of those named, or of all, anew; what is found is kept below STORE."""
    command = [sys.executable, "-m", "tests.fuzz.run", "--seconds", str(seconds), "--out", str(store / "fuzz")]
    command += [word for name in targets for word in ("--target", name)]
    done = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.PIPE, text=True)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    new = {row["target"] for row in rows}
    kept = store / "fuzz.json"
    known = json.loads(kept.read_text(encoding="utf-8"))["figures"] if targets and kept.is_file() else []
    return [row for row in known if row["target"] not in new] + rows


def run_indexing() -> dict[str, Any]:
    """The figures of benchmarks.indexing."""
    arguments = ["--files", str(INDEXED_FILES), "--series", str(INDEXED_SERIES)]
    return _json_line([sys.executable, "-m", "benchmarks.indexing", *arguments])


def run_export() -> dict[str, Any]:
    """The figures of benchmarks.exporting."""
    return _json_line([sys.executable, "-m", "benchmarks.exporting"])


def _json_line(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def run_part(part: str, store: Path, arguments: argparse.Namespace) -> None:
    """Run one part and keep its figures as STORE/PART.json, with the machine and the peers' versions."""
    if part in MARKED:
        figures: Any = run_marked(part, store, arguments.quick, arguments.tests)
    elif part == "fuzz":
        figures = run_fuzz(store, arguments.fuzz_seconds, arguments.fuzz_target)
    else:
        figures = {"indexing": run_indexing, "export": run_export}[part]()
    kept = {"figures": figures, "machine": machine(), "peers": peers()}
    (store / f"{part}.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def _command(arguments: argparse.Namespace) -> str:
    """The command that makes the whole page with the same options."""
    options = " --quick" if arguments.quick else ""
    return f"python -m benchmarks.interoperability{options} --fuzz-seconds {arguments.fuzz_seconds:g}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.interoperability", description=__doc__.split("\n")[0])
    only = (*PARTS, "page")
    parser.add_argument("--only", action="append", choices=only, help="this part alone, or nothing but the page")
    parser.add_argument("--fuzz-seconds", type=float, default=60.0, help="processor seconds for each fuzz target")
    parser.add_argument("--fuzz-target", action="append", default=[], help="with --only fuzz: these alone anew")
    parser.add_argument("--tests", default="", help="with --only: of the part's tests these alone anew, as pytest's -k")
    parser.add_argument("--quick", action="store_true", help="kills at fewer moments")
    parser.add_argument("--store", type=Path, default=ROOT / "runs" / "interoperability", help="figures of the parts")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "interoperability.md")
    arguments = parser.parse_args(argv)
    store = arguments.store.resolve()
    store.mkdir(parents=True, exist_ok=True)
    for part in (part for part in arguments.only or PARTS if part != "page"):
        run_part(part, store, arguments)
    kept = {
        part: json.loads((store / f"{part}.json").read_text(encoding="utf-8"))
        for part in PARTS
        if (store / f"{part}.json").is_file()
    }
    arguments.out.write_text(page(kept, _command(arguments)), encoding="utf-8")
    print(arguments.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
