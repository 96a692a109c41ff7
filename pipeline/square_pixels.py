"""Slices onto square pixels, which the projectors need; done once, before anything is measured."""

import numpy as np

from data.errors import InputError
from data.volume import Volume

SAME_SHARE = 1e-3
# Between pixels much longer than wide, what is interpolated would be most of the picture.
MOST_OBLONG = 10.0


def with_square_pixels(volume: Volume, name: str) -> tuple[Volume, str]:
    """(volume (z y x) with square pixels, what was done in words or "").

    Pixels become as wide as the shorter of their sides, by linear interpolation along the longer; the pixels cover as
    much of what the given ones cover as whole pixels can, about the same centre. Square ones are left as they are.
    Raises InputError, which names the file, for sides that differ more than tenfold.
    """
    _, row_mm, column_mm = volume.spacing_mm
    fine, coarse = sorted((row_mm, column_mm))
    if coarse - fine <= SAME_SHARE * fine:
        return volume, ""
    if coarse > MOST_OBLONG * fine:
        raise InputError(
            f"{name}: pixels of {row_mm:.4g} by {column_mm:.4g} mm are too far from square; choose another "
            "ingest.slice_direction or resample the volume."
        )
    axis = 1 if row_mm > column_mm else 2
    size = volume.shape[axis]
    count = max(int(size * coarse / fine + SAME_SHARE), 1)
    share = fine / coarse
    at = size / 2 - 0.5 + (np.arange(count) - (count - 1) / 2) * share
    array = _between(volume.array_zyx, axis, at)
    step = np.eye(4)
    step[2 - axis, 2 - axis], step[2 - axis, 3] = share, at[0]
    said = f"pixels of {row_mm:.4g} by {column_mm:.4g} mm are interpolated to {fine:.4g} by {fine:.4g} mm"
    return Volume.from_affine(array, volume.affine @ step, volume.meta), said


def _between(array: np.ndarray, axis: int, at: np.ndarray) -> np.ndarray:
    """Linear interpolation of (z y x) at places along an axis, in pixels; beyond the outermost centres their values."""
    inside = np.clip(at, 0, array.shape[axis] - 1)
    low = np.minimum(inside.astype(int), max(array.shape[axis] - 2, 0))
    high = np.minimum(low + 1, array.shape[axis] - 1)
    weight = (inside - low).astype(np.float32).reshape((-1, 1) if axis == 1 else (1, -1))
    out = np.empty([len(at) if number == axis else size for number, size in enumerate(array.shape)], np.float32)
    for plane, result in zip(array, out):
        result[:] = (1 - weight) * plane.take(low, axis - 1) + weight * plane.take(high, axis - 1)
    return out
