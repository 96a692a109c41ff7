"""The bench's `--config` keys, read and checked."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.methods import Method, methods
from benchmarks.tasks import SLABS, TASKS, TUNING_SLABS, Task
from data.errors import InputError

ROOT = Path(__file__).parent.parent
GROUPS = ("classical", "ours", "chief", "rivals")


@dataclass(frozen=True)
class BenchConfig:
    """All keys, as text or numbers; lists are separated by commas.

    ct, mr                volumes of the benchmark patients; tasks without their volume are left out
    ct_slab, mr_slab      first-last (half open) axial slices that `slices` are the middle of
    tasks, methods        names; methods also classical, ours, chief (the rivals of the goals) and rivals
    seeds, slices         of noise and samples; thickness of the slab
    samples, rival_samples  of ours and of the rivals; rivals much dearer than ours get two at most
    rest_tasks            tasks on which the rivals beyond the chief ones run
    curves, curve_slices, curve_levels   tasks (or none) on which ours and the chief rivals run at several levels
    jobs                  what shares a process: methods (nothing but classical ones), groups (ours; chief), tasks (all)
    order                 methods: ours, baselines, chief rivals, each first on the tasks of goals; tasks: one by one
    ct_prior, mr_prior    folders of the priors
    tune_ct, tune_mr, tune_ct_slab, tune_mr_slab, tune_tasks   training patients that the target `tune` searches on
    tuned                 file of the settings found
    results, docs, device
    """

    ct: str = ""
    mr: str = ""
    ct_slab: str = "{}-{}".format(*SLABS["ct"])
    mr_slab: str = "{}-{}".format(*SLABS["mr"])
    tasks: str = ",".join(TASKS)
    methods: str = "all"
    seeds: str = "0"
    slices: int = 64
    samples: int = 4
    rival_samples: int = 4
    rest_tasks: str = "ct30,mr4"
    curves: str = "none"
    curve_slices: int = 16
    curve_levels: str = "5,10,20,40"
    jobs: str = "groups"
    order: str = "methods"
    ct_prior: str = str(ROOT / "models" / "weights" / "ct")
    mr_prior: str = str(ROOT / "models" / "weights" / "mr")
    tune_ct: str = ""
    tune_mr: str = ""
    tune_ct_slab: str = "{}-{}".format(*TUNING_SLABS["ct"])
    tune_mr_slab: str = "{}-{}".format(*TUNING_SLABS["mr"])
    tune_tasks: str = "ct30,ct8,ct_la90,mr4,mr8"
    tuned: str = str(ROOT / "benchmarks" / "tuned.json")
    results: str = "results/bench"
    docs: str = "docs/results"
    device: str = "auto"

    def volume(self, modality: str, tuning: bool = False) -> Path | None:
        """The benchmark patient's volume, or the training patient's."""
        text = getattr(self, f"tune_{modality}" if tuning else modality)
        return Path(text) if text else None

    def prior(self, modality: str) -> Path:
        return Path(getattr(self, f"{modality}_prior"))

    def slab(self, modality: str, slices: int | None) -> tuple[int, int]:
        """Half-open range of `slices` slices in the middle of the slab; null: the tuning slab, whole."""
        key = f"tune_{modality}_slab" if slices is None else f"{modality}_slab"
        first, last = _range(key, getattr(self, key))
        if slices is None:
            return first, last
        if not 1 <= slices <= last - first:
            raise InputError(f"slices={slices}: the slab {key}={first}-{last} has 1 to {last - first}; correct one.")
        start = (first + last - slices) // 2
        return start, start + slices

    def chosen_tasks(self, key: str = "tasks") -> list[Task]:
        """The tasks of a key whose modality has a volume, in the order given."""
        tuning = key == "tune_tasks"
        chosen = [TASKS[name] for name in pick(key, getattr(self, key), TASKS)]
        return [task for task in chosen if self.volume(task.modality, tuning)]

    def chosen_methods(self) -> list[Method]:
        """The methods asked for, in the order of `methods()`."""
        known = methods()
        names = pick("methods", self.methods, [*known, *GROUPS])
        wanted = {method.name for method in known.values() if method.name in names or _groups(method) & set(names)}
        return [method for name, method in known.items() if name in wanted]

    def numbers(self, key: str) -> list[int]:
        """A list of whole numbers."""
        try:
            return [int(part) for part in items(getattr(self, key))]
        except ValueError as error:
            raise InputError(f"{key}={getattr(self, key)}: give whole numbers separated by commas.") from error


def read_config(values: Mapping[str, Any]) -> BenchConfig:
    """The config; InputError with one sentence for unknown keys and impossible values."""
    known = {item.name: item for item in fields(BenchConfig)}
    given = {}
    for key, value in values.items():
        if key not in known:
            raise InputError(f"--config {key}: no such key{near(key, known)}.")
        text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        try:
            given[key] = int(text) if known[key].type is int else text
        except ValueError as error:
            raise InputError(f"--config {key}={text}: give a whole number.") from error
    config = BenchConfig(**given)
    _check(config)
    return config


def pick(key: str, text: str, known: Iterable[str]) -> list[str]:
    """The names in a list, each of them known; "all" is all of them, "none" none."""
    if text == "none":
        return []
    names = list(known)
    chosen = names if text == "all" else items(text)
    for name in chosen:
        if name not in names:
            raise InputError(f"--config {key}: no such name as '{name}'{near(name, names)}.")
    return list(dict.fromkeys(chosen))


def items(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def near(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about a misspelt word."""
    names = list(known)
    found = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean {found[0]}" if found else f"; there are {', '.join(names)}"


def _groups(method: Method) -> set[str]:
    names = {method.kind if method.kind != "rival" else "rivals"}
    return names | ({"chief"} if method.kind == "rival" and method.tier == 1 else set())


def _range(key: str, text: str) -> tuple[int, int]:
    parts = text.split("-")
    if len(parts) != 2 or not all(part.isdigit() for part in parts) or int(parts[0]) >= int(parts[1]):
        raise InputError(f"--config {key}={text}: give first-last, a half-open range of slices.")
    return int(parts[0]), int(parts[1])


def _check(config: BenchConfig) -> None:
    for key, known in (("order", ("methods", "tasks")), ("jobs", ("methods", "groups", "tasks"))):
        if getattr(config, key) not in known:
            raise InputError(f"--config {key}={getattr(config, key)}: give {' or '.join(known)}.")
    if config.samples < 2 or config.rival_samples < 2:
        raise InputError("--config samples and rival_samples: give 2 or more, one sample has no spread.")
    for tuning in (False, True):
        for modality in ("ct", "mr"):
            path = config.volume(modality, tuning)
            if path is not None and not path.is_file():
                raise InputError(f"{path} is not there: check the path of the {modality.upper()} volume.")
