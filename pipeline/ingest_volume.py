"""Volumes of images as ingest writes them: volume.nii.gz and source.json."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data.dicom_pixels import read_pixels
from data.dicom_series import arrange
from data.nifti import read_volume, write_volume
from data.study import Finding
from data.volume import Volume, slab
from pipeline.ingest_shared import IngestSettings, check_values, slab_of, write_source

AIR_BELOW_HU = -500


def take_dicom(finding: Finding, folder: Path, settings: IngestSettings) -> dict[str, Any]:
    """Write FOLDER and return the manifest's fields. Raises InputError as the reader does."""
    frames, affine = arrange(finding.frames)
    first, last = slab_of(settings.slices, len(frames))
    volume = slab(Volume.from_affine(np.empty((len(frames), 0, 0)), affine), first, last)
    frames = frames[first:last]
    volume = replace(volume, array_zyx=read_pixels(frames))
    _write(volume, folder, "HU" if finding.modality == "ct" else "scanner units")
    files = [{"path": str(frame.path.resolve()), "frame": frame.index} for frame in frames]
    write_source(folder, {"kind": "dicom", "modality": finding.modality, "files": files})
    places = len({frame.frame_of_reference for frame in frames})
    warnings = [f"the slices name {places} frames of reference; taken as one"] if places > 1 else []
    return _describe(volume) | {"warnings": warnings}


def take_nifti(finding: Finding, folder: Path, settings: IngestSettings) -> dict[str, Any]:
    """Write FOLDER and return the manifest's fields. Raises InputError as the reader does."""
    volume = read_volume(finding.files[0], closest_ras=True)
    volume = slab(volume, *slab_of(settings.slices, volume.shape[0]))
    _write(volume, folder, "HU" if settings.modality == "ct" else "scanner units")
    write_source(folder, {"kind": "nifti", "files": [{"path": str(finding.files[0].resolve())}]})
    warnings = []
    if volume.meta["orientation"] == "unknown":
        warnings.append("the header does not say how the volume lies in the patient")
    if settings.modality == "ct" and volume.array_zyx.min() > AIR_BELOW_HU:
        warnings.append("no value is as low as air: check that the volume is in HU")
    return _describe(volume) | {"warnings": warnings}


def _write(volume: Volume, folder: Path, units: str) -> None:
    """FOLDER/volume.nii.gz, int16 where that loses nothing, else float32."""
    array = volume.array_zyx
    check_values(array)
    whole = np.abs(array).max() < 2**15 - 1 and bool((array == np.rint(array)).all())
    folder.mkdir()
    write_volume(folder / "volume.nii.gz", array, volume.affine, np.int16 if whole else np.float32, units)


def _describe(volume: Volume) -> dict[str, Any]:
    spacing_mm = [round(value, 6) for value in volume.spacing_mm]
    return {"slices": volume.shape[0], "shape_zyx": list(volume.shape), "spacing_mm": spacing_mm}
