"""Finds every method's best setting for a task on a training patient's slab, and writes the search down.

    snakemake -s benchmarks/Snakefile --cores 2 tune --config tune_ct=chest.nii.gz tune_mr=head.nii.gz

`search` runs all settings of all methods once, with seed 0, on one measurement; `collect` writes the best ones to
tuned.json and the whole search to tuning.md. The score is the mean over the three planes of the PSNR.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.settings import write_tuned
from benchmarks.tasks import TASKS
from data.atomic import write_text
from data.errors import InputError
from pipeline.cli import main_wrapper


def search(arguments: argparse.Namespace) -> None:
    """One file METHOD.json a method below OUT; methods whose file has the same fingerprint are left as they are."""
    import torch

    from benchmarks.run_method import load_case
    from pipeline.machine import choose_device

    torch.set_num_threads(arguments.threads)
    rows = json.loads(arguments.specs)
    prior = arguments.prior if any(row["kind"] != "classical" for row in rows) else None
    case = load_case(arguments.measurement, prior, 0, choose_device(arguments.device))
    for row in rows:
        path = arguments.out / f"{row['name']}.json"
        key = fingerprint(case, row)
        if not is_finished(path, key):
            write_text(path, json.dumps(search_one(case, row) | {"fingerprint": key}, indent=1) + "\n")
    write_text(arguments.done, json.dumps([row["name"] for row in rows]) + "\n")


def search_one(case: Any, row: dict[str, Any]) -> dict[str, Any]:
    """All settings of a grid with their PSNR (null where the method diverged or refused) and seconds."""
    import numpy as np

    from benchmarks.run_method import Spec, code_version, run_once
    from benchmarks.score import finite, mean_psnr_db
    from benchmarks.series import machine
    from solvers.settings import SettingsError

    tried = []
    for settings in row["grid"]:
        spec = Spec(row["name"], row["kind"], row["solver"], {**settings, **row["fixed"]}, row["coupling"])
        began = time.perf_counter()
        try:
            volume = case.units.to_physical(run_once(case, spec, 0).estimate)
        except SettingsError as error:
            tried.append({"settings": settings, "psnr_db": None, "seconds": 0.0, "refused": str(error)})
            continue
        good = bool(np.isfinite(volume).all())
        psnr = mean_psnr_db(volume, case.truth, case.units.modality) if good else None
        tried.append({"settings": settings, "psnr_db": psnr, "seconds": time.perf_counter() - began})
    shared = {"method": row["name"], "fixed": row["fixed"], "machine": machine(), "code": code_version()}
    return finite(shared | {"prior_sha256": case.prior_sha256, "shape_zyx": list(case.truth.shape), "tried": tried})


def fingerprint(case: Any, row: dict[str, Any]) -> str:
    """Names a search: measurement, prior and grid."""
    prior = None if row["kind"] == "classical" else case.prior_sha256
    parts = json.dumps([case.digest, prior, row], sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


def is_finished(path: Path, key: str) -> bool:
    try:
        return json.loads(path.read_text(encoding="utf-8"))["fingerprint"] == key
    except (OSError, ValueError, KeyError):
        return False


def best(tried: list[dict[str, Any]]) -> dict[str, Any]:
    """Settings of the highest PSNR, the first of equals; InputError where every run diverged.

    A method that refuses the geometry has no best setting: its first one stands for it.
    """
    good = [row for row in tried if row["psnr_db"] is not None]
    if not good and all("refused" in row for row in tried):
        return tried[0]["settings"]
    if not good:
        raise InputError("every setting of the search diverged; widen the method's grid.")
    return max(good, key=lambda row: row["psnr_db"])["settings"]


def collect(arguments: argparse.Namespace) -> None:
    """tuned.json and tuning.md from all searches below the results."""
    found = {task: searches for task in TASKS if (searches := read_searches(arguments.results / "tune" / task))}
    chosen = {task: {row["method"]: best(row["tried"]) for row in searches} for task, searches in found.items()}
    write_tuned(arguments.tuned, chosen)
    write_text(arguments.docs / "tuning.md", "\n".join(page(found, arguments.command)) + "\n")


def read_searches(folder: Path) -> list[dict[str, Any]]:
    paths = [path for path in sorted(folder.glob("*.json")) if path.name != "done.json"]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def page(found: dict[str, list[dict[str, Any]]], command: str) -> Iterator[str]:
    """Lines of tuning.md."""
    yield from ("# Settings searched on training patients", "")
    yield f"Command: `{command}`. Seed 0. The benchmark patients are never searched on; PaM is never searched at all."
    yield "PSNR is the mean of the three planes; the best setting of a row is in bold. A task without a search of"
    yield "its own takes the settings of the nearest task (benchmarks/tasks.py)."
    for task, searches in found.items():
        section = {key: value for key, value in TASKS[task].section(0).items() if key not in ("seed", "modality")}
        priors = sorted({row["prior_sha256"][:8] for row in searches if row["prior_sha256"]})
        z, y, x = searches[0]["shape_zyx"]
        yield from ("", f"## {task}", "", f"{TASKS[task].title}. `{json.dumps(section)}`.")
        yield f"{z} slices of {y} x {x}. Prior {', '.join(priors)}. {searches[0]['machine']}."
        yield from ("", "| method | fixed | settings: PSNR dB | seconds a run |", "| --- | --- | --- | --- |")
        for row in searches:
            top = best(row["tried"])
            cells = "; ".join(_cell(tried, tried["settings"] == top) for tried in row["tried"])
            seconds = sum(tried["seconds"] for tried in row["tried"]) / len(row["tried"])
            yield f"| {row['method']} | {_settings(row['fixed'])} | {cells} | {seconds:.0f} |"


def _cell(tried: dict[str, Any], chosen: bool) -> str:
    without = "refused" if "refused" in tried else "diverged"
    psnr = without if tried["psnr_db"] is None else f"{tried['psnr_db']:.2f}"
    text = f"{_settings(tried['settings'])}: {psnr}"
    return f"**{text}**" if chosen else text


def _settings(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items()) or "defaults"


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tune", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="name", required=True)
    one = commands.add_parser("search", help="all settings of all methods on one measurement")
    one.add_argument("--measurement", type=Path, required=True)
    one.add_argument("--out", type=Path, required=True)
    one.add_argument("--prior", type=Path, required=True)
    one.add_argument("--specs", required=True, help="JSON list: name, kind, solver, coupling, fixed, grid")
    one.add_argument("--threads", type=int, default=1)
    one.add_argument("--device", default="auto")
    one.add_argument("--done", type=Path, required=True)
    every = commands.add_parser("collect", help="tuned.json and tuning.md from all searches")
    every.add_argument("--results", type=Path, required=True)
    every.add_argument("--tuned", type=Path, required=True)
    every.add_argument("--docs", type=Path, required=True)
    every.add_argument("--command", required=True)
    arguments = parser.parse_args(argv)
    search(arguments) if arguments.name == "search" else collect(arguments)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
