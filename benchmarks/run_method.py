"""Runs methods on one measurement, one after the other, and writes a folder with result.json for each.

    python -m benchmarks.run_method --measurement DIR --out DIR --prior models/weights/ct --seed 0 --specs '[{...}]'

A folder appears whole or not at all. A method whose result.json has the fingerprint of the same settings, prior and
measurement is left as it is.
"""

import argparse
import datetime
import hashlib
import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.score import finite, score_image, score_samples
from benchmarks.series import machine
from data.atomic import atomic_directory, write_text
from data.errors import InputError
from data.nifti import read_volume, write_volume
from pipeline.cli import main_wrapper
from pipeline.machine import choose_device, device_name, peak_memory_mb, versions
from pipeline.measurement import FILE_NAME, file_digest
from pipeline.problem import Units, load_problem
from solvers.classical.registry import CLASSICAL
from solvers.problem import Problem
from solvers.registry import solver_settings
from solvers.run import run_solver
from solvers.settings import SettingsError

RESULT = "result.json"
# Largest magnitude of an estimate as stored in 16 bits; HU need no scale.
MR_STORED_PEAK = 10000.0


@dataclass(frozen=True)
class Spec:
    """One method's run. samples: 0 for one run that is all there is. tuned_on: the task of the search, if any."""

    name: str
    kind: str
    solver: str
    settings: dict[str, Any]
    coupling: str = "none"
    samples: int = 0
    tuned_on: str | None = None


@dataclass(frozen=True, eq=False)
class Case:
    """What all methods of a job share. truth (z y x) in physical units."""

    problem: Problem
    units: Units
    truth: np.ndarray
    prior: Any
    seed: int
    digest: str

    @property
    def prior_sha256(self) -> str | None:
        return None if self.prior is None else self.prior.card["sha256"]


@dataclass(frozen=True, eq=False)
class Run:
    """One estimate (z y x) in normalised units and what it cost."""

    estimate: Tensor
    network_calls: int
    seconds: float
    cpu_seconds: float
    peak_mem_mb: float


def load_case(measurement: Path, prior: Path | None, seed: int, device: str) -> Case:
    """The measurement, its truth and, where `prior` names one, the prior, on the device."""
    problem, units = load_problem(measurement, device)
    truth = read_volume(measurement / "truth.nii.gz").array_zyx
    loaded = None
    if prior is not None:
        from models.prior import load_prior

        loaded = load_prior(prior, device)
        loaded.check_fits(units.modality, problem.spacing_mm[2])
    return Case(problem, units, truth, loaded, seed, file_digest(measurement / FILE_NAME))


def run_once(case: Case, spec: Spec, sample: int) -> Run:
    """One run of a method; classical ones ignore the number of the sample."""
    began, cpu_began = time.perf_counter(), time.process_time()
    estimate, calls, memory = _run(case, spec, sample)
    return Run(estimate, calls, time.perf_counter() - began, time.process_time() - cpu_began, memory)


def _run(case: Case, spec: Spec, sample: int) -> tuple[Tensor, int, float]:
    """Estimate, network calls and peak memory in MiB."""
    if spec.kind == "classical":
        return CLASSICAL[spec.solver](case.problem, spec.settings), 0, peak_memory_mb()
    settings = solver_settings(spec.solver, spec.settings)
    if spec.coupling == "none":
        done = run_solver(spec.solver, case.problem, case.prior, settings, case.seed, sample)
    else:
        from solvers.coupling import find_coupling

        coupling = find_coupling(spec.coupling)
        done = run_solver(spec.solver, case.problem, case.prior, settings, case.seed, sample, coupling=coupling)
    return done.estimate, done.network_calls, done.peak_mem_mb


def fingerprint(case: Case, spec: Spec) -> str:
    """Names the result: measurement, prior, seed and everything of the spec."""
    parts = {"measurement": case.digest, "prior": case.prior_sha256, "seed": case.seed, "spec": asdict(spec)}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def run_method(case: Case, spec: Spec, out: Path) -> None:
    """Writes OUT whole: result.json, estimate.nii.gz and, of samples, std.nii.gz."""
    key = fingerprint(case, spec)
    if is_finished(out, key):
        return
    record = {**asdict(spec), "fingerprint": key, "seed": case.seed, **provenance(case, spec)}
    try:
        runs = [run_once(case, spec, sample) for sample in range(max(1, spec.samples))]
    except SettingsError as error:
        record |= {"failed": f"refused: {error}"}
    else:
        volumes = np.stack([case.units.to_physical(run.estimate) for run in runs])
        if np.isfinite(volumes).all():
            record |= figures(case, spec, runs, volumes)
        else:
            record |= {"failed": "the estimate is not finite: diverged with these settings"}
    with atomic_directory(out) as folder:
        if "failed" not in record:
            write_images(case, volumes, folder, record)
        (folder / RESULT).write_text(json.dumps(finite(record), indent=1) + "\n", encoding="utf-8")


