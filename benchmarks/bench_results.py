"""Reads the result.json of a bench and answers what tables ask of them."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.methods import METHODS
from benchmarks.tasks import TASKS, Task

CHIEF = tuple(name for name, method in METHODS.items() if method.kind == "rival" and method.tier == 1)


@dataclass(frozen=True)
class Result:
    """One method on one case."""

    task: str
    method: str
    seed: int
    folder: Path
    record: dict[str, Any]

    @property
    def failed(self) -> str | None:
        return self.record.get("failed")


@dataclass(frozen=True)
class Row:
    """One estimate of a method, its figures averaged over seeds. estimate: "point", "mean" or "sample"."""

    method: str
    kind: str
    estimate: str
    results: tuple[Result, ...]

    @property
    def label(self) -> str:
        return self.method if self.kind == "classical" else f"{self.method.removesuffix('_point')} {self.estimate}"

    def figure(self, name: str, key: str | None = None) -> float | None:
        """Mean over seeds of a figure of the estimate; null where a seed has none."""
        return mean(_get(result.record["estimates"][self.estimate], name, key) for result in self.results)

    def spread(self, name: str) -> float | None:
        """Mean over seeds of a figure of the samples' spread."""
        return mean((result.record["spread"] or {}).get(name) for result in self.results)


def paired(one: Row, other: Row, name: str, key: str | None = None) -> dict[int, float]:
    """Seed to the figure of `one` less that of `other`, for the seeds that both have; empty where there is none."""
    figures = [
        {result.seed: _get(result.record["estimates"][row.estimate], name, key) for result in row.results}
        for row in (one, other)
    ]
    shared = [seed for seed in figures[0] if None not in (figures[0][seed], figures[1].get(seed))]
    return {seed: figures[0][seed] - figures[1][seed] for seed in sorted(shared)}


class TaskResults:
    """All results of a task at one thickness."""

    def __init__(self, task: Task, results: list[Result]):
        self.task = task
        self.results = results
        self.rows = _rows(results)

    def of(self, kinds: Iterable[str] = (), methods: Iterable[str] = (), estimates: Iterable[str] = ()) -> list[Row]:
        """Rows of given kinds, methods and estimates; nothing given: all."""
        wanted = [(tuple(kinds), "kind"), (tuple(methods), "method"), (tuple(estimates), "estimate")]
        return [row for row in self.rows if all(not v or getattr(row, key) in v for v, key in wanted)]

    def best(self, rows: list[Row], plane: str = "axial") -> Row | None:
        """The row with the highest PSNR in a plane."""
        known = [row for row in rows if row.figure("psnr_db", plane) is not None]
        return max(known, key=lambda row: row.figure("psnr_db", plane), default=None)

    def ours(self, plane: str = "axial") -> Row | None:
        """The better of the point estimate and the mean of samples."""
        return self.best(self.of(kinds=["ours"], estimates=["point", "mean"]), plane)

    def provenance(self, key: str) -> list[str]:
        """The different values of a key of the records, in order of appearance."""
        return list(dict.fromkeys(str(r.record[key]) for r in self.results if r.record.get(key) is not None))


def read_results(folder: Path, slices: int) -> dict[str, TaskResults]:
    """Results of all tasks at a thickness, tasks in order of importance; methods at other levels are left out."""
    return _collect(folder, slices, curves=False)


def read_curves(folder: Path, slices: int) -> dict[str, TaskResults]:
    """Results of methods at several numbers of levels (NAME-LEVELS)."""
    return _collect(folder, slices, curves=True)


def _collect(folder: Path, slices: int, curves: bool) -> dict[str, TaskResults]:
    order = {name: place for place, name in enumerate(METHODS)}
    found = {}
    for name, task in TASKS.items():
        results = []
        for path in sorted((folder / name).glob(f"z{slices}_seed*/*/result.json")):
            if path.parent.name.startswith("."):
                continue  # what a killed job left
            record = json.loads(path.read_text(encoding="utf-8"))
            if ("-" in record["name"]) == curves:
                results.append(Result(name, record["name"], record["seed"], path.parent, record))
        if results:
            results.sort(key=lambda result: order.get(result.method, len(order)))
            found[name] = TaskResults(task, results)
    return found


def _rows(results: list[Result]) -> list[Row]:
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        if not result.failed:
            for estimate in result.record["estimates"]:
                groups.setdefault((result.method, estimate), []).append(result)
    return [Row(method, rs[0].record["kind"], estimate, tuple(rs)) for (method, estimate), rs in groups.items()]


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of the values; null where one is missing or there is none."""
    known = list(values)
    return fmean(known) if known and None not in known else None


def _get(figures: dict[str, Any], name: str, key: str | None) -> float | None:
    value = figures.get(name)
    return value.get(key) if key is not None and isinstance(value, dict) else value
