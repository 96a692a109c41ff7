"""What the bench compares, with the settings that each rival is searched over on a training patient.

Ours has one default everywhere and is never searched. A solver that is registered but has no entry here takes part
with its defaults.
"""

import importlib.util
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.tasks import CT, MR, TASKS
from solvers.registry import SOLVERS

LEVELS = 10
BOTH = ("ct", "mr")
Grid = list[dict[str, Any]]


@dataclass(frozen=True)
class Method:
    """One row of the tables.

    kind     "classical", "ours" or "rival"
    solver   registered name of the classical method or sampler
    fixed    settings that the search does not touch
    search   settings to choose from, by modality; none: the solver's defaults
    coupling name in solvers.coupling.COUPLINGS
    spread   whether samples differ: else one run is all there is
    seconds  of one level (classical: of all) for a million voxels on one core, for the estimate of cost
    tier     importance: 0 goals and baselines, 1 chief rivals, 2 the rest
    """

    name: str
    kind: str
    solver: str
    fixed: dict[str, Any] = field(default_factory=dict)
    search: dict[str, Grid] = field(default_factory=dict)
    coupling: str = "none"
    modalities: tuple[str, ...] = BOTH
    spread: bool = True
    seconds: float = 1.5
    tier: int = 2

    def at_levels(self, levels: int) -> "Method":
        """The same method with another number of noise levels, as many network calls, named NAME-LEVELS."""
        one_path = {"paths": 1} if self.solver == "pam" else {}
        return replace(
            self, name=f"{self.name}-{levels}", fixed={**self.fixed, **one_path, "levels": levels}, spread=False
        )


def _grid(**values: list[Any]) -> Grid:
    """All combinations."""
    rows: Grid = [{}]
    for key, options in values.items():
        rows = [{**row, key: option} for row in rows for option in options]
    return rows


def _classical(name: str, seconds: float, search: dict[str, Grid]) -> Method:
    """A method without a network, for the modalities that it has a grid for."""
    return Method(name, "classical", name, {}, search, modalities=tuple(search), spread=False, seconds=seconds, tier=0)


def _rival(
    name: str,
    ct: Grid,
    mr: Grid,
    solver: str | None = None,
    fixed: dict[str, Any] | None = None,
    coupling: str = "none",
    spread: bool = True,
    seconds: float = 1.5,
    tier: int = 2,
) -> Method:
    """A sampler with LEVELS levels, registered as `solver` or by its own name."""
    settings = {"levels": LEVELS, **(fixed or {})}
    return Method(name, "rival", solver or name, settings, {"ct": ct, "mr": mr}, coupling, BOTH, spread, seconds, tier)


