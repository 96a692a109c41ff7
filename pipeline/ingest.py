"""Stage `ingest`: reads the series of one study folder into canonical volumes and k-space, with a manifest.

A study is refused (one sentence, status 1, nothing written) when no series can be taken, or when a series of the
cohort's modality is damaged. Other objects, such as localizers and reports, are left out with a row in the manifest.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from data.atomic import atomic_directory
from data.dicom_pixels import read_pixels
from data.dicom_series import arrange
from data.errors import InputError
from data.kspace import read_kspace
from data.nifti import read_volume, write_volume
from data.reasons import REASONS
from data.study import Finding, find_series
from data.volume import Volume, slab
from pipeline.cli import json_object, main_wrapper
from pipeline.measurement import file_digest, write_tensors
from pipeline.paths import label
from pipeline.settings import build, require_choice

COLUMNS = ("series", "modality", "kind", "accepted", "reason", "detail", "files", "shape_zyx", "spacing_mm", "warnings")
AIR_BELOW_HU = -500


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


def ingest(study: Path, out: Path, settings: IngestSettings) -> list[dict[str, Any]]:
    """Write OUT whole: one folder a series, manifest.json and manifest.tsv. Returns the manifest's rows."""
    findings = find_series(study)
    with atomic_directory(out) as folder:
        rows, errors = [], []
        for finding in findings:
            row, error = _take(finding, folder, settings, study)
            rows.append(row)
            errors += [error] if error is not None else []
        _refuse_study(study, rows, errors, settings)
        manifest = {"study": label(study.name or study.resolve().name), "series": rows}
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        (folder / "manifest.tsv").write_text(_table(rows), encoding="utf-8")
    return rows


def _take(
    finding: Finding, folder: Path, settings: IngestSettings, study: Path
) -> tuple[dict[str, Any], InputError | None]:
    """(manifest row, error or None); the series is written to FOLDER/<series> if it can be taken."""
    modality = finding.modality or settings.modality
    series = label(finding.name)
    row = {"series": series, "modality": modality, "kind": "kspace" if finding.kind == "kspace" else "volume"}
    row |= {"accepted": False, "reason": "", "detail": "", "files": len(finding.files), "warnings": []}
    try:
        if finding.modality and finding.modality != settings.modality:
            raise InputError(REASONS["other-modality"].text, "other-modality")
        if finding.error is not None:
            raise finding.error
        reader = {"dicom": _dicom, "nifti": _nifti, "kspace": _kspace}[finding.kind]
        taken = reader(finding, folder / series, settings)
    except InputError as error:
        reason = error.reason or "undecodable"
        row |= {"reason": reason, "detail": REASONS[reason].text}
        if finding.kind == "other":
            row["modality"] = ""
        return row, InputError(_sentence(error, series, study), reason)
    return row | taken | {"accepted": True, "source_hash": _hash(finding.files)}, None


def _sentence(error: InputError, series: str, study: Path) -> str:
    """An error that names its file, or one that says which series of which study it is about."""
    text = str(error)
    if text != REASONS[error.reason or "undecodable"].text:
        return text
    return f"{study}: series {series} cannot be used because of {text}; repair or remove it."


def _dicom(finding: Finding, folder: Path, settings: IngestSettings) -> dict[str, Any]:
    frames, affine = arrange(finding.frames)
    first, last = _slab(settings.slices, len(frames))
    volume = slab(Volume.from_affine(np.empty((len(frames), 0, 0)), affine), first, last)
    frames = frames[first:last]
    volume = replace(volume, array_zyx=read_pixels(frames))
    _write(volume, folder, "HU" if finding.modality == "ct" else "scanner units")
    files = [{"path": str(frame.path.resolve()), "frame": frame.index} for frame in frames]
    _write_source(folder, {"kind": "dicom", "modality": finding.modality, "files": files})
    places = len({frame.frame_of_reference for frame in frames})
    warnings = [f"the slices name {places} frames of reference; taken as one"] if places > 1 else []
    return _describe(volume) | {"warnings": warnings}


def _nifti(finding: Finding, folder: Path, settings: IngestSettings) -> dict[str, Any]:
    volume = read_volume(finding.files[0], closest_ras=True)
    volume = slab(volume, *_slab(settings.slices, volume.shape[0]))
    _write(volume, folder, "HU" if settings.modality == "ct" else "scanner units")
    _write_source(folder, {"kind": "nifti", "files": [{"path": str(finding.files[0].resolve())}]})
    warnings = []
    if volume.meta["orientation"] == "unknown":
        warnings.append("the header does not say how the volume lies in the patient")
    if settings.modality == "ct" and volume.array_zyx.min() > AIR_BELOW_HU:
        warnings.append("no value is as low as air: check that the volume is in HU")
    return _describe(volume) | {"warnings": warnings}


