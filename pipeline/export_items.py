"""What an export is asked for: its settings, and the volumes of a series' results."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.errors import InputError

EXTRA_SERIES = ("std", "parametric_map", "point", "lower", "upper", "baseline")
MAPS = {
    "support": "share of the detail that the data measured",
    "flag": "probability of a wrong structure",
    "unsupported": "detail that the data do not hold over its standard deviation",
}
# Not settings of the stage: what the plan says about the series beside them.
STAGE_KEYS = ("modality", "baselines", "solvers", "cohort", "study", "series", "config_hash")


@dataclass(frozen=True)
class ExportSettings:
    """deidentify: true, or "keep" (false means the same) for the patient and study as they are, inside a hospital.

    key_file: of the pseudonyms; looked up from the working directory. dicom_series: beside the reconstruction.
    """

    dicom: bool = True
    deidentify: bool | str = True
    key_file: str = ".deidentify.key"
    dicom_series: tuple[str, ...] = ("std", "parametric_map")

    @property
    def keeps_identity(self) -> bool:
        return self.deidentify is not True


@dataclass(frozen=True)
class Item:
    """One volume to export. kind: recon, std, lower, upper, point, baseline, or map for others. entities: what stands
    between series and suffix in names. folder: end of the DICOM folder's name. ratio: values without unit."""

    path: Path
    method: str
    kind: str
    entities: str
    what: str
    folder: str = ""
    ratio: bool = False


def export_settings(section: dict[str, Any]) -> ExportSettings:
    """Settings from the JSON object, which may also name modality, methods and labels. InputError for other keys."""
    own = {key: value for key, value in section.items() if key not in STAGE_KEYS}
    allowed = {
        "dicom": lambda value: isinstance(value, bool),
        "deidentify": lambda value: isinstance(value, bool) or value == "keep",
        "key_file": lambda value: isinstance(value, str) and value.strip() != "",
        "dicom_series": lambda value: isinstance(value, list) and all(name in EXTRA_SERIES for name in value),
    }
    for key, value in own.items():
        if key not in allowed:
            raise InputError(f"export.{key}: no such setting; use {', '.join(allowed)}.")
        if not allowed[key](value):
            choices = f"a list of {', '.join(EXTRA_SERIES)}" if key == "dicom_series" else "true or false"
            choices = {"deidentify": "true or keep", "key_file": "a path"}.get(key, choices)
            raise InputError(f"export.{key}: {value!r} is not understood; use {choices}.")
    settings = ExportSettings(**own)
    return replace(settings, dicom_series=tuple(settings.dicom_series))


def find_items(series_dir: Path, solvers: list[str] | None, baselines: list[str] | None) -> list[Item]:
    """The volumes of a series' results, in the order solvers, baselines; null lists mean whatever is there."""
    items = []
    for folder in _chosen(series_dir / "uncertainty", solvers, ""):
        items += _of_solver(folder, series_dir / "reconstruct" / folder.name / "point.nii.gz")
    for path in _chosen(series_dir / "baseline", baselines, ".nii.gz"):
        method = path.name.removesuffix(".nii.gz")
        items.append(Item(path, method, "baseline", "desc-baseline", "classical baseline"))
    missing = [item.path for item in items if not item.path.is_file()]
    if missing:
        raise InputError(f"{missing[0]} is not there: run the stage that writes it first.")
    if not items:
        raise InputError(f"{series_dir} holds no reconstruction and no baseline: run those stages first.")
    return items


def _of_solver(folder: Path, point: Path) -> Iterator[Item]:
    method, entities = folder.name, "stat-{}_desc-uncertainty"
    what = "mean of the posterior samples"
    yield Item(folder / "mean.nii.gz", method, "recon", "desc-recon", what, "reconstruction")
    what = "standard deviation of the posterior samples"
    yield Item(folder / "std.nii.gz", method, "std", entities.format("std"), what, "std")
    for path in sorted([*folder.glob("lower*.nii.gz"), *folder.glob("upper*.nii.gz")]):
        name = path.name.removesuffix(".nii.gz")
        end = re.sub(r"[^A-Za-z0-9]", "p", name)
        yield Item(path, method, name[:5], entities.format(end), f"{name[:5]} end of the {name[5:]} % interval", end)
    for path in sorted(folder.glob("conformal_*.nii.gz")):
        end = re.sub(r"[^A-Za-z0-9]", "", path.name.removesuffix(".nii.gz"))
        yield Item(path, method, "map", entities.format(end), "end of the conformal interval")
    for name, what in MAPS.items():
        if (folder / f"{name}.nii.gz").is_file():
            yield Item(folder / f"{name}.nii.gz", method, "map", f"desc-{name}", what, ratio=True)
    if point.is_file():
        yield Item(point, method, "point", "desc-point", "point estimate", "point")


def _chosen(folder: Path, names: list[str] | None, suffix: str) -> Iterator[Path]:
    if names is not None:
        yield from (folder / f"{name}{suffix}" for name in names)
    elif folder.is_dir():
        yield from (path for path in sorted(folder.iterdir()) if path.name.endswith(suffix) and path.name[0] != ".")
