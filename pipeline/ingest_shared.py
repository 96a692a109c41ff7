"""What the takers of all kinds of series share: settings, the slab of slices, checks of values, source.json."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import InputError
from data.reasons import REASONS
from pipeline.settings import build, require_choice


@dataclass(frozen=True)
class IngestSettings:
    """slices: the half-open slab [first, last] to keep after sorting, or null for all."""

    modality: str = "ct"
    on_gap: str = "fail"
    on_tilt: str = "fail"
    slices: tuple[int, int] | None = None


def ingest_settings(section: dict[str, Any]) -> IngestSettings:
    """Settings from a config section. Raises InputError for unknown keys and values."""
    section = dict(section)
    slices = section.pop("slices", None)
    settings = build(IngestSettings, section, "ingest")
    require_choice(settings.modality, ("ct", "mr"), "ingest.modality")
    require_choice(settings.on_gap, ("fail",), "ingest.on_gap")
    require_choice(settings.on_tilt, ("fail",), "ingest.on_tilt")
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
