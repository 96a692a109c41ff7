"""A volume from a stack of DICOM planes: straightened where it leans, slices filled in where they are missing."""

import numpy as np

from data.dicom_pixels import AIR_HU, read_pixels
from data.dicom_stack import Stack
from data.nifti import MAX_VOXELS
from data.volume import Volume

# Shifts below this fraction of a pixel are rounding of positions.
LEAST_SHIFT = 0.01


def read_stack(stack: Stack, first: int, last: int, max_voxels: int = MAX_VOXELS) -> Volume:
    """Slices first <= z < last as (z y x) float32 in physical units, in place. Raises InputError as `read_pixels`.

    Straightening moves each plane within itself by linear interpolation; the matrix grows so that nothing is cut off,
    and new corners are air in CT and zero in MR. A missing slice is the weighted mean of its two neighbours.
    """
    blend = stack.blend[first:last]
    needed = sorted({plane for lower, upper, _ in blend for plane in (lower, upper)})
    planes = read_pixels(tuple(stack.frames[plane] for plane in needed), max_voxels)
    affine = stack.affine.copy()
    if stack.offsets_mm is not None:
        planes = _straightened(planes, stack, needed, affine)
    affine[:3, 3] += affine[:3, 2] * first
    if all(weight == 0 and lower == plane for plane, (lower, _, weight) in zip(needed, blend)):
        return Volume.from_affine(planes, affine)
    at = {plane: index for index, plane in enumerate(needed)}
    slices = [_blended(planes[at[lower]], planes[at[upper]], weight) for lower, upper, weight in blend]
    return Volume.from_affine(np.stack(slices), affine)


def _blended(lower: np.ndarray, upper: np.ndarray, weight: float) -> np.ndarray:
    return lower if weight == 0 else (1 - weight) * lower + weight * upper


def _straightened(planes: np.ndarray, stack: Stack, needed: list[int], affine: np.ndarray) -> np.ndarray:
    """Planes on the straight grid that holds them all; the affine's origin is moved to its corner."""
    row_mm, column_mm = stack.frames[0].pixel_mm
    air = AIR_HU if stack.frames[0].modality == "ct" else 0.0
    for axis, pixel_mm, column in ((2, column_mm, 0), (1, row_mm, 1)):
        shifts = stack.offsets_mm[:, column] / pixel_mm
        start = float(shifts.min())
        if np.ptp(shifts) < LEAST_SHIFT:
            continue
        grown = planes.shape[axis] + int(np.ceil(np.ptp(shifts) - LEAST_SHIFT))
        planes = _shifted(planes, shifts[needed] - start, grown, axis, air)
        affine[:3, 3] += affine[:3, column] * start
    return planes


def _shifted(planes: np.ndarray, shifts: np.ndarray, size: int, axis: int, air: float) -> np.ndarray:
    """Move each plane by its shift in pixels along an axis of length SIZE: linear interpolation, air outside."""
    given = np.moveaxis(planes, axis, 1)
    out = np.full((given.shape[0], size + 1, given.shape[2]), air, np.float32)
    for z, shift in enumerate(shifts):
        whole, part = int(np.floor(shift)), float(shift - np.floor(shift))
        padded = np.pad(given[z], ((1, 1), (0, 0)), constant_values=air)
        out[z, whole : whole + len(padded) - 1] = (1 - part) * padded[1:] + part * padded[:-1]
    return np.moveaxis(out[:, :size], 1, axis)
