"""Which DICOM series an export holds, and what their texts say.

    OUT/dicom/METHOD_reconstruction/IM0001.dcm ...   always
    OUT/dicom/METHOD_std/IM0001.dcm ...              std: 16 bits, scaled, for every archive and viewer
    OUT/dicom/METHOD_std_map/PM0001.dcm              parametric_map: float32 with units
    OUT/dicom/METHOD_point, _lower90, _upper90, OUT/dicom/BASELINE/IM0001.dcm ...   point, lower, upper, baseline
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from data.dicom_deidentify import FACE, Identity, Kept, Pseudonyms, may_show_face, read_key
from data.dicom_derived import RESEARCH_ONLY, Maker, SeriesText, Source, as_displayed, read_source, write_series
from data.dicom_parametric_map import write_parametric_map
from data.dicom_technique import body_part
from data.errors import InputError
from data.nifti import read_volume
from data.volume import Volume
from pipeline import provenance
from pipeline.export_items import ExportSettings, Item

MADE_FROM = "from undersampled measurements"
# Series numbers: far from a scanner's, and apart for every series of a study and every method.
FIRST_NUMBER, NUMBERS_A_SERIES, NUMBERS_A_METHOD, SERIES_TOLD_APART = 900_000, 100, 10, 1000
OFFSETS = {"recon": 0, "std": 1, "parametric_map": 2, "point": 3, "lower": 4, "upper": 5, "baseline": 0}
KINDS = {
    "recon": "RECONSTRUCTION",
    "point": "POINT",
    "std": "STDDEV",
    "lower": "INTERVAL_LOWER",
    "upper": "INTERVAL_UPPER",
    "baseline": "BASELINE",
}
SOFT_TISSUE = (40.0, 400.0)


@dataclass(frozen=True)
class Plan:
    """What all series of one export share."""

    source: Source
    identity: Identity
    settings: ExportSettings
    facts: dict[str, Any]
    series_dir: Path


def source_of(record: dict[str, Any] | None) -> Source | None:
    """The DICOM source of an ingested series, or None for other input.

    Slices that were interpolated or resampled have no file of their own: the series' other planes give the header.
    """
    if record is None or record.get("kind") != "dicom":
        return None
    files, planes = (_places(record.get(key)) for key in ("files", "planes"))
    source = read_source(files, planes)
    _refuse_other_images(record, source)
    return source


def _refuse_other_images(record: dict[str, Any], source: Source) -> None:
    """InputError where a file is not the one that ingest read: the header might be another patient's."""
    entries = (entry for key in ("files", "planes") for entry in record.get(key) or () if entry)
    ingested = {entry["path"]: entry.get("instance") for entry in entries}
    for frame in (source.first, *source.frames):
        if ingested.get(str(frame.path)) not in (None, frame.instance):
            raise InputError(f"{frame.path} is another image than the one that was read: ingest the study again.")


def _places(entries: list[dict[str, Any] | None] | None) -> list[tuple[Path, int]]:
    return list(dict.fromkeys((Path(entry["path"]), int(entry["frame"])) for entry in entries or () if entry))


def identity_of(settings: ExportSettings, warn: Callable[[str], None]) -> Identity:
    """Kept, or pseudonyms by the key file, which is made on first use."""
    if settings.keeps_identity:
        return Kept()
    return Pseudonyms(read_key(Path(settings.key_file).expanduser(), warn))


def face_warning(source: Source | None, settings: ExportSettings) -> str | None:
    """What to say about a picture that may show a face, where identity is not kept on purpose."""
    if settings.keeps_identity or (source is not None and not may_show_face(body_part(source.header))):
        return None
    return FACE


def write_dicom(items: list[Item], folder: Path, plan: Plan) -> None:
    """Write the series that the settings ask for, for every solver, and the baselines if they are asked for."""
    methods = list(dict.fromkeys(item.method for item in items))
    for number, method in enumerate(methods):
        own = {item.kind: item for item in items if item.method == method}
        first = _first_number(plan.source) + NUMBERS_A_METHOD * number
        if "recon" in own:
            _write_solver(own, folder, plan, first)
        elif "baseline" in plan.settings.dicom_series and "baseline" in own:
            volume = _volume(own["baseline"], plan)
            _write(folder / method, volume, _text(own["baseline"], volume, plan, first), plan, method)


