"""Stage `reconstruct`: K posterior samples and a point estimate of a measurement with one of the diffusion solvers.

A job that is killed goes on from the noise level it had reached when it is started again with the same settings,
measurement and prior, and ends with the same bits; its states lie in a hidden folder beside the output.
"""

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.atomic import atomic_directory
from data.errors import InputError
from data.nifti import write_volume
from models.prior import load_prior
from pipeline.cli import json_object, main_wrapper
from pipeline.machine import choose_device, device_name, peak_memory_mb, versions
from pipeline.measurement import FILE_NAME, file_digest, read_metadata, read_tensors, write_tensors
from pipeline.problem import load_problem
from pipeline.settings import ReconstructSettings, build, require_choice, require_range
from pipeline.units import Units
from solvers.coupling import SliceCoupling, find_coupling
from solvers.problem import Problem
from solvers.registry import SOLVERS
from solvers.registry import solver_settings as registered_settings
from solvers.run import run_solver, run_steps
from solvers.settings import SettingsError

POINT = "point"


@dataclass(frozen=True)
class Job:
    """One reconstruction: solver by name, its settings object, and where its states are kept."""

    solver: str
    settings: Any
    problem: Problem
    units: Units
    prior: Any
    coupling: SliceCoupling
    seed: int
    states: Path


@dataclass(frozen=True)
class Done:
    """A finished run: estimate (z y x) in normalised units on the CPU, and its line of run.json."""

    estimate: Tensor
    record: dict[str, Any]


def solver_settings(solver: str, settings: ReconstructSettings) -> Any:
    """The solver's settings object: preset, levels (unless the preset says), overrides."""
    require_choice(solver, tuple(SOLVERS), "solvers")
    values = dict(settings.overrides.get(solver, {}))
    if settings.levels is not None and "levels" not in SOLVERS[solver].presets.get(settings.preset or "", {}):
        values.setdefault("levels", settings.levels)
    try:
        return registered_settings(solver, values, settings.preset)
    except (ValueError, TypeError) as error:
        raise InputError(f"reconstruct: {error}") from error


def slice_coupling(name: str) -> SliceCoupling:
    """The coupling of that name; InputError for an unknown one."""
    try:
        return find_coupling(name)
    except SettingsError as error:
        raise InputError(f"reconstruct.coupling: {error}") from error


def run(measurement: Path, solver: str, out: Path, settings: ReconstructSettings) -> None:
    """Write samples.safetensors, run.json and, where the solver has one, point.nii.gz into a folder, whole."""
    require_range(settings.samples, 1, 1000, "reconstruct.samples")
    chosen = solver_settings(solver, settings)
    coupling = slice_coupling(settings.coupling)
    device = choose_device(settings.device)
    metadata = read_metadata(measurement / FILE_NAME)
    prior = load_prior(settings.prior, device)
    prior.check_fits(metadata["modality"], metadata["spacing_mm"][2] * metadata.get("prior_scale", 1.0))
    problem, units = load_problem(measurement, device)
    if settings.sigma_init is not None:
        require_range(settings.sigma_init, 1e-3, 100, "reconstruct.sigma_init")
        problem = replace(problem, sigma_init=settings.sigma_init)
    key = fingerprint(measurement, solver, chosen, settings, device, prior.card)
    with kept_states(out, key) as states:
        job = Job(solver, chosen, problem, units, prior, coupling, settings.seed, states)
        names = ([POINT] if settings.point and has_point(chosen) else []) + list(range(settings.samples))
        finished = all_runs(job, names)
        with atomic_directory(out) as folder:
            write_results(folder, job, finished, metadata | {"device": device}, settings)


def all_runs(job: Job, names: list[str | int]) -> dict[str | int, Path]:
    """Run or find finished every run; one progress bar over all their noise levels. Paths of the finished runs."""
    steps = [run_steps(settings_of(job, name)) for name in names]
    bar = tqdm(total=sum(steps), desc=job.solver, unit="level", file=sys.stderr, dynamic_ncols=True)
    finished: dict[str | int, Path] = {}
    with bar:
        for place, name in enumerate(names):

            def show(level: int, _: int, before: int = sum(steps[:place])) -> None:
                bar.update(min(before + level, bar.total) - bar.n)

            finished[name] = one_run(job, name, show)
            bar.update(sum(steps[: place + 1]) - bar.n)
    return finished


def settings_of(job: Job, name: str | int) -> Any:
    """The solver's settings for a sample, or for the point estimate."""
    return replace(job.settings, mode=POINT) if name == POINT else job.settings


