"""Runs one sample of one solver: progress, checkpoints, resume, cost."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from solvers.coupling import SliceCoupling, couple
from solvers.draws import Draws
from solvers.problem import Problem
from solvers.registry import find_solver, solver_settings
from solvers.schedule import karras_levels
from solvers.state import State

if TYPE_CHECKING:
    from models.prior import SlicePrior

OPEN_SIGMA_MIN = 0.02


@dataclass(frozen=True, eq=False)
class RunResult:
    """What one run gave and cost.

    estimate (z y x) in prior units; network_calls and chi2 of the whole run; seconds of this process only, without what
    an interrupted one spent; peak_mem_mb of the process (CPU) or of the device (CUDA).
    """

    estimate: Tensor
    network_calls: int
    seconds: float
    chi2: float
    peak_mem_mb: float


def run_solver(
    name: str,
    problem: Problem,
    prior: SlicePrior,
    settings: Any = None,
    seed: int = 0,
    sample: int | str = 0,
    checkpoint: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    coupling: SliceCoupling | None = None,
) -> RunResult:
    """Run solver `name` to its last level.

    settings    the solver's settings object, or a mapping of settings, or None for the defaults
    sample      which of several independent runs of the same seed
    checkpoint  file that is rewritten after every level and removed at the end; a file left by an interrupted run with
                the same settings and data is taken up, any other is ignored and overwritten
    progress    called with (levels done, levels in all), first with what a checkpoint already had
    coupling    ties between slices put around the solver; None and COUPLINGS["none"] leave it alone

    Raises SettingsError for unknown names and settings, and for a coupling that does not fit the volume. A resumed run
    gives the same bits as an unbroken one.
    """
    solver = find_solver(name)
    if settings is None or isinstance(settings, Mapping):
        settings = solver_settings(name, settings)
    coupling = coupling or SliceCoupling()
    settings = coupling.settings_of(settings)
    coupled, draws = couple(problem, prior, Draws(seed).child(sample), coupling, noise_levels(problem, settings))
    began = time.perf_counter()
    if problem.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(problem.device)
    key = _run_key(name, settings, seed, sample, problem, prior, coupling) if checkpoint else ""
    state = _resume(checkpoint, key, problem.device)
    report = progress or (lambda done, total: None)
    steps = run_steps(settings)
    report(state.level if state else 0, steps)
    with torch.no_grad():
        levels = solver.function(problem, coupled, settings, draws, state)
        for state in levels:
            if checkpoint:
                state.save(checkpoint, key)
            report(state.level, steps)
        chi2 = problem.chi2(state.estimate)
    if checkpoint:
        checkpoint.unlink(missing_ok=True)
    seconds = time.perf_counter() - began
    return RunResult(state.estimate, state.network_calls, seconds, chi2, peak_memory_mb(problem.device))


def run_steps(settings: Any) -> int:
    """States that a run with these settings of a solver goes through."""
    return getattr(settings, "steps", settings.levels)


def noise_levels(problem: Problem, settings: Any) -> list[float]:
    """The noise levels that settings of a solver stand for; where they leave sigma_min open, near enough to it."""
    first = getattr(settings, "sigma_max", None) or problem.sigma_init
    last = min(getattr(settings, "sigma_min", None) or OPEN_SIGMA_MIN, first)
    return karras_levels(first, last, settings.levels)


def peak_memory_mb(device: torch.device) -> float:
    """Largest memory so far in MiB: resident set of the process, or allocations on a CUDA device."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _resume(checkpoint: Path | None, key: str, device: torch.device) -> State | None:
    if checkpoint is None or not checkpoint.exists():
        return None
    try:
        return State.load(checkpoint, key, device)
    except ValueError:
        return None


def _run_key(
    name: str, settings: Any, seed: int, sample: int | str, problem: Problem, prior: SlicePrior, coupling: SliceCoupling
) -> str:
    """SHA-256 over everything that the result depends on."""
    ties, card = dataclasses.asdict(coupling), getattr(prior, "card", {})
    described = [name, dataclasses.asdict(settings), ties, seed, sample, problem.spacing_mm, problem.sigma_init, card]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode())
    for tensor in (problem.y, problem.weights, problem.x_init):
        values = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        digest.update(values.detach().cpu().contiguous().numpy())
    return digest.hexdigest()