def _first_number(source: Source) -> int:
    own = source.header.get("SeriesNumber")
    own = abs(int(own)) % SERIES_TOLD_APART if isinstance(own, int) else 0
    return FIRST_NUMBER + NUMBERS_A_SERIES * own + 1


def _write_solver(own: dict[str, Item], folder: Path, plan: Plan, first: int) -> None:
    method, chosen = own["recon"].method, plan.settings.dicom_series
    headers: list[Dataset] = []
    for item in _of_solver(own, chosen):
        volume = _volume(item, plan)
        text = _text(item, volume, plan, first + OFFSETS[item.kind])
        written = _write(folder / f"{method}_{item.folder}", volume, text, plan, method)
        headers = written if item.kind == "recon" else headers
    if "parametric_map" in chosen:
        volume = _volume(own["std"], plan)
        text = _text(own["std"], volume, plan, first + OFFSETS["parametric_map"])
        text = replace(text, description=f"RESEARCH ONLY {method} STD MAP ({_units(plan.source)})")
        target = folder / f"{method}_std_map"
        target.mkdir()
        write_parametric_map(target / "PM0001.dcm", volume.array_zyx, volume.affine, headers, text)


def _of_solver(own: dict[str, Item], chosen: tuple[str, ...]) -> Iterator[Item]:
    for kind in ("recon", "std", "point", "lower", "upper"):
        if kind in own and (kind == "recon" or kind in chosen):
            yield own[kind]


def _volume(item: Item, plan: Plan) -> Volume:
    return as_displayed(read_volume(item.path), plan.source)


def _write(folder: Path, volume: Volume, text: SeriesText, plan: Plan, method: str) -> list[Dataset]:
    maker = _maker(plan, method)
    return write_series(folder, volume.array_zyx, volume.affine, plan.source, text, plan.identity, maker)


def _maker(plan: Plan, method: str) -> Maker:
    facts = provenance.of_method(plan.series_dir, method)
    software = plan.facts["Software"]
    packages = software["Packages"] | facts.get("Packages", {})
    versions = (f"sliceweave {software['Version']}", *(f"{name} {value}" for name, value in packages.items()))
    alarm = facts.get("Alarm", {})
    doubtful = alarm.get("Verdict") in ("out", "unsure")
    doubt = f" The prior may not know such images: {alarm.get('Sentence', '')}" if doubtful else ""
    return Maker(versions, f"{RESEARCH_ONLY}. {provenance.sentence(plan.facts, facts)}", f"{RESEARCH_ONLY}.{doubt}")


def _text(item: Item, volume: Volume, plan: Plan, number: int) -> SeriesText:
    units, method = _units(plan.source), item.method
    what = {
        "recon": f"{method} reconstruction",
        "point": f"{method} point estimate",
        "std": f"{method} UNCERTAINTY STD ({units})",
        "lower": f"{method} {item.folder} of interval ({units})",
        "upper": f"{method} {item.folder} of interval ({units})",
        "baseline": f"{method} baseline",
    }[item.kind]
    top = float(np.percentile(volume.array_zyx, 99.9)) if item.kind == "std" else 0.0
    return SeriesText(
        kind=KINDS[item.kind],
        description=f"RESEARCH ONLY {what}",
        derivation=f"{RESEARCH_ONLY}. {item.what.capitalize()}, {units}, sliceweave {method}, {MADE_FROM}.",
        number=number,
        window=(top / 2, top) if item.kind == "std" else window(plan.source, volume.array_zyx),
        exact=item.kind in ("recon", "point", "baseline"),
    )


def _units(source: Source) -> str:
    return "HU" if source.modality == "ct" else "scanner units"


def window(source: Source | None, array: np.ndarray) -> tuple[float, float]:
    """(centre, width): the source's first for CT, or a soft-tissue one; the middle 99 % for MR and unknown sources."""
    if source is None or source.modality == "mr":
        low, high = np.percentile(array, [0.5, 99.5])
        return float(low + high) / 2, float(high - low)
    values = []
    for keyword in ("WindowCenter", "WindowWidth"):
        value = source.header.get(keyword)
        value = value[0] if value is not None and not isinstance(value, str | int | float) and len(value) else value
        values.append(value)
    known = all(isinstance(value, int | float) for value in values)
    return (float(values[0]), float(values[1])) if known else SOFT_TISSUE
