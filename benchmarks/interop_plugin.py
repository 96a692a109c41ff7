"""pytest plugin of benchmarks.interoperability: outcomes and measured figures of marked tests as JSON lines.

`pytest -p benchmarks.interop_plugin` with INTEROP_ROWS=/path/to/rows.jsonl in the environment.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

MARKERS = ("interop", "fault", "hostile")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    """One line a test and marker, once it has run, has been skipped, or could not be set up."""
    report = yield
    if report.when == "call" or (report.when == "setup" and report.outcome != "passed"):
        for name in MARKERS:
            for marker in item.iter_markers(name):
                _write(item, report, marker)
    return report


def _write(item: pytest.Item, report: pytest.TestReport, marker: pytest.Mark) -> None:
    reason = report.longrepr[2].removeprefix("Skipped: ") if report.skipped and report.longrepr else ""
    measured = [value for key, value in item.user_properties if key == "measured"]
    row = {
        "marker": marker.name,
        "arguments": list(marker.args),
        "test": item.nodeid,
        "outcome": "failed" if report.failed else report.outcome,
        "reason": reason,
        "measured": measured,
        "seconds": round(report.duration, 2),
    }
    with Path(os.environ["INTEROP_ROWS"]).open("a", encoding="utf-8") as rows:
        rows.write(json.dumps(row) + "\n")
