"""Stage `export`: what viewers and archives read, with provenance and checksums.

    OUT/README, OUT/dataset_description.json, OUT/SHA256SUMS
    OUT/sub-STUDY/ct|anat/sub-STUDY_acq-SERIES_rec-METHOD_desc-recon_ct.nii.gz + .json
    OUT/dicom/METHOD_reconstruction/IM0001.dcm ...   for DICOM input; pipeline.export_dicom lists the folders
    OUT/viewers/                                     files that open the export in desktop viewers

CT is not part of BIDS, so its names follow the grammar and claim no validity. Sidecars carry no path and nothing from
patient attributes.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data.atomic import atomic_directory
from data.dicom_derived import RESEARCH_ONLY, SILENT_BYTES, Source
from data.errors import InputError
from data.nifti import read_volume, write_volume
from data.volume import Volume
from pipeline import provenance
from pipeline.cli import json_object, main_wrapper
from pipeline.ct_attenuation import PER_MM, as_attenuation, level_per_mm
from pipeline.export_dicom import Plan, face_warning, identity_of, source_of, window, write_dicom
from pipeline.export_items import ExportSettings, Item, export_settings, find_items
from pipeline.measurement import file_digest
from pipeline.paths import label
from pipeline.viewers import Layer, shown_range, write_viewers

BIDS_VERSION = "1.11.1"
README = f"""{RESEARCH_ONLY}.

A reconstruction with its uncertainty, by sliceweave: volumes as NIfTI with a JSON beside each, DICOM series where the
source was DICOM, and files that open them in viewers (viewers/README.txt). dataset_description.json says from what and
how they were made; sha256sum -c SHA256SUMS tells whether they are as they were written.
"""


def export(
    series_dir: Path, ingested: Path, out: Path, settings: ExportSettings, section: dict[str, Any],
    benchmarks: Path | None = None,
) -> None:  # fmt: skip
    """Write OUT whole: NIfTI with sidecars, dataset_description.json, viewers' files, and DICOM for DICOM sources."""
    items = find_items(series_dir, section.get("solvers"), section.get("baselines"))
    record = _source(ingested)
    modality = _modality(section, record)
    facts = provenance.gather(series_dir, ingested, section, benchmarks)
    source = source_of(record) if settings.dicom else None

    def warn(text: str) -> None:
        print(f"export: {text}")

    face = face_warning(source, settings)
    if face is not None:
        warn(face)
    facts["Warnings"] = [*facts["Warnings"], *([face] if face else [])]
    with atomic_directory(out) as folder:
        layers = _write_niftis(items, folder, section, (series_dir, modality), facts, source)
        if source is not None:
            plan = Plan(source, identity_of(settings, warn), settings, facts, series_dir)
            write_dicom(items, folder / "dicom", plan)
        write_viewers(folder, layers, RESEARCH_ONLY)
        (folder / "README").write_text(README, encoding="utf-8")
        _write_json(folder / "dataset_description.json", _description(items, series_dir, facts))
        provenance.write_sums(folder, [path for path in folder.rglob("*") if path.is_file()])


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


def _write_niftis(
    items: list[Item], folder: Path, section: dict[str, Any], about: tuple[Path, str], facts: dict[str, Any],
    source: Source | None,
) -> list[Layer]:  # fmt: skip
    """Every item as NIfTI with its sidecar; what viewers need to know of each."""
    series_dir, modality = about
    study = label(section.get("study") or series_dir.parent.name)
    series = label(section.get("series") or series_dir.name)
    kind, suffix = ("ct", "ct") if modality == "ct" else ("anat", "MR")
    target = folder / f"sub-{study}" / kind
    target.mkdir(parents=True)
    layers = []
    size = sum(item.path.stat().st_size for item in items)
    level = level_per_mm(series_dir) if modality == "ct" else None
    for item in tqdm(items, desc="volumes", unit="volume", disable=size < SILENT_BYTES):
        rec = label(re.sub(r"[^A-Za-z0-9]", "", item.method))
        name = f"sub-{study}_acq-{series}_rec-{rec}_{item.entities}_{suffix}"
        volume = read_volume(item.path)
        if not np.isfinite(volume.array_zyx).all():
            raise InputError(f"{item.path} holds values that are not finite: run its stage again.", "nan")
        if level is not None and not item.ratio:
            volume = as_attenuation(volume, level, item.kind in ("std", "map"))
        path = target / f"{name}.nii.gz"
        write_volume(path, volume.array_zyx, volume.affine, np.float32, f"{item.method}, {item.what}, research only")
        _write_json(target / f"{name}.json", _sidecar(item, volume, path, modality, facts, series_dir))
        layers.append(_layer(item, volume, path.relative_to(folder).as_posix(), source, modality, level))
    return layers


def _layer(
    item: Item, volume: Volume, path: str, source: Source | None, modality: str, level: float | None
) -> Layer:
    array = volume.array_zyx
    if item.ratio:
        return Layer(path, f"{item.method} {item.entities.removeprefix('desc-')}", (0.0, 1.0), "other")
    shown = (40.0, 400.0) if source is None and modality == "ct" else window(source, array)
    shown = shown if level is None else (level, level)
    top = float(np.percentile(array, 99.9)) if item.kind == "std" else 0.0
    role = item.kind if item.kind in ("recon", "std") else "other"
    names = {"recon": "reconstruction", "std": "standard deviation", "point": "point estimate"}
    name = f"{item.method} {names.get(item.kind, item.kind if item.kind != 'map' else item.what)}"
    return Layer(path, name, shown_range(role, shown, top), role)


def _sidecar(
    item: Item, volume: Volume, path: Path, modality: str, facts: dict[str, Any], series_dir: Path
) -> dict[str, Any]:
    units = "HU" if modality == "ct" else "arbitrary"
    units = units if modality != "ct" or level_per_mm(series_dir) is None else PER_MM
    return {
        "Description": f"{item.what}, {item.method}",
        "Units": "1" if item.ratio else units,
        "Modality": modality.upper(),
        "SpatialReference": "scanner",
        "VoxelSizeMmXYZ": [round(value, 6) for value in volume.spacing_mm[::-1]],
        "Shape": list(volume.shape[::-1]),
        "Sha256": file_digest(path),
        "IntendedUse": RESEARCH_ONLY,
        "Provenance": facts | {"Reconstruction": provenance.of_method(series_dir, item.method)},
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _description(items: list[Item], series_dir: Path, facts: dict[str, Any]) -> dict[str, Any]:
    methods = dict.fromkeys(item.method for item in items)
    runs = {method: provenance.of_method(series_dir, method) for method in methods}
    software = facts["Software"]
    made = {"Name": software["Name"], "Version": software["Version"], "Description": RESEARCH_ONLY}
    return {
        "Name": "sliceweave reconstruction",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [made | {"Provenance": facts | {"Reconstructions": runs}}],
        "SourceDatasets": [],
    }


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline.export", description="Write what viewers and PACS read.")
    parser.add_argument("--series-dir", type=Path, required=True, help="results of one series")
    parser.add_argument("--ingest", type=Path, required=True, help="the ingested series, with source.json")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; replaced whole")
    parser.add_argument("--settings", default="{}", help='JSON object: modality, {"dicom": true, "deidentify": true}')
    parser.add_argument("--benchmarks", type=Path, help="Snakemake's benchmarks of the series, for times")
    arguments = parser.parse_args(argv)
    section = json_object(arguments.settings)
    settings = export_settings(section)
    export(arguments.series_dir, arguments.ingest, arguments.out, settings, section, arguments.benchmarks)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
