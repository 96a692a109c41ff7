"""Ray sums through a voxel volume by interpolation on planes (Joseph 1982), and their exact transposes, for the CPU.

A ray is source + t e in voxel indices. Its main axis m is the one along which |e| is largest; it is sampled where it
crosses the planes of voxel centres p = 0, 1, ... of that axis, bilinearly between the four voxels around the crossing,
with zero outside the volume. Ray sum and transpose use one and the same weight for every (ray, voxel); the transpose
writes each plane from one thread alone, so that its sum has a fixed order.

Volumes are given main axis first and padded by one voxel of zero at both ends of the other two axes. `rays` is
(views 4 3): source, e of detector pixel (0, 0), and what one column and one row add to e, each in the order (m a b)
of the volume's axes. Projections are (views columns rows).
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np

PLANES_PER_BLOCK = 16


def _compiled(function: Callable) -> Callable:
    """Machine code over all threads, kept on disk for the next process where some cache folder may be written."""
    try:
        return numba.njit(function, parallel=True, cache=True, error_model="numpy")
    except RuntimeError:
        return numba.njit(function, parallel=True, error_model="numpy")


@numba.njit(inline="always")
def _is_main(m: float, a: float, b: float, rank: int) -> bool:
    """Whether m is the ray's main axis; rank (0 z, 1 y, 2 x) settles ties between equals, the higher one wins."""
    m, a, b = abs(m), abs(a), abs(b)
    if rank == 0:
        return m > a and m > b
    return m >= a and m >= b if rank == 2 else m >= b and m > a


@numba.njit(inline="always")
def _direction(rays: np.ndarray, column: int, row: int) -> tuple[float, float, float]:
    """e of one detector pixel, in the volume's order of axes."""
    m = rays[1, 0] + column * rays[2, 0] + row * rays[3, 0]
    a = rays[1, 1] + column * rays[2, 1] + row * rays[3, 1]
    b = rays[1, 2] + column * rays[2, 2] + row * rays[3, 2]
    return m, a, b


@numba.njit(inline="always")
def _range(start: float, step: float, limit: int, count: int) -> tuple[int, int]:
    """First and last + 1 of k in [0, count) with 0 < start + k step < limit, for step != 0."""
    ends = -start / step, (limit - start) / step
    low = max(min(ends), -1.0)
    high = min(max(ends), float(count))
    if not low < high:
        return 0, 0
    first, last = max(int(np.floor(low)), 0), min(int(np.ceil(high)), count - 1)
    while first <= last and not 0 < start + first * step < limit:
        first += 1
    while last >= first and not 0 < start + last * step < limit:
        last -= 1
    return first, last + 1


@_compiled
def forward_upright(volume: np.ndarray, rays: np.ndarray, rank: int, out: np.ndarray) -> None:
    """Adds the ray sums whose main axis is the volume's first to `out`, for rows along the volume's last axis (b).

    All rays of a column then cross a plane at the same a: the plane is interpolated in a once for all rows.
    """
    planes, width, depth = volume.shape
    views, columns, rows = out.shape
    for view in numba.prange(views):
        line = np.empty(depth, volume.dtype)
        for column in range(columns):
            e_m = rays[view, 1, 0] + column * rays[view, 2, 0]
            e_a = rays[view, 1, 1] + column * rays[view, 2, 1]
            e_b = rays[view, 1, 2] + column * rays[view, 2, 2]
            if not _is_main(e_m, e_a, 0.0, rank):
                continue
            for plane in range(planes):
                t = (plane - rays[view, 0, 0]) / e_m
                a = rays[view, 0, 1] + t * e_a + 1
                if not 0 < a < width - 1:
                    continue
                start, step = rays[view, 0, 2] + t * e_b + 1, t * rays[view, 3, 2]
                first, last = _range(start, step, depth - 1, rows)
                if first >= last:
                    continue
                left = int(a)
                share = volume.dtype.type(a - left)
                for k in range(depth):
                    line[k] = volume[plane, left, k] + share * (volume[plane, left + 1, k] - volume[plane, left, k])
                for row in range(first, last):
                    b = start + row * step
                    low = int(b)
                    out[view, column, row] += line[low] + volume.dtype.type(b - low) * (line[low + 1] - line[low])


