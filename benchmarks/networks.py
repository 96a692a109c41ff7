"""Which slice network: variants trained side by side for equal CPU seconds and validated on a held-out patient.

    OMP_NUM_THREADS=1 python -m benchmarks.networks --volumes FOLDER --held-out lungfcp --state FOLDER --seconds 150

FOLDER holds clean CT volumes in HU. All variants are trained in turn, a few CPU seconds each, so that whatever else the
machine does slows all of them alike; CPU time is the process's, not the clock's. A killed run goes on from --state.
Writes docs/results/networks.md and networks.png.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.networks_page import write_page
from benchmarks.series import make_series
from data.atomic import atomic_path
from models.prior import SlicePrior
from models.training import (
    TrainingSettings,
    TrainingState,
    draw_batch,
    load_state,
    new_state,
    residual_share,
    save_state,
    train_step,
)
from models.volumes import CropSettings, TrainingVolume
from pipeline import measure
from pipeline.cli import main_wrapper
from pipeline.problem import load_problem
from pipeline.train import read_training_volume, split
from solvers.correction import ErrorModel, correct
from solvers.draws import Draws
from solvers.problem import Problem
from solvers.schedule import karras_levels

SIGMAS = (0.02, 0.05, 0.15, 0.4, 1.0)
TURN_SECONDS = 15.0
START_SIGMA = 0.3
PAIRED_SLICES = 12
MEASURE = {"modality": "ct", "views": 30, "noise_of_largest_ray": 0.01, "working_matrix": None}
BASE = TrainingSettings("ct", 0.5, crop=CropSettings(size=96), warmup_steps=50, device="cpu")
VARIANTS: dict[str, TrainingSettings] = {
    "present": BASE,
    "narrower 32-64-96-96": replace(BASE, widths=(32, 64, 96, 96)),
    "deeper, 2 layers": replace(BASE, layers=2),
    "patch 4, 96-192-256": replace(BASE, patch=4, widths=(96, 192, 256)),
    "1 slice in": replace(BASE, neighbours=1),
    "rectified flow": replace(BASE, preconditioning="flow"),
    "pairs, plain start": BASE,
    "pairs, residual start": replace(BASE, residual_sigma=START_SIGMA),
}
PAIRED = ("pairs, plain start", "pairs, residual start")


@dataclass(frozen=True)
class Row:
    """One variant: steps taken, mean squared error at each of SIGMAS, CPU seconds a slice of inference."""

    name: str
    parameters: int
    steps: int
    seconds: float
    errors: list[float]
    slice_seconds: float


@dataclass(frozen=True)
class Scan:
    """A slab measured with 30 views: its problem, and the truth (z y x) in prior units."""

    problem: Problem
    truth: Tensor


def scan(volume: Path, slices: tuple[int, int]) -> Scan:
    """Measures slices [first, last) of a CT volume as the benchmark does."""
    with tempfile.TemporaryDirectory() as folder:
        series = make_series(volume, "ct", slices, Path(folder))
        out = Path(folder) / "measurement"
        section = json.dumps(MEASURE)
        measure.main(["--input", str(series), "--out", str(out), "--settings", section])
        problem, _ = load_problem(out)
    truth = read_training_volume(volume, "ct").slices[slice(*slices)].astype(np.float32)
    return Scan(problem, torch.from_numpy(truth))


def paired(path: Path, folder: Path) -> TrainingVolume:
    """The middle slices of a volume with the solvers' classical start beside them, which is kept in `folder`."""
    whole = read_training_volume(path, "ct")
    first = max((len(whole.slices) - PAIRED_SLICES) // 2, 0)
    kept = folder / f"{whole.name}.npy"
    if not kept.exists():
        start = scan(path, (first, first + PAIRED_SLICES)).problem.x_init.numpy()
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(kept) as part:
            np.save(part, start.astype(np.float16))
    return replace(whole, slices=whole.slices[first : first + PAIRED_SLICES], degraded=np.load(kept))


def train_in_turns(data: dict[str, list[TrainingVolume]], seconds: float, folder: Path) -> dict[str, TrainingState]:
    """Every variant's state after `seconds` of CPU time for drawing batches and steps, TURN_SECONDS at a time."""
    states, generators = {}, {}
    for name, settings in VARIANTS.items():
        states[name] = load_state(new_state(settings), folder / name)
        generators[name] = np.random.default_rng([settings.seed, states[name].step])
    for turn in range(1, int(np.ceil(seconds / TURN_SECONDS)) + 1):
        for name, settings in VARIANTS.items():
            state, timed = states[name], replace(settings, minutes=seconds / 60)
            before = state.step
            while state.seconds < min(turn * TURN_SECONDS, seconds):
                began = time.process_time()
                train_step(state, draw_batch(data[name], timed, generators[name]), timed)
                state.seconds += time.process_time() - began
            if state.step > before:
                save_state(state, folder / name)
        print(f"turn {turn}: " + ", ".join(f"{n} {s.step}" for n, s in states.items()), flush=True)
    return states


def error_of(state: TrainingState, settings: TrainingSettings, clean: Tensor, spacing: tuple, sigma: float) -> float:
    """Mean squared error on `clean` (z y x) under white noise."""
    noisy = clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(7))
    prior = SlicePrior(state.average, {"modality": "ct", "sigma_data": settings.sigma_data})
    return float((prior.denoise(noisy, sigma, spacing).mean - clean).square().mean())


