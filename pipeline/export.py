"""Stage `export`: volumes with BIDS-derivative-like names and JSON sidecars, and derived series for DICOM input.

    OUT/dataset_description.json
    OUT/sub-STUDY/ct|anat/sub-STUDY_acq-SERIES_rec-METHOD_desc-recon_ct.nii.gz + .json
    OUT/dicom/METHOD_reconstruction/IM0001.dcm ..., OUT/dicom/METHOD_std/IM0001.dcm ...

CT is not part of BIDS, so its names follow the grammar and claim no validity. Sidecars carry no path and nothing from
patient attributes.
"""

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from data.atomic import atomic_directory
from data.dicom_derived import RESEARCH_ONLY, SeriesText, Source, read_source, write_series
from data.errors import InputError
from data.nifti import read_volume, write_volume
from data.volume import Volume
from pipeline.cli import json_object, main_wrapper
from pipeline.paths import label

BIDS_VERSION = "1.11.1"
KEPT = (
    "method", "solver", "settings", "preset", "seed", "seeds", "samples", "levels", "interval", "half_width_factor",
    "chi2", "nfe", "network_calls", "seconds", "peak_mem_mb", "heldout_error", "units", "device", "prior", "sha256",
    "versions", "config_hash", "noise", "source", "spacing_mm", "shape_zyx",
)  # fmt: skip
STAGE_KEYS = ("modality", "baselines", "solvers", "cohort", "study", "series")


@dataclass(frozen=True)
class ExportSettings:
    """deidentify False keeps identifying attributes of patient and study in DICOM, for use inside a hospital."""

    dicom: bool = True
    deidentify: bool = True


@dataclass(frozen=True)
class Item:
    """One volume to export. entities: what stands between series and suffix. records: JSON files about it."""

    path: Path
    method: str
    entities: str
    what: str
    records: tuple[Path, ...]


def export_settings(section: dict[str, Any]) -> ExportSettings:
    """Settings from the JSON object, which may also name modality, methods and labels. InputError for other keys."""
    own = {key: value for key, value in section.items() if key not in STAGE_KEYS}
    for key, value in own.items():
        if key not in ("dicom", "deidentify") or not isinstance(value, bool):
            raise InputError(f"export.{key}: {value!r} is not understood; use dicom and deidentify, true or false.")
    return ExportSettings(**own)


def find_items(series_dir: Path, solvers: list[str] | None, baselines: list[str] | None) -> list[Item]:
    """The volumes of a series' results, in the order solvers, baselines; null lists mean whatever is there."""
    items = []
    for folder in _chosen(series_dir / "uncertainty", solvers, ""):
        run = series_dir / "reconstruct" / folder.name
        records = (run / "run.json", folder / "uncertainty.json")
        solver = folder.name
        items.append(Item(folder / "mean.nii.gz", solver, "desc-recon", "mean of the posterior samples", records))
        items.append(Item(folder / "std.nii.gz", solver, "stat-std_desc-uncertainty", "standard deviation", records))
        for path in sorted([*folder.glob("lower*.nii.gz"), *folder.glob("upper*.nii.gz")]):
            end = re.sub(r"[^A-Za-z0-9]", "p", path.name.removesuffix(".nii.gz"))
            what = f"{end[:5]} end of the interval"
            items.append(Item(path, solver, f"stat-{end}_desc-uncertainty", what, records))
        if (run / "point.nii.gz").is_file():
            items.append(Item(run / "point.nii.gz", solver, "desc-point", "point estimate", records[:1]))
    for path in _chosen(series_dir / "baseline", baselines, ".nii.gz"):
        method = path.name.removesuffix(".nii.gz")
        items.append(Item(path, method, "desc-baseline", "classical baseline", (path.with_name(f"{method}.json"),)))
    missing = [item.path for item in items if not item.path.is_file()]
    if missing:
        raise InputError(f"{missing[0]} is not there: run the stage that writes it first.")
    if not items:
        raise InputError(f"{series_dir} holds no reconstruction and no baseline: run those stages first.")
    return items


def export(series_dir: Path, ingested: Path, out: Path, settings: ExportSettings, section: dict[str, Any]) -> None:
    """Write OUT whole: NIfTI with sidecars, dataset_description.json, and DICOM where the source is DICOM."""
    solvers, baselines = section.get("solvers"), section.get("baselines")
    items = find_items(series_dir, solvers, baselines)
    source = _source(ingested)
    modality = _modality(section, source)
    study = label(section.get("study") or series_dir.parent.name)
    series = label(section.get("series") or series_dir.name)
    with atomic_directory(out) as folder:
        kind, suffix = ("ct", "ct") if modality == "ct" else ("anat", "MR")
        target = folder / f"sub-{study}" / kind
        stem = f"sub-{study}_acq-{series}"
        for item in items:
            rec = label(re.sub(r"[^A-Za-z0-9]", "", item.method))
            _write_nifti(item, target / f"{stem}_rec-{rec}_{item.entities}_{suffix}", modality)
        _write_json(folder / "dataset_description.json", _description())
        if settings.dicom and source is not None and source.get("kind") == "dicom":
            files = [(Path(entry["path"]), int(entry["frame"])) for entry in source["files"]]
            _write_dicom(items, folder / "dicom", read_source(files), settings)