def one_run(job: Job, name: str | int, progress: Callable[[int, int], None]) -> Path:
    """Run one sample (or the point estimate) unless its finished file is there; the finished file's path."""
    path = job.states / f"{name}.done.safetensors"
    if path.is_file():
        return path
    settings = settings_of(job, name)
    try:
        result = run_solver(
            job.solver,
            job.problem,
            job.prior,
            settings,
            seed=job.seed,
            sample=name,
            checkpoint=job.states / f"{name}.state.safetensors",
            progress=progress,
            coupling=job.coupling,
        )
    except SettingsError as error:
        raise InputError(f"reconstruct: {error}") from error
    estimate = result.estimate
    if not bool(torch.isfinite(torch.view_as_real(estimate) if estimate.is_complex() else estimate).all()):
        raise InputError(
            f"reconstruct.{job.solver}: diverged with these settings; take smaller steps or another preset."
        )
    record = {
        "chi2": float(result.chi2),
        "nfe": int(result.network_calls),
        "seconds": float(result.seconds),
        "peak_mem_mb": float(result.peak_mem_mb),
        "heldout_error": job.units.heldout.error(estimate) if job.units.heldout else None,
    }
    write_tensors(path, {"estimate": estimate.detach().cpu().numpy()}, record)
    return path


def write_results(
    folder: Path, job: Job, finished: dict[str | int, Path], metadata: dict[str, Any], settings: ReconstructSettings
) -> None:
    """Samples as float32 (K z y x) in HU or magnitude with its phase, the point estimate as NIfTI, and run.json."""
    runs = {name: _read_done(path) for name, path in finished.items()}
    point = runs.pop(POINT, None)
    samples = np.stack([job.units.to_physical(done.estimate) for done in runs.values()])
    mean = torch.stack([done.estimate for done in runs.values()]).mean(dim=0).to(job.problem.device)
    records = [done.record for done in runs.values()]
    everything = records + ([point.record] if point else [])
    shared = {"affine": metadata["affine"], "modality": metadata["modality"], "units": job.units.name}
    shared["prior_scale"] = metadata.get("prior_scale", 1.0)
    tensors = {"samples": samples}
    if mean.is_complex():
        # Magnitudes alone cannot predict k-space.
        tensors["phase"] = np.stack([done.estimate.angle().numpy().astype(np.float16) for done in runs.values()])
    write_tensors(folder / "samples.safetensors", tensors, shared | {"solver": job.solver})
    if point:
        array = job.units.to_physical(point.estimate)
        write_volume(folder / "point.nii.gz", array, job.units.affine, np.float32, f"{job.solver}, point estimate")
    report = {
        "solver": job.solver,
        "settings": asdict(settings) | {"prior": Path(settings.prior).name, "overrides": {}},
        "solver_settings": asdict(job.settings),
        "seed": settings.seed,
        "units": job.units.name,
        "units_per_normalised": job.units.scale,
        "sigma_init": job.problem.sigma_init,
        "chi2": [record["chi2"] for record in records],
        "network_calls": sum(record["nfe"] for record in everything),
        "seconds": sum(record["seconds"] for record in everything),
        "peak_mem_mb": max([peak_memory_mb(), *(record["peak_mem_mb"] for record in everything)]),
        "point": point.record if point else None,
        "mean": {
            "chi2": float(job.problem.chi2(mean)),
            "nfe": sum(record["nfe"] for record in records),
            "seconds": sum(record["seconds"] for record in records),
            "peak_mem_mb": max(record["peak_mem_mb"] for record in records),
            "heldout_error": job.units.heldout.error(mean) if job.units.heldout else None,
        },
        "samples": records,
        "prior": job.prior.card,
        "device": device_name(metadata["device"]),
        "versions": versions(),
    }
    (folder / "run.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def has_point(settings: Any) -> bool:
    """Whether the solver can give a point estimate instead of a sample."""
    return any(item.name == "mode" for item in fields(settings))


def fingerprint(
    measurement: Path, solver: str, chosen: Any, settings: ReconstructSettings, device: str, card: dict[str, Any]
) -> str:
    """Names the run: everything that a sample's bits depend on, but not how many samples are asked for."""
    parts = {
        "measurement": file_digest(measurement / FILE_NAME),
        "solver": solver,
        "settings": asdict(chosen),
        "coupling": settings.coupling,
        "seed": settings.seed,
        "sigma_init": settings.sigma_init,
        "device": device,
        "prior": card,
        "versions": versions(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


@contextmanager
def kept_states(out: Path, key: str) -> Iterator[Path]:
    """Folder for the states of this run, in a hidden folder beside `out`; gone when the block ends without an error.

    States of runs with other settings are removed first: they will not be asked for again.
    """
    hidden = out.parent / f".{out.name}.states"
    if hidden.is_dir():
        for other in hidden.iterdir():
            if other.name != key:
                shutil.rmtree(other, ignore_errors=True)
    (hidden / key).mkdir(parents=True, exist_ok=True)
    yield hidden / key
    shutil.rmtree(hidden)


def _read_done(path: Path) -> Done:
    tensors, record = read_tensors(path)
    return Done(torch.from_numpy(tensors["estimate"]), record)


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline.reconstruct", description=__doc__.split("\n")[0])
    parser.add_argument("--measurement", type=Path, required=True, help="folder with measurement.safetensors")
    parser.add_argument("--solver", required=True, help="one of the diffusion solvers")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, replaced whole")
    parser.add_argument("--settings", default="{}", help="JSON object: the cohort's `reconstruct` section")
    arguments = parser.parse_args(argv)
    settings = build(ReconstructSettings, json_object(arguments.settings), "reconstruct")
    run(arguments.measurement, arguments.solver, arguments.out, settings)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