def validate(states: dict[str, TrainingState], clean: Tensor, spacing: tuple) -> list[Row]:
    """A row a variant, from the same noise on `clean` (z y x)."""
    rows = []
    for name, state in states.items():
        began = time.process_time()
        errors = [error_of(state, VARIANTS[name], clean, spacing, sigma) for sigma in SIGMAS]
        cost = (time.process_time() - began) / (len(SIGMAS) * len(clean))
        parameters = sum(p.numel() for p in state.average.parameters())
        rows.append(Row(name, parameters, state.step, state.seconds, errors, cost))
        print(rows[-1], flush=True)
    return rows


def chain(state: TrainingState, settings: TrainingSettings, measured: Scan, trust: float, levels: int = 10) -> float:
    """PSNR in dB (range 2) of the point estimate after `levels` corrected denoisings from the classical start.

    x_sigma = x^ + a(sigma) (x_init - x^) + sigma n with the training's a(sigma), 0 for a plain start.
    """
    problem, draws = measured.problem, Draws(0)
    prior = SlicePrior(state.average, {"modality": "ct", "sigma_data": settings.sigma_data})
    x = problem.x_init
    for level, sigma in enumerate(karras_levels(START_SIGMA, 0.02, levels)):
        start = settings.residual_sigma
        share = float(residual_share(torch.tensor(sigma), start)) if start else 0.0
        noise = draws.normal(problem.shape, problem.dtype, level, "noise")
        noisy = x + share * (problem.x_init - x) + sigma * noise
        mean, variance = prior.denoise(noisy, sigma, problem.spacing_mm)
        x = correct(problem, mean, ErrorModel((trust * variance).sqrt()), 15, 1e-3)
    return float(-10 * torch.log10((x - measured.truth).square().mean() / 4))


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volumes", type=Path, required=True)
    parser.add_argument("--held-out", required=True, help="beginning of the held-out patient's file name")
    parser.add_argument("--state", type=Path, required=True, help="folder of the resumable states")
    parser.add_argument("--seconds", type=float, default=150.0, help="CPU seconds of training for each variant")
    arguments = parser.parse_args(argv)
    kept, held = split(arguments.volumes, [arguments.held_out])
    volumes = [read_training_volume(path, "ct") for path in kept]
    pairs = [paired(path, arguments.state / "pairs") for path in kept]
    states = train_in_turns(
        {name: pairs if name in PAIRED else volumes for name in VARIANTS}, arguments.seconds, arguments.state
    )
    patient = read_training_volume(held[0], "ct")
    middle = len(patient.slices) // 2
    clean = torch.from_numpy(patient.slices[middle - 6 : middle + 6].astype(np.float32))
    with torch.no_grad():
        rows = validate(states, clean, patient.spacing_mm)
        measured = scan(held[0], (middle - 4, middle + 4))
        chains = {
            name: {trust: chain(states[name], VARIANTS[name], measured, trust) for trust in (1.0, 4.0, 16.0)}
            for name in PAIRED
        }
    command = (
        f"OMP_NUM_THREADS=1 python -m benchmarks.networks --volumes {arguments.volumes.name} "
        f"--held-out {arguments.held_out} --state STATE --seconds {arguments.seconds:g}"
    )
    write_page(rows, chains, SIGMAS, command, (patient.name, [v.name for v in volumes]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
