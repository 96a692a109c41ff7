"""Volumes of images as ingest writes them: volume.nii.gz, and source.json that says where each slice came from.

source.json: kind; modality; files, one entry a slice of volume.nii.gz in its order, {path, frame, instance} of the
file that holds exactly that slice (instance: a hash of its UID), or null where there is none (interpolated,
resampled, or cut in another direction); resampled; slice_direction; interpolated, the slices that no file measured;
planes, where files has a null, all planes that the volume was made from, in the order of the scanner's stack.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data.dicom_frames import Frame
from data.dicom_series import build_stack
from data.dicom_stack import Policies, Stack, error
from data.dicom_volume import read_stack
from data.errors import InputError
from data.metaimage import read_metaimage
from data.nifti import read_volume, volumes_in, write_volume
from data.nrrd import read_nrrd
from data.study import Finding
from data.volume import Volume, slab, slice_direction, sliced
from pipeline.ingest_shared import IngestSettings, check_values, slab_of, write_source

AIR_BELOW_HU = -500
# Slices count as axial up to this angle; a gantry tilts by less.
AXIAL_WITHIN_DEG = 35
LEAST_LEAN_DEG = 0.2


def take_dicom(finding: Finding, folder: Path, settings: IngestSettings) -> dict[str, Any]:
    """Write FOLDER and return the manifest's fields. Raises InputError as the reader does."""
    stack = build_stack(finding.frames, replace(settings.policies, on_gap=_without_split(settings.on_gap)))
    count = len(stack.blend)
    native, degrees = slice_direction(stack.affine)
    chosen = native if settings.slice_direction == "native" else settings.slice_direction
    first, last = (0, count) if chosen != native else slab_of(settings.slices, count)
    volume = read_stack(stack, first, last, settings.max_voxels)
    if chosen != native:
        volume = sliced(volume, chosen)
        volume = slab(volume, *slab_of(settings.slices, volume.shape[0]))
    _write(volume, folder, "HU" if finding.modality == "ct" else "scanner units")
    source = {"kind": "dicom", "modality": finding.modality, "slice_direction": chosen}
    source |= _origin(stack, first, last)
    if chosen != native:
        source |= {"files": [None] * volume.shape[0], "planes": [_place(frame) for frame in stack.frames]}
        source |= {"interpolated": [], "interpolated_planes": source["interpolated"]}
    write_source(folder, source)
    described = {"slice_direction": chosen, "interpolated": source["interpolated"], "resampled": source["resampled"]}
    if stack.frames[0].philips_slope is not None:
        described["philips_scale_slope"] = stack.frames[0].philips_slope
    warnings = [*_told(stack), *_not_axial(finding.modality, chosen, degrees)]
    return _describe(volume) | described | {"warnings": warnings}


def take_nifti(finding: Finding, folder: Path, settings: IngestSettings) -> dict[str, Any]:
    """Write FOLDER and return the manifest's fields. Raises InputError as the reader does.

    Of a 4D file, the volume that finding.part names; without one, "repeat" or "time-series" as for DICOM.
    """
    count = volumes_in(finding.files[0])
    if count == 1:
        return _take_file(finding, folder, settings, read_volume)
    if not finding.part:
        raise _many_volumes(count, settings.policies)
    number = int(finding.part.removeprefix("v"))
    row = _take_file(finding, folder, settings, partial(read_volume, number=number - 1))
    return row | {"warnings": [f"volume {number} of the {count} in the file", *row["warnings"]]}


def take_nrrd(finding: Finding, folder: Path, settings: IngestSettings) -> dict[str, Any]:
    """Write FOLDER and return the manifest's fields. Raises InputError as the reader does."""
    return _take_file(finding, folder, settings, read_nrrd)


def take_metaimage(finding: Finding, folder: Path, settings: IngestSettings) -> dict[str, Any]:
    """Write FOLDER and return the manifest's fields. Raises InputError as the reader does."""
    return _take_file(finding, folder, settings, read_metaimage)


def _many_volumes(count: int, policies: Policies) -> InputError:
    if policies.on_repeat == "fail":
        return error("repeat", f"{count} volumes in a file")
    return error("time-series", f"{count} volumes in a file; ingest.max_repeats is {policies.max_repeats}")