def _chosen(folder: Path, names: list[str] | None, suffix: str) -> Iterator[Path]:
    if names is not None:
        yield from (folder / f"{name}{suffix}" for name in names)
    elif folder.is_dir():
        yield from (path for path in sorted(folder.iterdir()) if path.name.endswith(suffix) and path.name[0] != ".")


def _source(ingested: Path) -> dict[str, Any] | None:
    path = ingested / "source.json"
    if not path.is_file():
        return None
    return json_object(path.read_text(encoding="utf-8"), str(path))


def _modality(section: dict[str, Any], source: dict[str, Any] | None) -> str:
    modality = section.get("modality") or (source or {}).get("modality")
    if modality not in ("ct", "mr"):
        raise InputError("export.modality: give ct or mr in --settings.")
    return modality


def _write_nifti(item: Item, stem: Path, modality: str) -> None:
    volume = read_volume(item.path)
    if not np.isfinite(volume.array_zyx).all():
        raise InputError(f"{item.path} holds values that are not finite: run its stage again.", "nan")
    stem.parent.mkdir(parents=True, exist_ok=True)
    path = stem.with_name(f"{stem.name}.nii.gz")
    write_volume(path, volume.array_zyx, volume.affine, np.float32, f"{item.method}, {item.what}, research only")
    _write_json(stem.with_name(f"{stem.name}.json"), _sidecar(item, volume, path, modality))


def _sidecar(item: Item, volume: Volume, path: Path, modality: str) -> dict[str, Any]:
    return {
        "Description": f"{item.what}, {item.method}",
        "Units": "HU" if modality == "ct" else "arbitrary",
        "Modality": modality.upper(),
        "SpatialReference": "scanner",
        "VoxelSizeMmXYZ": [round(value, 6) for value in volume.spacing_mm[::-1]],
        "Shape": list(volume.shape[::-1]),
        "Sha256": sha256(path.read_bytes()).hexdigest(),
        "IntendedUse": RESEARCH_ONLY,
        "Provenance": {record.stem: _public(record) for record in item.records if record.is_file()},
    }


def _public(record: Path) -> dict[str, Any]:
    """The known keys of a stage's record, without anything that looks like a path."""
    content = json_object(record.read_text(encoding="utf-8"), str(record))
    return {key: _pathless(value) for key, value in content.items() if key in KEPT}


def _pathless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _pathless(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_pathless(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and "/" in value else value


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _description() -> dict[str, Any]:
    return {
        "Name": "sliceweave reconstruction",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "sliceweave", "Version": _version()}],
        "SourceDatasets": [],
    }


def _version() -> str:
    try:
        return version("sliceweave")
    except PackageNotFoundError:
        return "0.1.0"


def _write_dicom(items: list[Item], folder: Path, source: Source, settings: ExportSettings) -> None:
    """Two series for each solver: its mean and its standard deviation."""
    reconstructions = [item for item in items if item.entities == "desc-recon"]
    spreads = {item.method: item for item in items if item.entities.startswith("stat-std")}
    units = "HU" if source.modality == "ct" else "scanner units"
    for number, item in enumerate(reconstructions):
        name, mean = item.method, read_volume(item.path)
        text = SeriesText(
            "RECONSTRUCTION", f"RESEARCH ONLY {name} reconstruction",
            f"{RESEARCH_ONLY}. Mean of posterior samples, sliceweave {name}, from simulated undersampled measurements.",
            9001 + 10 * number, _window(source, mean.array_zyx),
        )  # fmt: skip
        write_series(folder / f"{name}_reconstruction", mean.array_zyx, mean.affine, source, text, settings.deidentify)
        std = read_volume(spreads[name].path)
        top = float(std.array_zyx.max())
        text = SeriesText(
            "STDDEV", f"RESEARCH ONLY {name} UNCERTAINTY STD ({units})",
            f"{RESEARCH_ONLY}. Standard deviation of posterior samples in {units}, sliceweave {name}.",
            9002 + 10 * number, (top / 2, top),
        )  # fmt: skip
        write_series(folder / f"{name}_std", std.array_zyx, std.affine, source, text, settings.deidentify)


def _window(source: Source, array: np.ndarray) -> tuple[float, float]:
    """The source's first window for CT, or a soft-tissue one; the middle 99 % for MR."""
    if source.modality == "mr":
        low, high = np.percentile(array, [0.5, 99.5])
        return float(low + high) / 2, float(high - low)
    values = []
    for keyword in ("WindowCenter", "WindowWidth"):
        value = source.header.get(keyword)
        value = value[0] if value is not None and not isinstance(value, str | int | float) and len(value) else value
        values.append(value)
    return (float(values[0]), float(values[1])) if all(isinstance(v, int | float) for v in values) else (40.0, 400.0)


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline.export", description="Write what viewers and PACS read.")
    parser.add_argument("--series-dir", type=Path, required=True, help="results of one series")
    parser.add_argument("--ingest", type=Path, required=True, help="the ingested series, with source.json")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; replaced whole")
    parser.add_argument("--settings", default="{}", help='JSON object: modality, {"dicom": true, "deidentify": true}')
    arguments = parser.parse_args(argv)
    section = json_object(arguments.settings)
    export(arguments.series_dir, arguments.ingest, arguments.out, export_settings(section), section)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