@_compiled
def adjoint_upright(values: np.ndarray, rays: np.ndarray, rank: int, out: np.ndarray) -> None:
    """The transpose of `forward_upright`: adds what `values` (views columns rows) spread to the volume `out`."""
    planes, width, depth = out.shape
    views, columns, rows = values.shape
    for plane in numba.prange(planes):
        line = np.empty(depth, out.dtype)
        for view in range(views):
            for column in range(columns):
                e_m = rays[view, 1, 0] + column * rays[view, 2, 0]
                e_a = rays[view, 1, 1] + column * rays[view, 2, 1]
                e_b = rays[view, 1, 2] + column * rays[view, 2, 2]
                if not _is_main(e_m, e_a, 0.0, rank):
                    continue
                t = (plane - rays[view, 0, 0]) / e_m
                a = rays[view, 0, 1] + t * e_a + 1
                if not 0 < a < width - 1:
                    continue
                start, step = rays[view, 0, 2] + t * e_b + 1, t * rays[view, 3, 2]
                first, last = _range(start, step, depth - 1, rows)
                if first >= last:
                    continue
                line[:] = 0
                for row in range(first, last):
                    b = start + row * step
                    low = int(b)
                    upper = out.dtype.type(b - low) * values[view, column, row]
                    line[low] += values[view, column, row] - upper
                    line[low + 1] += upper
                left = int(a)
                share = out.dtype.type(a - left)
                for k in range(depth):
                    out[plane, left + 1, k] += share * line[k]
                    out[plane, left, k] += (1 - share) * line[k]


@_compiled
def forward_any(volume: np.ndarray, rays: np.ndarray, rank: int, out: np.ndarray) -> None:
    """Adds the ray sums whose main axis is the volume's first to `out`, for detectors of any orientation."""
    planes, width, depth = volume.shape
    views, columns, rows = out.shape
    for view in numba.prange(views):
        for column in range(columns):
            for row in range(rows):
                e_m, e_a, e_b = _direction(rays[view], column, row)
                if not _is_main(e_m, e_a, e_b, rank):
                    continue
                total = volume.dtype.type(0)
                for plane in range(planes):
                    t = (plane - rays[view, 0, 0]) / e_m
                    a, b = rays[view, 0, 1] + t * e_a + 1, rays[view, 0, 2] + t * e_b + 1
                    if 0 < a < width - 1 and 0 < b < depth - 1:
                        left, low = int(a), int(b)
                        u, v = volume.dtype.type(a - left), volume.dtype.type(b - low)
                        near = volume[plane, left, low] + v * (volume[plane, left, low + 1] - volume[plane, left, low])
                        far = volume[plane, left + 1, low]
                        far += v * (volume[plane, left + 1, low + 1] - far)
                        total += near + u * (far - near)
                out[view, column, row] += total


@_compiled
def adjoint_any(values: np.ndarray, rays: np.ndarray, rank: int, out: np.ndarray) -> None:
    """The transpose of `forward_any`: adds what `values` (views columns rows) spread to the volume `out`.

    The ray's set-up costs as much as some planes, so that a thread takes a block of them.
    """
    planes, width, depth = out.shape
    views, columns, rows = values.shape
    blocks = (planes + PLANES_PER_BLOCK - 1) // PLANES_PER_BLOCK
    for block in numba.prange(blocks):
        for view in range(views):
            for column in range(columns):
                for row in range(rows):
                    e_m, e_a, e_b = _direction(rays[view], column, row)
                    if not _is_main(e_m, e_a, e_b, rank):
                        continue
                    value = values[view, column, row]
                    for plane in range(block * PLANES_PER_BLOCK, min((block + 1) * PLANES_PER_BLOCK, planes)):
                        t = (plane - rays[view, 0, 0]) / e_m
                        a, b = rays[view, 0, 1] + t * e_a + 1, rays[view, 0, 2] + t * e_b + 1
                        if 0 < a < width - 1 and 0 < b < depth - 1:
                            left, low = int(a), int(b)
                            u, v = out.dtype.type(a - left), out.dtype.type(b - low)
                            far, near = u * value, (1 - u) * value
                            out[plane, left, low] += (1 - v) * near
                            out[plane, left, low + 1] += v * near
                            out[plane, left + 1, low] += (1 - v) * far
                            out[plane, left + 1, low + 1] += v * far
