"""Which jobs the bench consists of, in order of importance, with an estimate of what each costs."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.bench_config import BenchConfig
from benchmarks.methods import Method
from benchmarks.settings import method_settings, read_tuned
from benchmarks.tasks import GOAL_TASKS, MEGAVOXELS, TASKS, Task
from data.errors import InputError

START_SECONDS = 15.0
SCORE_SECONDS = 4.0
# Of one sample of a million voxels; ours takes about 35.
DEAR_SECONDS = 50.0
CURVE_METHODS = ("pam_point", "dds", "dds_tv", "diffusion_mbir")


@dataclass(frozen=True)
class Job:
    """One process: methods of a group on one case. specs: rows for run_method; rank: 0 runs first."""

    task: Task
    slices: int
    seed: int
    group: str
    specs: tuple[dict[str, Any], ...]
    rank: tuple[int, ...]

    @property
    def case(self) -> str:
        """The folder of the case below the results."""
        return f"{self.task.name}/{case_name(self.slices, self.seed)}"

    @property
    def name(self) -> str:
        return f"{self.group}_{self.task.name}_{case_name(self.slices, self.seed)}"


@dataclass(frozen=True)
class Case:
    """One measurement: a task on a slab with a seed."""

    task: Task
    slices: int
    seed: int


class Plan:
    """Jobs and cases of a config."""

    def __init__(self, config: BenchConfig):
        self.config = config
        self.tuned = read_tuned(Path(config.tuned))

    @cached_property
    def jobs(self) -> list[Job]:
        """The most important first."""
        return sorted([*self._runs(), *self._curves()], key=lambda job: job.rank)

    @cached_property
    def cases(self) -> dict[str, Case]:
        return {job.case: Case(job.task, job.slices, job.seed) for job in self.jobs}

    @cached_property
    def prior_sha256(self) -> dict[str, str]:
        """Checksums of the priors of the modalities in the plan, from their cards."""
        return {job.task.modality: self._sha256(job.task.modality) for job in self.jobs}

    def priority(self, job: Job) -> int:
        """Larger runs first."""
        return len(self.jobs) - self.jobs.index(job)

    def specs_json(self, job: Job) -> str:
        """What run_method is given."""
        return json.dumps(job.specs)

    def section(self, case: str) -> str:
        """The `measure` section of a case as JSON."""
        return json.dumps(self.cases[case].task.section(self.cases[case].seed))

    def slab(self, case: str) -> tuple[int, int]:
        return self.config.slab(self.cases[case].task.modality, self.cases[case].slices)

    def cost_table(self) -> str:
        """One line a job that is not finished, in order, with seconds on one core and their sum so far."""
        rates, total = measured_rates(Path(self.config.results)), 0.0
        lines = ["seconds   sum h  job (one thread each; two side by side take half the sum)"]
        for job in self.jobs:
            todo = [spec for spec in job.specs if not self._has(job, spec)]
            if not todo:
                continue
            seconds = START_SECONDS + sum(self._spec_seconds(job, spec, rates) for spec in todo)
            total += seconds
            lines.append(f"{seconds:7.0f}  {total / 3600:6.2f}  {job.name}: {', '.join(s['name'] for s in todo)}")
        return "\n".join([*lines, f"{total:7.0f}  {total / 3600:6.2f}  in all, without measuring and tuning"])

    def _runs(self) -> Iterator[Job]:
        """Jobs as `jobs` says, in each the methods in order of importance."""
        chosen = self.config.chosen_methods()
        tasks = self.config.chosen_tasks()
        rest = {task.name for task in self.config.chosen_tasks("rest_tasks")}
        for seed in self.config.numbers("seeds"):
            for place, task in enumerate(tasks):
                groups: dict[str, list[Method]] = {}
                for method in chosen:
                    if task.modality in method.modalities and (method.tier < 2 or task.name in rest):
                        groups.setdefault(self._group(method), []).append(method)
                for order, (group, members) in enumerate(groups.items()):
                    rank = self._rank(task, members[0].tier, place, order)
                    yield self._job(task, self.config.slices, seed, group, members, rank)

    def _curves(self) -> Iterator[Job]:
        """The chief methods at several numbers of levels, on a slab of their own thickness, after the chief rivals."""
        chosen = {method.name: method for method in self.config.chosen_methods()}
        seed, levels = self.config.numbers("seeds")[0], self.config.numbers("curve_levels")
        for place, task in enumerate(self.config.chosen_tasks("curves")):
            groups: dict[str, list[Method]] = {}
            for name in CURVE_METHODS:
                if name in chosen:
                    group = f"curve_{name}" if self.config.jobs == "methods" else "curves"
                    groups.setdefault(group, []).extend(chosen[name].at_levels(count) for count in levels)
            for order, (group, members) in enumerate(groups.items()):
                yield self._job(
                    task, self.config.curve_slices, seed, group, members, self._rank(task, 1, place, 100 + order)
                )

    def _group(self, method: Method) -> str:
        """The job that a method belongs to: processes that share the time it takes to start."""
        if self.config.jobs == "tasks":
            return "all"
        if method.kind == "classical":
            return "classical"
        if self.config.jobs == "methods" or method.tier > 1:
            return method.name
        return "chief" if method.kind == "rival" else "ours"

    def _rank(self, task: Task, tier: int, place: int, order: int) -> tuple[int, ...]:
        """By tasks, or by tier: chief rivals on the goals' tasks, then ours and the baselines on the other tasks."""
        stage = (0, 1, 4)[tier] + (2 if tier < 2 and task.name not in GOAL_TASKS else 0)
        return (place, tier, order) if self.config.order == "tasks" else (stage, place, order)

    def _job(self, task: Task, slices: int, seed: int, group: str, members: list[Method], rank: tuple[int, ...]) -> Job:
        specs = tuple(self.spec(task, method) for method in members)
        return Job(task, slices, seed, group, specs, rank)

    def spec(self, task: Task, method: Method) -> dict[str, Any]:
        """The row for run_method."""
        settings, source = method_settings(task, method, self.tuned)
        samples = 0
        if method.spread:
            dear = method.seconds * settings.get("levels", 10) > DEAR_SECONDS
            rivals = min(2, self.config.rival_samples) if dear else self.config.rival_samples
            samples = self.config.samples if method.kind == "ours" else rivals
        return {
            "name": method.name,
            "kind": method.kind,
            "solver": method.solver,
            "settings": settings,
            "coupling": method.coupling,
            "samples": samples,
            "tuned_on": source,
        }

    def _sha256(self, modality: str) -> str:
        card = self.config.prior(modality) / "prior.json"
        try:
            return json.loads(card.read_text(encoding="utf-8"))["sha256"]
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{card} is no readable prior card; name another with {modality}_prior=.") from error

    def _has(self, job: Job, spec: dict[str, Any]) -> bool:
        """Whether a result of these settings and this prior is there (the job itself also compares measurements)."""
        path = Path(self.config.results) / job.case / spec["name"] / "result.json"
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        prior = None if spec["kind"] == "classical" else self.prior_sha256[job.task.modality]
        return record["prior_sha256"] == prior and all(record[key] == value for key, value in spec.items())

    def _spec_seconds(self, job: Job, spec: dict[str, Any], rates: dict[tuple[str, str], float]) -> float:
        """Measured seconds of this method scaled by voxels and levels, else the method's own guess."""
        levels = 1 if spec["kind"] == "classical" else spec["settings"].get("levels", 10)
        voxels = job.slices * MEGAVOXELS[job.task.modality]
        known = {method.name: method for method in self.config.chosen_methods()}
        base = spec["name"] if spec["name"] in known else spec["name"].rpartition("-")[0]
        rate = rates.get((base, job.task.modality), known[base].seconds)
        images = 1 if spec["samples"] < 2 else 3
        return rate * voxels * levels * max(1, spec["samples"]) + images * SCORE_SECONDS * voxels


