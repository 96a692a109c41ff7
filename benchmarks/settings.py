"""Which settings a method runs with: its fixed ones and the best of its search on a training patient."""

import json
from pathlib import Path
from typing import Any

from benchmarks.methods import Method, methods
from benchmarks.tasks import TASKS, Task
from data.atomic import write_text

TUNED = Path(__file__).parent / "tuned.json"


def read_tuned(path: Path = TUNED) -> dict[str, dict[str, dict[str, Any]]]:
    """tuned[task][method]: the settings that won the search; empty where there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write_tuned(path: Path, found: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Adds what was found to the file; tasks in their own order."""
    merged = read_tuned(path)
    for task, chosen in found.items():
        merged[task] = dict(sorted({**merged.get(task, {}), **chosen}.items()))
    ordered = {task: merged[task] for task in TASKS if task in merged}
    write_text(path, json.dumps(ordered, indent=1) + "\n")


def tuned_for(
    task: Task, method: Method, tuned: dict[str, dict[str, dict[str, Any]]]
) -> tuple[dict[str, Any], str | None]:
    """(searched settings, the task they were searched on): the task's own, else of the nearest searched one.

    A solver with a coupling that was searched nowhere has the settings of the solver without it.
    """
    for key in (method.name, *([method.solver] if method.coupling != "none" else [])):
        for name in (task.name, *task.tuned_as):
            if key in tuned.get(name, {}):
                return tuned[name][key], name
    return {}, None


def method_settings(
    task: Task, method: Method, tuned: dict[str, dict[str, dict[str, Any]]]
) -> tuple[dict[str, Any], str | None]:
    """(all settings of a run, the task of the search); for ours and unsearched methods the second is None.

    NAME-LEVELS, a method at another number of levels, has the settings that NAME was searched for.
    """
    base = methods().get(method.name.rpartition("-")[0], method)
    searched, source = ({}, None) if method.kind == "ours" else tuned_for(task, base, tuned)
    return {**searched, **method.fixed}, source
