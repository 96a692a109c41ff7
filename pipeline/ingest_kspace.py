"""K-space of one series as ingest writes it: kspace.safetensors and source.json; and how later stages read it.

Tensors: kspace, and those of mask, trajectory, noise, calibration and reference that data.kspace_common.KSpace has.
"""

from pathlib import Path
from typing import Any

import numpy as np

from data.errors import InputError
from data.kspace import read_kspace
from data.kspace_common import KSpace, slab_of_kspace
from data.reasons import REASONS
from data.study import Finding
from pipeline.ingest_shared import IngestSettings, check_values, slab_of, write_source
from pipeline.measurement import read_tensors, write_tensors

FILE_NAME = "kspace.safetensors"
TENSORS = ("mask", "trajectory", "noise", "calibration", "reference")


def take_kspace(finding: Finding, folder: Path, settings: IngestSettings) -> dict[str, Any]:
    """Write FOLDER and return the manifest's fields. Raises InputError as the reader does."""
    kspace = read_kspace(finding.files[0], finding.part)
    kspace = slab_of_kspace(kspace, *slab_of(settings.slices, kspace.array.shape[0]))
    check_values(kspace.array)
    if not all(np.isfinite(array).all() for array in (kspace.calibration, kspace.noise) if array is not None):
        raise InputError(REASONS["nan"].text, "nan")
    tensors = {"kspace": kspace.array}
    tensors |= {name: getattr(kspace, name) for name in TENSORS if getattr(kspace, name) is not None}
    described = {"slices": kspace.array.shape[0], "coils": kspace.array.shape[1]}
    described |= {"shape_zyx": list(kspace.shape_zyx), "spacing_mm": [round(mm, 6) for mm in kspace.spacing_mm]}
    described["warnings"] = list(kspace.warnings)
    metadata = described | {"modality": "mr", "affine": kspace.affine.tolist(), "averages": kspace.averages}
    metadata["phase_axis"] = kspace.phase_axis
    metadata |= {name: list(getattr(kspace, name)) for name in ("matrix", "keep") if getattr(kspace, name) is not None}
    folder.mkdir()
    write_tensors(folder / FILE_NAME, tensors, metadata)
    files = [{"path": str(path.resolve())} for path in finding.files]
    write_source(folder, {"kind": "kspace", "files": files} | ({"part": finding.part} if finding.part else {}))
    return described


def read_series(series: Path) -> KSpace:
    """What `take_kspace` wrote. Raises InputError where it is missing or damaged."""
    path = series / FILE_NAME
    tensors, metadata = read_tensors(path)
    if "kspace" not in tensors or tensors["kspace"].ndim != 4:
        raise InputError(f"{path}: k-space has not the axes (z coils y x); ingest the study again.")
    pairs = {name: tuple(metadata[name]) for name in ("matrix", "keep") if name in metadata}
    affine = np.asarray(metadata["affine"], dtype=np.float64)
    spacing_mm = tuple(float(mm) for mm in np.linalg.norm(affine[:3, :3], axis=0)[::-1])
    arrays = {name: tensors[name] for name in TENSORS if name in tensors}
    plain = {"averages": metadata.get("averages", 1), "phase_axis": metadata.get("phase_axis", "x")}
    return KSpace(tensors["kspace"], affine, spacing_mm, **plain, **arrays, **pairs)