def case_name(slices: int, seed: int) -> str:
    return f"z{slices}_seed{seed}"


def measured_rates(results: Path) -> dict[tuple[str, str], float]:
    """Seconds a level (classical: a run) and million voxels of every (method, modality) with a result."""
    found: dict[tuple[str, str], list[float]] = {}
    for path in sorted(results.glob("*/z*_seed*/*/result.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if "failed" in record or path.parent.name.startswith("."):
            continue
        z, y, x = record["shape_zyx"]
        levels = 1 if record["kind"] == "classical" else record["all_settings"].get("levels", 10)
        one = record["estimates"].get("point") or record["estimates"]["sample"]
        modality = TASKS[path.parts[-4]].modality
        rate = one["seconds"] / (levels * z * y * x / 1e6)
        found.setdefault((record["name"], modality), []).append(rate)
    return {key: sum(values) / len(values) for key, values in found.items()}


def page_command(config: BenchConfig) -> str:
    """Shell command that writes the pages from all results of the config's thickness."""
    words = ["python", "-m", "benchmarks.page", "--results", config.results, "--docs", config.docs]
    words += ["--slices", str(config.slices), "--curve-slices", str(config.curve_slices)]
    return shlex.join([*words, "--command", command_of(config)])


def command_of(config: BenchConfig, target: str = "") -> str:
    """The command that makes the results, with file names in place of paths; defaults and what only says where
    results go are left out."""
    words = ["snakemake", "-s", "benchmarks/Snakefile", "--cores", "2", *([target] if target else []), "--config"]
    defaults = asdict(BenchConfig())
    for key, value in asdict(config).items():
        if value != defaults[key] and key not in ("results", "docs", "tuned"):
            words.append(f"{key}={Path(value).name if '/' in str(value) else value}")
    return shlex.join(words)
