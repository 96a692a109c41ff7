"""What the takers of all kinds of series share: settings, the slab of slices, checks of values, source.json."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.dicom_stack import Policies
from data.errors import InputError
from data.reasons import REASONS
from data.volume import DIRECTIONS
from pipeline.settings import build, require_choice, require_range

BYTES_A_VOXEL = 4


@dataclass(frozen=True)
class IngestSettings:
    """on_gap, on_tilt, on_repeat, max_repeats: as data.dicom_stack.Policies says.

    slice_direction: native keeps the direction in which the scanner stacked the slices; axial, coronal and sagittal
    choose which way the volume is cut into slices, without resampling. slices: the half-open slab [first, last] to keep
    after that, or null for all. max_volume_gb: the largest volume, as 4 bytes a voxel.
    """

    modality: str = "ct"
    on_gap: str = "fail"
    on_tilt: str = "fail"
    on_repeat: str = "split"
    max_repeats: int = 4
    slice_direction: str = "native"
    max_volume_gb: float = 4.0
    slices: tuple[int, int] | None = None

    @property
    def policies(self) -> Policies:
        return Policies(self.on_gap, self.on_tilt, self.on_repeat, self.max_repeats)

    @property
    def max_voxels(self) -> int:
        return int(self.max_volume_gb * 1e9) // BYTES_A_VOXEL


def ingest_settings(section: dict[str, Any]) -> IngestSettings:
    """Settings from a config section. Raises InputError for unknown keys and values."""
    section = dict(section)
    slices = section.pop("slices", None)
    settings = build(IngestSettings, section, "ingest")
    require_choice(settings.modality, ("ct", "mr"), "ingest.modality")
    require_choice(settings.on_gap, ("fail", "split", "interpolate"), "ingest.on_gap")
    require_choice(settings.on_tilt, ("fail", "resample"), "ingest.on_tilt")
    require_choice(settings.on_repeat, ("split", "fail"), "ingest.on_repeat")
    require_choice(settings.slice_direction, ("native", *DIRECTIONS), "ingest.slice_direction")
    require_range(settings.max_repeats, 2, 10_000, "ingest.max_repeats")
    require_range(settings.max_volume_gb, 0.001, 1000, "ingest.max_volume_gb")
    if slices is None:
        return settings
    whole = isinstance(slices, list) and len(slices) == 2 and all(type(value) is int for value in slices)
    if not whole or not 0 <= slices[0] < slices[1]:
        raise InputError(f"ingest.slices: {slices!r} is not [first, last] with 0 <= first < last; correct it.")
    return replace(settings, slices=(slices[0], slices[1]))


def slab_of(slices: tuple[int, int] | None, count: int) -> tuple[int, int]:
    """[first, last) of COUNT slices. Raises InputError "slices" where there are fewer."""
    if slices is None:
        return 0, count
    if slices[1] > count:
        raise InputError(f"ingest.slices: {list(slices)} asks for more than {count} slices; correct it.", "slices")
    return slices


def check_values(array: np.ndarray) -> None:
    """Raises InputError "nan" or "constant"."""
    if not np.isfinite(array).all():
        raise InputError(REASONS["nan"].text, "nan")
    if (array == array.flat[0]).all():
        raise InputError(REASONS["constant"].text, "constant")


def write_source(folder: Path, source: dict[str, Any]) -> None:
    """FOLDER/source.json: where each slice came from."""
    (folder / "source.json").write_text(json.dumps(source, indent=1) + "\n", encoding="utf-8")