def _take_file(
    finding: Finding, folder: Path, settings: IngestSettings, read: Callable[..., Volume]
) -> dict[str, Any]:
    volume = read(finding.files[0], max_voxels=settings.max_voxels)
    native, degrees = slice_direction(volume.affine)
    chosen = native if settings.slice_direction == "native" else settings.slice_direction
    volume = sliced(volume, chosen)
    volume = slab(volume, *slab_of(settings.slices, volume.shape[0]))
    _write(volume, folder, "HU" if settings.modality == "ct" else "scanner units")
    files = [{"path": str(path.resolve())} for path in finding.files]
    write_source(folder, {"kind": finding.kind, "files": files, "slice_direction": chosen})
    warnings = [*volume.meta.get("warnings", ())]
    if settings.modality == "ct" and volume.array_zyx.min() > AIR_BELOW_HU:
        warnings.append("no value is as low as air: check that the volume is in HU")
    warnings += _not_axial(settings.modality, chosen, degrees if chosen == native else 0.0)
    return _describe(volume) | {"slice_direction": chosen, "warnings": warnings}


def _without_split(on_gap: str) -> str:
    """What is left to do about gaps in a series that was cut at its gaps already."""
    return "fail" if on_gap == "split" else on_gap


def _origin(stack: Stack, first: int, last: int) -> dict[str, Any]:
    """The fields of source.json that say which file each slice is, if it is one."""
    resampled = stack.offsets_mm is not None
    exact = [None if weight or resampled else _place(stack.frames[z]) for z, _, weight in stack.blend]
    interpolated = [z - first for z in stack.interpolated if first <= z < last]
    origin = {"files": exact[first:last], "resampled": resampled, "interpolated": interpolated}
    if None in origin["files"]:
        origin["planes"] = [_place(frame) for frame in stack.frames]
    return origin


def _place(frame: Frame) -> dict[str, Any]:
    return {"path": str(frame.path.resolve()), "frame": frame.index, "instance": frame.instance}


def _told(stack: Stack) -> list[str]:
    """What was done to the stack, and what looks odd about it, in words."""
    told = []
    if stack.interpolated:
        counted = ", ".join(map(str, stack.interpolated))
        told.append(f"interpolated, not measured, of the stack's {len(stack.blend)} slices (counted from 0): {counted}")
    if stack.offsets_mm is not None:
        told.append("the stack was tilted and is resampled onto a straight grid")
    places = len({frame.frame_of_reference for frame in stack.frames})
    if places > 1:
        told.append(f"the slices name {places} frames of reference; taken as one")
    lean = _lean_degrees(stack.affine)
    if lean > LEAST_LEAN_DEG:
        told.append(f"the stack leans by {lean:.1f} degrees, which its affine keeps")
    return told


def _lean_degrees(affine: np.ndarray) -> float:
    axes = affine[:3, :3]
    normal = np.cross(axes[:, 0], axes[:, 1])
    cosine = abs(normal @ axes[:, 2]) / np.linalg.norm(normal) / np.linalg.norm(axes[:, 2])
    return float(np.degrees(np.arccos(min(cosine, 1.0))))


def _not_axial(modality: str, direction: str, degrees: float) -> list[str]:
    """A scanner's rays lie in axial planes: measurements simulated in others are not what it could measure."""
    if modality != "ct" or (direction == "axial" and degrees <= AXIAL_WITHIN_DEG):
        return []
    return [f"the slices are {direction}, but CT scanners measure axial ones: set ingest.slice_direction to axial"]


def _write(volume: Volume, folder: Path, units: str) -> None:
    """FOLDER/volume.nii.gz, int16 where that loses nothing, else float32."""
    array = volume.array_zyx
    check_values(array)
    whole = all(np.abs(plane).max() < 2**15 - 1 and bool((plane == np.rint(plane)).all()) for plane in array)
    folder.mkdir()
    write_volume(folder / "volume.nii.gz", array, volume.affine, np.int16 if whole else np.float32, units)


def _describe(volume: Volume) -> dict[str, Any]:
    spacing_mm = [round(value, 6) for value in volume.spacing_mm]
    return {"slices": volume.shape[0], "shape_zyx": list(volume.shape), "spacing_mm": spacing_mm}