def _kspace(finding: Finding, folder: Path, settings: IngestSettings) -> dict[str, Any]:
    kspace = read_kspace(finding.files[0])
    first, last = _slab(settings.slices, kspace.array.shape[0])
    array = kspace.array[first:last]
    _check_values(array)
    affine = kspace.affine.copy()
    affine[:3, 3] += affine[:3, 2] * first
    slices, coils, rows, columns = array.shape
    described = {"slices": slices, "coils": coils, "shape_zyx": [slices, rows, columns]}
    described["spacing_mm"] = list(kspace.spacing_mm)
    metadata = described | {"modality": "mr", "affine": affine.tolist()}
    folder.mkdir()
    write_tensors(folder / "kspace.safetensors", {"kspace": array}, metadata)
    _write_source(folder, {"kind": "kspace", "files": [{"path": str(finding.files[0].resolve())}]})
    return described


def _slab(slices: tuple[int, int] | None, count: int) -> tuple[int, int]:
    if slices is None:
        return 0, count
    if slices[1] > count:
        raise InputError(f"ingest.slices: {list(slices)} asks for more than {count} slices; correct it.", "slices")
    return slices


def _check_values(array: np.ndarray) -> None:
    if not np.isfinite(array).all():
        raise InputError(REASONS["nan"].text, "nan")
    if (array == array.flat[0]).all():
        raise InputError(REASONS["constant"].text, "constant")


def _write(volume: Volume, folder: Path, units: str) -> None:
    """FOLDER/volume.nii.gz, int16 where that loses nothing, else float32."""
    array = volume.array_zyx
    _check_values(array)
    whole = np.abs(array).max() < 2**15 - 1 and bool((array == np.rint(array)).all())
    folder.mkdir()
    write_volume(folder / "volume.nii.gz", array, volume.affine, np.int16 if whole else np.float32, units)


def _write_source(folder: Path, source: dict[str, Any]) -> None:
    (folder / "source.json").write_text(json.dumps(source, indent=1) + "\n", encoding="utf-8")


def _describe(volume: Volume) -> dict[str, Any]:
    spacing_mm = [round(value, 6) for value in volume.spacing_mm]
    return {"slices": volume.shape[0], "shape_zyx": list(volume.shape), "spacing_mm": spacing_mm}


def _hash(files: tuple[Path, ...]) -> str:
    """SHA-256 over the SHA-256s of the files' contents, in an order that does not depend on their names."""
    return sha256("".join(sorted(file_digest(path) for path in files)).encode()).hexdigest()


def _refuse_study(study: Path, rows: list, errors: list[InputError], settings: IngestSettings) -> None:
    damaged = [error for error in errors if REASONS[error.reason].damage]
    if damaged:
        more = f" (and {len(damaged) - 1} more such)" if len(damaged) > 1 else ""
        raise InputError(f"{damaged[0]}{more}", damaged[0].reason)
    if any(row["accepted"] for row in rows):
        return
    kind = settings.modality.upper()
    if not rows:
        raise InputError(f"{study}: no series found; give a folder with {kind} images as DICOM or NIfTI, or k-space.")
    found = ", ".join(sorted({row["detail"] for row in rows}))
    raise InputError(f"{study}: no {kind} series can be used, only {found}; give a folder with {kind} images.")


def _table(rows: list[dict[str, Any]]) -> str:
    def cell(value: Any) -> str:
        if isinstance(value, list):
            return "; ".join(map(str, value)) if value and isinstance(value[0], str) else "x".join(map(str, value))
        return str(value).lower() if isinstance(value, bool) else str(value)

    lines = ["\t".join(cell(row.get(column, "")) for column in COLUMNS) for row in rows]
    return "\n".join(["\t".join(COLUMNS), *lines]) + "\n"


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline.ingest", description="Read the series of one study.")
    parser.add_argument("--study", type=Path, required=True, help="folder of one study")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; replaced whole")
    parser.add_argument("--settings", default="{}", help="JSON object: modality, on_gap, on_tilt, slices")
    arguments = parser.parse_args(argv)
    settings = ingest_settings(json_object(arguments.settings))
    for row in ingest(arguments.study, arguments.out, settings):
        print(f"{row['series']}: {'taken' if row['accepted'] else 'left out, ' + row['detail']}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
