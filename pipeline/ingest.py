"""Stage `ingest`: reads the series of one study folder into canonical volumes and k-space, with a manifest.

A study is refused (one sentence, status 1, nothing written) when no series can be taken, or when a series of the
cohort's modality is damaged. Other objects, such as localizers and reports, are left out with a row in the manifest.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from data.atomic import atomic_directory
from data.errors import InputError
from data.reasons import REASONS
from data.study import Finding, find_series
from pipeline.cli import json_object, main_wrapper
from pipeline.ingest_kspace import take_kspace
from pipeline.ingest_projections import take_projections
from pipeline.ingest_shared import IngestSettings, ingest_settings
from pipeline.ingest_volume import take_dicom, take_metaimage, take_nifti, take_nrrd
from pipeline.measurement import file_digest
from pipeline.paths import label
from pipeline.unchanged import unchanged

COLUMNS = ("series", "modality", "kind", "accepted", "reason", "detail", "files", "shape_zyx", "spacing_mm",
           "slice_direction", "interpolated", "resampled", "warnings")  # fmt: skip

Taker = Callable[[Finding, Path, IngestSettings], dict[str, Any]]
# For each kind of finding of data.study: what writes the series' folder and returns the manifest's fields, among them
# slices, shape_zyx and spacing_mm; it raises InputError with a code of data.reasons.
TAKERS: dict[str, Taker] = {
    "dicom": take_dicom,
    "nifti": take_nifti,
    "nrrd": take_nrrd,
    "metaimage": take_metaimage,
    "kspace": take_kspace,
    "projections": take_projections,
}
# What the next stages find in a series' folder, where that is not called as the finding is.
MANIFEST_KIND = dict.fromkeys(("dicom", "nifti", "nrrd", "metaimage", "other"), "volume")
ARCHIVES = (".zip", ".7z", ".rar", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".iso")


def ingest(study: Path, out: Path, settings: IngestSettings) -> list[dict[str, Any]]:
    """Write OUT whole: one folder a series, manifest.json and manifest.tsv. Returns the manifest's rows."""
    with atomic_directory(out) as folder, unchanged(study, out):
        rows, errors = [], []
        for finding in find_series(study, settings.policies):
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
    row = {"series": series, "modality": modality, "kind": MANIFEST_KIND.get(finding.kind, finding.kind)}
    row |= {"accepted": False, "reason": "", "detail": "", "files": len(finding.files), "warnings": []}
    try:
        if finding.modality and finding.modality != settings.modality:
            raise InputError(REASONS["other-modality"].text, "other-modality")
        if finding.error is not None:
            raise finding.error
        taken = TAKERS[finding.kind](finding, folder / series, settings)
        source_hash = _hash(finding.files)
    except (InputError, FileNotFoundError, PermissionError) as error:
        refused = error if isinstance(error, InputError) else _vanished(error, study)
        reason = refused.reason or "undecodable"
        text = REASONS[reason].text
        row |= {"reason": reason, "detail": str(refused) if str(refused).startswith(text) else text}
        if finding.kind == "other":
            row["modality"] = ""
        return row, InputError(_sentence(refused, finding, series, study), reason)
    notes = [*finding.notes, *taken.pop("warnings", [])]
    return row | taken | {"warnings": notes, "accepted": True, "source_hash": source_hash}, None


def _vanished(error: OSError, study: Path) -> InputError:
    return InputError(f"{error.filename or study} went away or cannot be read any more: start again.", "unreadable")


def _sentence(error: InputError, finding: Finding, series: str, study: Path) -> str:
    """An error that names its file, or one that says which series of which study it is about."""
    reason = REASONS[error.reason or "undecodable"]
    if not str(error).startswith(reason.text):
        return str(error)
    count, first = len(finding.files), finding.files[0]
    files = f"{first}" if count == 1 else f"{count} files, the first {first}"
    return f"{study}: series {series} ({files}) cannot be used: {error}; {reason.advice}."


def _hash(files: tuple[Path, ...]) -> str:
    """SHA-256 over the SHA-256s of the files' contents, in an order that does not depend on their names."""
    return sha256("".join(sorted(file_digest(path) for path in files)).encode()).hexdigest()


def _refuse_study(study: Path, rows: list, errors: list[InputError], settings: IngestSettings) -> None:
    damaged = [error for error in errors if REASONS[error.reason].damage]
    if damaged:
        more = f" (and {len(damaged) - 1} more such)" if len(damaged) > 1 else ""
        raise InputError(f"{str(damaged[0]).removesuffix('.')}{more}.", damaged[0].reason)
    if any(row["accepted"] for row in rows):
        return
    kind = settings.modality.upper()
    packed = next((path for path in sorted(study.rglob("*")) if path.name.lower().endswith(ARCHIVES)), None)
    if not rows and packed is not None:
        raise InputError(f"{study}: no series found, but archives such as {packed.name}: unpack them first.")
    if not rows:
        raise InputError(f"{study}: no series found; give a folder with {kind} images as DICOM or NIfTI, or k-space.")
    found = ", ".join(sorted({REASONS[row["reason"]].text for row in rows}))
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
    parser.add_argument("--settings", default="{}", help="JSON object: modality, on_gap, on_tilt, slices, ...")
    arguments = parser.parse_args(argv)
    settings = ingest_settings(json_object(arguments.settings))
    for row in ingest(arguments.study, arguments.out, settings):
        print(f"{row['series']}: {'taken' if row['accepted'] else 'left out, ' + row['detail']}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
