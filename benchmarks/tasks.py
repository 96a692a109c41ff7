"""What the bench measures: named tasks, each a `measure` section on a slab of a volume that no prior has seen."""

from dataclasses import dataclass
from typing import Any

CT = {"noise_of_largest_ray": 0.01, "working_matrix": None}
MR = {"coils": 8, "mask": "random_1d", "calibration_fraction": 0.08, "noise_fraction": 0.01, "working_spacing_mm": 0.86}

# Half-open ranges of axial slices; a smaller slab is taken from their middle.
SLABS = {"ct": (96, 160), "mr": (200, 264)}
TUNING_SLABS = {"ct": (43, 51), "mr": (18, 24)}
# Millions of voxels of one slice on the working grid of the benchmark volumes.
MEGAVOXELS = {"ct": 0.0655, "mr": 0.0667}


@dataclass(frozen=True)
class Task:
    """settings: keys of the modality's `measure` section. tuned_as: whose search serves where this task has none."""

    name: str
    modality: str
    title: str
    settings: dict[str, Any]
    tuned_as: tuple[str, ...] = ()

    def section(self, seed: int) -> dict[str, Any]:
        """The `measure` section with the seed of noise, mask and coils."""
        base = CT if self.modality == "ct" else MR
        return {"modality": self.modality, **base, **self.settings, "seed": seed}


def _ct(name: str, title: str, settings: dict[str, Any], *tuned_as: str) -> Task:
    return Task(name, "ct", title, settings, (*tuned_as, "ct30"))


def _mr(name: str, title: str, settings: dict[str, Any], *tuned_as: str) -> Task:
    return Task(name, "mr", title, settings, (*tuned_as, "mr4"))


# Tasks that goals are set for; their chief rivals run before the other tasks.
GOAL_TASKS = ("ct30", "mr4", "ct8", "ct_la90", "mr8")
FEW_LINES = {"calibration_fraction": 0.04}
DISC = {"mask": "poisson_disc_2d"}

# In order of importance.
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        _ct("ct30", "CT, 30 parallel views over 180 degrees", {"views": 30}),
        _mr("mr4", "MR, every 4th line on average, 8 coils", {"acceleration": 4}),
        _ct("ct8", "CT, 8 views", {"views": 8}),
        _ct("ct_la90", "CT, 90 degrees, a view every 2 degrees", {"views": 45, "range_deg": 90.0}, "ct_la120"),
        _mr("mr8", "MR, every 8th line on average, 8 coils", {"acceleration": 8, **FEW_LINES}),
        _ct("ct60", "CT, 60 views", {"views": 60}),
        _ct("ct15", "CT, 15 views", {"views": 15}, "ct8"),
        _ct("ct_lowdose", "CT, 30 views, a quarter of the photons", {"views": 30, "noise_of_largest_ray": 0.02}),
        _ct("ct_la120", "CT, 120 degrees, a view every 2 degrees", {"views": 60, "range_deg": 120.0}, "ct_la90"),
        _ct("ct_fan", "CT, 30 fan-beam views over 360 degrees", {"views": 30, "beam": "fan", "range_deg": 360.0}),
        _mr("mr12", "MR, every 12th line on average, 8 coils", {"acceleration": 12, **FEW_LINES}, "mr8"),
        _mr("mr4_2d", "MR, every 4th point of a 2D Poisson disc, 8 coils", {"acceleration": 4, **DISC}),
        _mr("mr8_2d", "MR, every 8th point of a 2D Poisson disc, 8 coils", {"acceleration": 8, **DISC}, "mr4_2d"),
        _mr("mr4_1coil", "MR, every 4th line on average, one coil", {"acceleration": 4, "coils": 1}),
        _mr("mr8_1coil", "MR, every 8th line, one coil", {"acceleration": 8, "coils": 1, **FEW_LINES}, "mr4_1coil"),
    )
}