def is_finished(out: Path, key: str) -> bool:
    """Whether OUT holds the result of that fingerprint."""
    try:
        return json.loads((out / RESULT).read_text(encoding="utf-8"))["fingerprint"] == key
    except (OSError, ValueError, KeyError):
        return False


def figures(case: Case, spec: Spec, runs: list[Run], volumes: np.ndarray) -> dict[str, Any]:
    """All figures: `estimates` by name ("point", or "mean" and "sample"), `spread` and its `curves`."""
    problem, modality = case.problem, case.units.modality

    def estimate(volume: np.ndarray, x: Tensor, of: list[Run]) -> dict[str, Any]:
        return {
            **score_image(volume, case.truth, modality),
            "chi2": float(problem.chi2(x)),
            "network_calls": sum(run.network_calls for run in of),
            "seconds": sum(run.seconds for run in of),
            "cpu_seconds": sum(run.cpu_seconds for run in of),
            "peak_mem_mb": max(run.peak_mem_mb for run in of),
        }

    if spec.samples < 2:
        name = "sample" if spec.samples else "point"
        return {"estimates": {name: estimate(volumes[0], runs[0].estimate, runs)}, "spread": None, "curves": None}
    mean = torch.stack([run.estimate for run in runs]).mean(0)
    found = {
        "mean": estimate(volumes.mean(0), mean, runs),
        "sample": estimate(volumes[0], runs[0].estimate, runs[:1]),
    }
    spread, curves = score_samples(volumes, case.truth, modality)
    return {"estimates": found, "spread": spread, "curves": curves}


def write_images(case: Case, volumes: np.ndarray, folder: Path, record: dict[str, Any]) -> None:
    """The mean (or only) estimate and the samples' standard deviation as int16; `stored_scale` undoes their scale."""
    peak = float(np.percentile(case.truth, 99.5))
    factor = 1.0 if case.units.modality == "ct" else MR_STORED_PEAK / (4 * peak)
    record["stored_scale"] = 1 / factor
    images = {"estimate": volumes.mean(0)}
    if len(volumes) > 1:
        images["std"] = volumes.std(0, ddof=1)
    for name, array in images.items():
        path = folder / f"{name}.nii.gz"
        write_volume(path, array * factor, case.units.affine, np.int16, f"{record['name']}, {name}, x{factor:.6g}")


def provenance(case: Case, spec: Spec) -> dict[str, Any]:
    """Complete settings, code version, machine, date and versions."""
    classical = spec.kind == "classical"
    build = CLASSICAL[spec.solver].settings if classical else lambda values: solver_settings(spec.solver, values)
    return {
        "all_settings": asdict(build(spec.settings)),
        "prior_sha256": None if classical else case.prior_sha256,
        "measurement_sha256": case.digest,
        "shape_zyx": list(case.truth.shape),
        "code": code_version(),
        "machine": machine(),
        "device": device_name(str(case.problem.device)),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
    }


def code_version() -> str:
    """Commit of the working tree, with a + where tracked files were changed; "unknown" outside a repository."""
    git = ["git", "-C", str(Path(__file__).parent.parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True, check=False).returncode
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + ("+" if changed else "")


def read_specs(text: str) -> list[Spec]:
    """Specs from a JSON list of objects; InputError for another shape."""
    try:
        return [Spec(**row) for row in json.loads(text)]
    except (ValueError, TypeError) as error:
        raise InputError(f"--specs: {error}; give a list of objects with name, kind, solver and settings.") from error


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run_method", description=__doc__.split("\n")[0])
    parser.add_argument("--measurement", type=Path, required=True, help="folder with measurement.safetensors and truth")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets one folder a method")
    parser.add_argument("--specs", required=True, help="JSON list of methods, see Spec")
    parser.add_argument("--prior", type=Path, help="folder of the prior; classical methods need none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--done", type=Path, help="file to write when all is there")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    specs = read_specs(arguments.specs)
    prior = arguments.prior if any(spec.kind != "classical" for spec in specs) else None
    case = load_case(arguments.measurement, prior, arguments.seed, choose_device(arguments.device))
    for spec in specs:
        run_method(case, spec, arguments.out / spec.name)
    if arguments.done:
        write_text(arguments.done, json.dumps([spec.name for spec in specs]) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
