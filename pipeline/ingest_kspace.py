"""K-space of one series as ingest writes it: kspace.safetensors and source.json."""

from pathlib import Path
from typing import Any

from data.kspace import read_kspace
from data.study import Finding
from pipeline.ingest_shared import IngestSettings, check_values, slab_of, write_source
from pipeline.measurement import write_tensors


def take_kspace(finding: Finding, folder: Path, settings: IngestSettings) -> dict[str, Any]:
    """Write FOLDER and return the manifest's fields. Raises InputError as the reader does."""
    kspace = read_kspace(finding.files[0])
    first, last = slab_of(settings.slices, kspace.array.shape[0])
    array = kspace.array[first:last]
    check_values(array)
    affine = kspace.affine.copy()
    affine[:3, 3] += affine[:3, 2] * first
    slices, coils, rows, columns = array.shape
    described = {"slices": slices, "coils": coils, "shape_zyx": [slices, rows, columns]}
    described["spacing_mm"] = list(kspace.spacing_mm)
    metadata = described | {"modality": "mr", "affine": affine.tolist()}
    folder.mkdir()
    write_tensors(folder / "kspace.safetensors", {"kspace": array}, metadata)
    write_source(folder, {"kind": "kspace", "files": [{"path": str(finding.files[0].resolve())}]})
    return described
