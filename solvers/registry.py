"""Samplers by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from solvers.dds import DdsSettings, dds
from solvers.diffusion_mbir import PAPER, DiffusionMbirSettings, diffusion_mbir
from solvers.dreamsampler import DreamSamplerSettings, dreamsampler
from solvers.pam import PamSettings, pam
from solvers.settings import SettingsError, settings_from_dict
from solvers.state import State


@dataclass(frozen=True)
class Solver:
    """A sampler, its settings and its presets (partial settings by name)."""

    function: Callable[..., Iterator[State]]
    settings_class: type
    presets: dict[str, dict[str, Any]] = field(default_factory=dict)


SOLVERS: dict[str, Solver] = {
    "pam": Solver(
        pam,
        PamSettings,
        {"sample": {"mode": "sample"}, "point": {"mode": "point"}},
    ),
    "dds": Solver(
        dds,
        DdsSettings,
        {"noise_free": {"gamma": None, "tv": True}, "tv": {"tv": True}},
    ),
    "diffusion_mbir": Solver(diffusion_mbir, DiffusionMbirSettings, {"paper": PAPER}),
    "dreamsampler": Solver(dreamsampler, DreamSamplerSettings, {"no_slice_term": {"tv": False}}),
}


def find_solver(name: str) -> Solver:
    """The solver of that name; SettingsError lists the names there are."""
    if name not in SOLVERS:
        raise SettingsError(f"unknown solver '{name}', choose one of {', '.join(SOLVERS)}.")
    return SOLVERS[name]


def solver_settings(name: str, values: Mapping[str, Any] | None = None, preset: str | None = None) -> Any:
    """Settings of solver `name`: its defaults, changed by the preset, changed by `values`. Raises SettingsError."""
    solver = find_solver(name)
    if preset is not None and preset not in solver.presets:
        known = ", ".join(solver.presets) or "none"
        raise SettingsError(f"{name}: unknown preset '{preset}', there is: {known}.")
    chosen = {**(solver.presets[preset] if preset else {}), **(values or {})}
    return settings_from_dict(solver.settings_class, chosen, name)
