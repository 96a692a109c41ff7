"""Which searches the target `tune` consists of."""

import json
import shlex
from functools import cached_property

from benchmarks.bench_config import BenchConfig
from benchmarks.methods import Method
from benchmarks.plan import command_of
from benchmarks.tasks import TASKS, Task


class TuningPlan:
    """The tasks of `tune_tasks` that have a training patient, and what is searched on each."""

    def __init__(self, config: BenchConfig):
        self.config = config

    @cached_property
    def tasks(self) -> dict[str, Task]:
        return {task.name: task for task in self.config.chosen_tasks("tune_tasks")}

    def volume(self, task: str) -> str:
        return str(self.config.volume(TASKS[task].modality, tuning=True))

    def slab(self, task: str) -> tuple[int, int]:
        return self.config.slab(TASKS[task].modality, None)

    def section(self, task: str) -> str:
        """The `measure` section as JSON."""
        return json.dumps(TASKS[task].section(seed=0))

    def prior(self, task: str) -> str:
        return str(self.config.prior(TASKS[task].modality))

    def specs_json(self, task: str) -> str:
        """Method, solver, coupling and the settings to try, for every method that has a choice."""
        modality = TASKS[task].modality
        rest = task in {other.name for other in self.config.chosen_tasks("rest_tasks")}
        chosen = [m for m in self.config.chosen_methods() if modality in m.modalities and searched(m, modality)]
        chosen = [method for method in chosen if method.tier < 2 or rest]
        rows = [
            {
                "name": method.name,
                "kind": method.kind,
                "solver": method.solver,
                "coupling": method.coupling,
                "fixed": method.fixed,
                "grid": method.search[modality],
            }
            for method in chosen
        ]
        return json.dumps(rows)

    def collect_command(self) -> str:
        """Shell command that writes tuned.json and the page of the search."""
        config = self.config
        words = ["python", "-m", "benchmarks.tune", "collect", "--results", config.results, "--tuned", config.tuned]
        return shlex.join([*words, "--docs", config.docs, "--command", command_of(config, "tune")])


def searched(method: Method, modality: str) -> bool:
    """Whether there is a choice of settings; ours has none."""
    return method.kind != "ours" and len(method.search.get(modality, [])) > 1
