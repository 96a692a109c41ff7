"""Samplers by name: a new solver is one file and one line here. Nothing is imported before a solver is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from solvers.settings import SettingsError, settings_from_dict

if TYPE_CHECKING:
    from solvers.state import State


@dataclass(frozen=True)
class Solver:
    """A sampler in `solvers/<module>.py`: its function, its settings class and its presets (partial settings)."""

    module: str
    settings_name: str
    presets: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def function(self) -> Callable[..., Iterator[State]]:
        return getattr(importlib.import_module(f"solvers.{self.module}"), self.module)

    @property
    def settings_class(self) -> type:
        return getattr(importlib.import_module(f"solvers.{self.module}"), self.settings_name)


SOLVERS: dict[str, Solver] = {
    "pam": Solver(
        "pam",
        "PamSettings",
        {
            "sample": {"mode": "sample"},
            "point": {"mode": "point"},
            "broad": {"mode": "sample", "broad_share": 0.3, "cg_iterations": 80},
        },
    ),
    "dds": Solver("dds", "DdsSettings", {"noise_free": {"gamma": None, "tv": True}, "tv": {"tv": True}}),
    "diffusion_mbir": Solver(
        "diffusion_mbir",
        "DiffusionMbirSettings",
        # sigma_max is 378 in the paper; 10 is as uninformative for images of unit range and the most the priors know.
        {
            "paper": {
                "form": "noisy",
                "levels": 2000,
                "sigma_max": 10.0,
                "gamma": None,
                "cg_iterations": 1,
                "threshold": 0.004,
                "pure_noise": True,
            }
        },
    ),
    "dps": Solver("dps", "DpsSettings"),
    "flowchef": Solver("flowchef", "FlowChefSettings"),
    "pigdm": Solver("pigdm", "PigdmSettings"),
    "mmps": Solver("mmps", "MmpsSettings"),
    "stsl": Solver("stsl", "StslSettings", {"first_order": {"kappa": 0.0}}),
    "sitcom": Solver("sitcom", "SitcomSettings"),
    "dreamsampler": Solver(
        "dreamsampler",
        "DreamSamplerSettings",
        {
            "no_slice_term": {"tv": False},
            "huber": {"regulariser": "huber_3d"},
            "distillation": {"form": "distillation", "levels": 40},
        },
    ),
    "diffpir": Solver("diffpir", "DiffPirSettings"),
    "ddnm": Solver("ddnm", "DdnmSettings", {"noise_free": {"noise_aware": False}}),
    "daps": Solver("daps", "DapsSettings", {"paper": {"levels": 200, "ode_steps": 5, "r_scale": 1.0}}),
    "pnp_dm": Solver("pnp_dm", "PnpDmSettings"),
    "red_diff": Solver("red_diff", "RedDiffSettings"),
    "afdps": Solver("afdps", "AfdpsSettings", {"exact": {"form": "exact", "levels": 300, "sigma_min": 0.01}}),
    "ode": Solver(
        "ode",
        "OdeSettings",
        {
            "ddim": {"update": "ddim", "eta": 1.0},
            "evodiff": {"update": "evodiff"},
            "full": {"update": "full"},
            "dds": {"update": "dds", "eta": 0.85},
        },
    ),
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
