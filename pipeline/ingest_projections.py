"""CT projections of one series as ingest writes them, projections.safetensors and source.json; and read again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import InputError
from data.projections import Frames, Projections, read_projections
from data.reasons import REASONS
from data.study import Finding
from pipeline.ingest_shared import IngestSettings, slab_of, write_source
from pipeline.measurement import read_tensors, write_tensors

FILE_NAME = "projections.safetensors"
FRAMES = ("flat", "flat_after", "dark")
_PLAIN = ("kind", "geometry", "slice_mm", "image", "mu_water_per_mm", "photons_per_count")


def take_projections(finding: Finding, folder: Path, settings: IngestSettings) -> dict[str, Any]:
    """Write FOLDER and return the manifest's fields. Raises InputError as the reader does."""
    whole = read_projections(finding.files[0])
    if settings.slices is not None and whole.geometry["type"].startswith("cone"):
        raise InputError("ingest.slices: a cone beam's rows are no slices; take the key out.", "slices")
    first, last = slab_of(settings.slices, len(whole.values))
    taken = _rows(whole, first, last)
    finite = taken.values[np.isfinite(taken.values)]
    if not finite.size or (finite == finite[0]).all():
        raise InputError(REASONS["constant"].text, "constant")
    slices, views, bins = taken.values.shape
    folder.mkdir()
    write_projections(folder, taken)
    write_source(folder, {"kind": "projections", "files": [{"path": str(finding.files[0].resolve())}]})
    said = {"slices": slices, "views": views, "bins": bins, "geometry": taken.geometry["type"], "values": taken.kind}
    return said | {"shape_zyx": [slices, views, bins], "spacing_mm": [], "warnings": _warnings(taken)}


def write_projections(folder: Path, projections: Projections) -> None:
    """Write FOLDER/projections.safetensors."""
    tensors, metadata = {"values": projections.values}, {name: getattr(projections, name) for name in _PLAIN}
    for name in FRAMES:
        frames = getattr(projections, name)
        if frames is not None:
            tensors[f"{name}_mean"], metadata[f"{name}_count"] = frames.mean, frames.count
        if frames is not None and frames.variance is not None:
            tensors[f"{name}_variance"] = frames.variance
    write_tensors(folder / FILE_NAME, tensors, metadata)


def read_ingested(folder: Path) -> Projections:
    """The projections that ingest wrote. Raises InputError where the file is missing or damaged."""
    if (folder / "volume.nii.gz").is_file() and not (folder / FILE_NAME).is_file():
        raise InputError(f"{folder} holds a volume and no projections; set measure.source to simulate.")
    tensors, metadata = read_tensors(folder / FILE_NAME)
    frames = {
        name: Frames(tensors[f"{name}_mean"], tensors.get(f"{name}_variance"), metadata[f"{name}_count"])
        for name in FRAMES
        if f"{name}_mean" in tensors
    }
    return Projections(tensors["values"], **{name: metadata[name] for name in _PLAIN}, **frames)


def _rows(whole: Projections, first: int, last: int) -> Projections:
    def of(frames: Frames | None) -> Frames | None:
        if frames is None:
            return None
        variance = None if frames.variance is None else frames.variance[first:last]
        return Frames(frames.mean[first:last], variance, frames.count)

    cut = {name: of(getattr(whole, name)) for name in FRAMES}
    return replace(whole, values=whole.values[first:last], **cut)


def _warnings(projections: Projections) -> list[str]:
    bad = int((~np.isfinite(projections.values)).sum())
    return [f"{bad} samples are not finite; they count for nothing"] if bad else []