DDS_CT = _grid(gamma=[30.0, 100.0, 300.0, 1000.0])
DDS_MR = _grid(gamma=[1.0, 3.0, 10.0, 30.0, 100.0])

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("pam_point", "ours", "pam", {"mode": "point"}, spread=False, seconds=8.0, tier=0),
        Method("pam", "ours", "pam", {"mode": "sample"}, seconds=4.0, tier=0),
        _classical("fbp", 0.2, {"ct": [{"filter": "ramlak"}, {"filter": "hann"}, {"filter": "hann", "cutoff": 0.5}]}),
        _classical("cgls", 0.7, {"ct": _grid(iterations=[10, 20, 40, 80])}),
        _classical("zero_filled", 0.2, {"mr": [{}]}),
        _classical("cg_sense", 3.0, {"mr": _grid(weight=[1e-4, 1e-3, 1e-2, 1e-1])}),
        _classical("wavelet", 11.0, {"mr": _grid(weight=[10.0, 30.0, 100.0, 300.0])}),
        _classical(
            "tv",
            25.0,
            {"ct": _grid(weight=[0.5, 1.0, 2.0, 4.0, 8.0]), "mr": _grid(weight=[2.5, 5.0, 10.0, 20.0, 40.0])},
        ),
        _rival("dds", DDS_CT, DDS_MR, tier=1),
        _rival(
            "dds_tv",
            _grid(gamma=[300.0, 1000.0], threshold=[0.002, 0.005, 0.01, 0.02, 0.04]),
            _grid(gamma=[10.0, 30.0, 100.0], threshold=[0.01, 0.03, 0.06, 0.1]),
            solver="dds",
            fixed={"tv": True},
            tier=1,
        ),
        _rival(
            "dds_slerp",
            DDS_CT[1:],
            DDS_MR[1:4],
            solver="dds",
            coupling="slerp",
            tier=1,
        ),
        _rival(
            "diffusion_mbir",
            _grid(gamma=[300.0, 1000.0], threshold=[0.001, 0.004, 0.01, 0.02, 0.04]),
            _grid(gamma=[10.0, 30.0, 100.0], threshold=[0.01, 0.03, 0.06, 0.1]),
            seconds=1.7,
            tier=1,
        ),
        _rival(
            "dreamsampler",
            _grid(data_weight=[300.0, 1000.0, 3000.0]),
            _grid(data_weight=[3.0, 10.0, 30.0, 100.0]),
            seconds=1.6,
        ),
        _rival(
            "dreamsampler_distillation",
            _grid(data_weight=[30.0, 100.0, 300.0]),
            _grid(data_weight=[3.0, 10.0, 30.0]),
            solver="dreamsampler",
            fixed={"form": "distillation", "levels": 20},
            spread=False,
        ),
        *(
            _rival(f"dds_{coupling}", DDS_CT[1:], DDS_MR[1:4], solver="dds", coupling=coupling)
            for coupling in ("ar1", "quadratic", "perpendicular", "regrouped")
        ),
        *(
            _rival(f"ode_{update}", [{}], [{}], solver="ode", fixed={"update": update}, spread=False)
            for update in ("dpmpp_2m", "evodiff")
        ),
        _rival("afdps", [{}], [{}], seconds=15.0),
        _rival(
            "diffpir",
            _grid(penalty=[0.1, 0.3, 0.5, 1.0]),
            _grid(penalty=[0.1, 0.2, 0.3, 1.0]),
            fixed={"zeta": 1.0},
        ),
        _rival("ddnm", _grid(cg_iterations=[5, 10, 20, 40]), _grid(cg_iterations=[2, 3, 5, 10])),
        _rival("daps", *2 * [_grid(r_scale=[0.2, 0.3, 0.5, 1.0])], fixed={"ode_steps": 2}, seconds=3.0),
        _rival("pnp_dm", *2 * [_grid(sigma_min=[0.02, 0.03, 0.05, 0.08, 0.12])], fixed={"sde_steps": 2}, seconds=3.0),
        _rival(
            "red_diff",
            _grid(step=[0.01, 0.02], weight=[0.01, 0.03]),
            _grid(step=[0.01, 0.02], weight=[0.1, 0.3]),
            fixed={"levels": 50},
            spread=False,
        ),
        _rival("dps", *2 * [_grid(zeta=[0.01, 0.02, 0.05])], fixed={"levels": 30}, seconds=4.5),
        _rival("flowchef", _grid(descents=[30, 100, 300]), _grid(descents=[1, 3, 10, 30]), seconds=2.0),
        _rival("pigdm", *2 * [_grid(guidance=[1.5, 3.0, 5.0, 8.0])], fixed={"levels": 15}, seconds=4.5),
        _rival("mmps", *2 * [_grid(cg_iterations=[3, 5])], seconds=16.0),
        _rival("stsl", *2 * [_grid(kappa=[0.0, 0.1])], fixed={"inner_steps": 2}, seconds=15.0),
        _rival("sitcom", *2 * [_grid(learning_rate=[0.01, 0.02, 0.05])], fixed={"levels": 8}, seconds=22.0),
    )
}


def methods() -> dict[str, Method]:
    """All methods that can run: those above whose solver and coupling are there, then every other registered solver."""
    couplings = importlib.util.find_spec("solvers.coupling") is not None
    found = {
        name: method
        for name, method in METHODS.items()
        if (method.kind == "classical" or method.solver in SOLVERS) and (method.coupling == "none" or couplings)
    }
    known = {method.solver for method in METHODS.values()}
    for name in SOLVERS:
        if name not in known:
            found[name] = Method(name, "rival", name)
    return found


# The measurements of the two chief tasks, for the other benchmarks.
MEASURE: dict[str, dict[str, Any]] = {
    "ct": CT | TASKS["ct30"].settings,
    "mr": MR | TASKS["mr4"].settings,
}
