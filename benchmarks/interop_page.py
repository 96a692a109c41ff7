"""The page of benchmarks.interoperability from its parts' figures."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.fuzz.targets import TARGETS

Rows = list[dict[str, Any]]
FINDINGS = Path(__file__).parents[1] / "tests" / "fuzz" / "findings"
SHOWN = 3
DIRECTIONS = {"read": "in", "write": "out"}
STAGES = ("ingest", "measure", "baseline", "reconstruct", "uncertainty", "support", "alarm", "evaluate", "export",
          "page", "summary", "index")  # fmt: skip


def page(kept: dict[str, dict[str, Any]], command: str) -> str:
    """Markdown. command: what makes the page. Parts that were not run are named as such."""
    makers = {"interop": _formats, "fault": _faults, "hostile": _hostile, "fuzz": _fuzz, "indexing": _indexing,
              "export": _export}  # fmt: skip
    missing = [part for part in makers if part not in kept]
    parts = [_head(kept, command)]
    parts += [maker(kept[part]["figures"]) for part, maker in makers.items() if part in kept]
    if missing:
        parts.append(f"Not run: {', '.join(missing)}.")
    return "\n\n".join(parts) + "\n"


def _head(kept: dict[str, dict[str, Any]], command: str) -> str:
    machines = sorted({part["machine"] for part in kept.values()})
    versions: dict[str, str] = {}
    for part in kept.values():
        versions |= part["peers"]
    named = ", ".join(f"{name} {number}" for name, number in sorted(versions.items(), key=lambda item: item[0].lower()))
    return (
        "# Formats, faults and hostile input\n\n"
        f"Made by `{command}`, which runs the tests that carry the markers\n`interop`, `fault` and `hostile`; "
        "`--only PART` makes one part again. [Formats](../formats) says what is read and\nwritten, "
        "[robustness](../robustness.md) what is guaranteed and what is not.\n\n"
        f"Machine: {'; '.join(machines)}.\n\nPeers: {named}."
    )


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    lines = ["| " + " | ".join(head) + " |"]
    lines.append("|" + "---|" * (lines[0].count("|") - 1))
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    return re.sub(r"\s+", " ", str(value)).replace("|", "\\|").replace("`", "'").replace("<", "&lt;")


def _grouped(rows: Rows, key) -> dict[Any, Rows]:
    groups = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return groups


def _result(rows: Rows) -> str:
    """passed, failed or skipped with its reason; counts where tests of one row differ."""
    counts = Counter(row["outcome"] for row in rows)
    reasons = "; ".join(sorted({row["reason"] for row in rows if row["outcome"] == "skipped" and row["reason"]}))
    words = []
    for outcome in ("failed", "passed", "skipped"):
        if counts[outcome]:
            number = "" if len(counts) == 1 else f"{counts[outcome]} "
            words.append(f"{number}{'**failed**' if outcome == 'failed' else outcome}")
    return ", ".join(words) + (f": {reasons}" if reasons else "")


def _measured(rows: Rows) -> str:
    texts = list(dict.fromkeys(text for row in rows for text in row["measured"]))
    return "; ".join(texts[:SHOWN]) + (f"; and {len(texts) - SHOWN} more" if len(texts) > SHOWN else "")


def _tally(rows: Rows) -> str:
    counts = Counter(row["outcome"] for row in rows)
    return f"{len(rows)} tests: {counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped."


def _formats(rows: Rows) -> str:
    groups = _grouped(rows, lambda row: tuple((*row["arguments"], "", "", "")[:3]))
    order = sorted(groups, key=lambda key: (list(DIRECTIONS).index(key[0]) if key[0] in DIRECTIONS else 9, *key))
    table = _table(
        ("", "what", "oracle or peer", "tests", "result", "measured"),
        (
            (DIRECTIONS.get(key[0], key[0]), *key[1:], len(groups[key]), _result(groups[key]), _measured(groups[key]))
            for key in order
        ),
    )
    return f"## Formats and peers\n\n{_tally(rows)}\n\n{table}"


def _faults(rows: Rows) -> str:
    """Faults that were put into every stage share a row."""

    def kind(row: dict[str, Any]) -> str:
        name = row["arguments"][0]
        match = re.fullmatch(r"(.*) in (\w+)", name)
        return match.group(1) if match and match.group(2) in STAGES else name

    def stages(group: Rows) -> str:
        found = {match.group(1) for row in group if (match := re.search(r" in (\w+)$", row["arguments"][0]))}
        named = [stage for stage in STAGES if stage in found]
        return "each stage" if len(named) == len(STAGES) else ", ".join(named) or "-"

    groups = _grouped(rows, kind)
    table = _table(
        ("fault", "where", "tried", "survived", "lost", "measured"),
        (
            (name, stages(group), len(group), _count(group, "passed"), _lost(group), _measured(group))
            for name, group in groups.items()
        ),
    )
    return (
        "## Faults\n\nEach is put into a running stage or run. Survived: what stands under a final name is whole and "
        "equal to an undisturbed\nrun's, the next run ends as ever or the run says in one sentence why not, and no "
        f"other study is touched.\n\n{_tally(rows)}\n\n{table}"
    )


def _count(rows: Rows, outcome: str) -> int:
    return sum(row["outcome"] == outcome for row in rows)


def _lost(rows: Rows) -> str:
    failed, skipped = _count(rows, "failed"), [row["reason"] for row in rows if row["outcome"] == "skipped"]
    text = f"**{failed}**" if failed else "nothing" if len(skipped) < len(rows) else "not run"
    return text + (f" ({len(skipped)} skipped: {skipped[0]})" if skipped else "")


def _hostile(rows: Rows) -> str:
    groups = _grouped(rows, lambda row: row["arguments"][0])
    table = _table(
        ("input", "tests", "result", "measured"),
        ((name, len(group), _result(group), _measured(group)) for name, group in groups.items()),
    )
    return (
        "## Hostile input\n\nEach is refused in one sentence, or read as if the hostile part were not there, in "
        "bounded time and memory, and\nwithout running, opening or naming anything outside the study.\n\n"
        f"{_tally(rows)}\n\n{table}"
    )


def _fuzz(rows: Rows) -> str:
    ends = ("taken", "refused", "contained", "left out")
    table = _table(
        ("target", "inputs", "MB", "processor s", *ends, "findings"),
        (
            (row["target"], row["executions"], _megabytes(row["bytes"]), f"{row['seconds']:.0f}",
             *(row["ends"].get(end, 0) for end in ends), _findings(row))
            for row in sorted(rows, key=lambda row: row["target"])
        ),
    )  # fmt: skip
    total = sum(row["executions"] for row in rows), sum(row["bytes"] for row in rows)
    rest = sorted(set(TARGETS) - {row["target"] for row in rows})
    missing = f"\n\nNot run: {', '.join(rest)}." if rest else ""
    regressions = sum(1 for path in FINDINGS.iterdir() if path.is_file())
    return (
        f"## Fuzzing\n\nCoverage-guided (atheris), {len(rows)} targets, {total[0]} inputs, {_megabytes(total[1])} MB. "
        "An input is taken,\nrefused with an `InputError`, or left out with a reason; anything else is a finding. "
        "Contained: the library in C that\nreads the file crashed, took more than a second (in use: ten) or too much "
        f"memory in the child process that reads it,\nwhich is one sentence in use. {regressions} earlier findings "
        f"are fixed or contained, and kept as tests in `tests/fuzz/findings`.\n\n{table}{missing}"
    )


def _megabytes(size: int) -> str:
    """Three digits, as few files are whole megabytes."""
    return f"{size / 1e6:.3g}" if size < 1e8 else f"{size / 1e6:.0f}"


def _findings(row: dict[str, Any]) -> str:
    return "none" if not row["findings"] else f"**{len(row['findings'])}**: " + "; ".join(row["findings"])


def _indexing(figures: dict[str, Any]) -> str:
    table = _table(("files", "series", "MB", "seconds", "processor s", "files a second", "peak memory, MB"), [(
        figures["files"], figures["series"], f"{figures.get('bytes', 0) / 1e6:.0f}", figures["seconds"],
        figures["cpu_seconds"], figures["files_a_second"], figures["peak_mem_mb"],
    )])  # fmt: skip
    return f"## Indexing\n\n`python -m benchmarks.indexing`: unsorted DICOM files of one folder to series.\n\n{table}"


def _export(figures: dict[str, Any]) -> str:
    head = "study", "slices", "matrix", "files written", "MB written", "seconds", "processor s", "peak memory, MB"
    table = _table(head, [(
        figures["study"], figures["slices"], figures["matrix"], figures["files"], f"{figures['bytes'] / 1e6:.0f}",
        figures["seconds"], figures["cpu_seconds"], figures["peak_mem_mb"],
    )])  # fmt: skip
    return f"## Export\n\n`python -m benchmarks.exporting`: NIfTI, sidecars, checksums and DICOM series.\n\n{table}"
