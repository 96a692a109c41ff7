"""Ray sums through a voxel volume by interpolation on planes (Joseph 1982), and their exact transposes, for the CPU.

A ray is source + t e in voxel indices. Its main axis m is the one along which |e| is largest; it is sampled where it
crosses the planes of voxel centres p = 0, 1, ... of that axis, bilinearly between the four voxels around the crossing,
with zero outside the volume. Ray sum and transpose use one and the same weight for every (ray, voxel); the transpose
writes each plane from one thread alone, so that its sum has a fixed order.

Volumes are given main axis first and padded by one voxel of zero at both ends of the other two axes. `rays` is
(views 4 3): source, e of detector pixel (0, 0), and what one column and one row add to e, each in the order (m a b)
of the volume's axes. Projections are (views columns rows).

The upright kernels serve detectors whose rows run along b. All rays of a column then cross a plane at one a, and at
b = start + row step: the plane is interpolated in a once for all rows, and in b by blocks of LANES neighbours, whose
weights max(0, 1 - |b - k|) the processor computes side by side for one offset row - k after the other.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np

PLANES_PER_BLOCK = 16
# Neighbours that the upright kernels compute side by side; what they write is padded to a multiple of it.
LANES = 32


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
def _direction(ray: np.ndarray, column: int, row: int) -> tuple[float, float, float]:
    """e of one detector pixel, in the volume's order of axes."""
    m = ray[1, 0] + column * ray[2, 0] + row * ray[3, 0]
    a = ray[1, 1] + column * ray[2, 1] + row * ray[3, 1]
    b = ray[1, 2] + column * ray[2, 2] + row * ray[3, 2]
    return m, a, b


@numba.njit(inline="always")
def _crossing(ray: np.ndarray, column: int, plane: int) -> tuple[float, float, float]:
    """Where the rays of a column of an upright detector cross a plane: a, and start and step of b; both padded."""
    e_m, e_a, e_b = _direction(ray, column, 0)
    t = (plane - ray[0, 0]) / e_m
    return ray[0, 1] + t * e_a + 1, ray[0, 2] + t * e_b + 1, t * ray[3, 2]


@numba.njit(error_model="numpy")
def _mix(near: np.ndarray, far: np.ndarray, share: float, line: np.ndarray) -> None:
    """The plane between two voxel lines, `far`'s share given, into `line` behind LANES zeros."""
    for k in range(len(near)):
        line[k + LANES] = near[k] + share * (far[k] - near[k])


@numba.njit(error_model="numpy")
def _unmix(line: np.ndarray, share: float, near: np.ndarray, far: np.ndarray) -> None:
    """The transpose of `_mix`: adds `line` to both voxel lines."""
    for k in range(len(near)):
        far[k] += share * line[k]
        near[k] += line[k] - share * line[k]


@numba.njit(error_model="numpy")
def _add_hats(shift: float, slope: float, values: np.ndarray, out: np.ndarray) -> None:
    """out_i += max(0, 1 - |shift + i slope|) values_i for LANES of them."""
    one, none = out.dtype.type(1), out.dtype.type(0)
    for i in range(LANES):
        out[i] += max(none, one - abs(shift + out.dtype.type(i) * slope)) * values[i]


@numba.njit(error_model="numpy")
def _read_line(line: np.ndarray, start: float, step: float, out: np.ndarray) -> None:
    """out[row] += `line` (LANES zeros at both ends) at start + row step; rows to a multiple of LANES."""
    depth, real = len(line) - 2 * LANES, line.dtype.type
    drift = (LANES - 1) * (step - 1)
    for first in range(0, len(out), LANES):
        b = start + first * (step - 1)
        low = max(int(np.floor(b + min(drift, 0.0))), 1 - first - LANES)
        high = min(int(np.floor(b + max(drift, 0.0))) + 1, depth - 1 - first)
        for offset in range(low, high + 1):
            at = first + offset + LANES
            _add_hats(real(b - offset), real(step - 1), line[at : at + LANES], out[first : first + LANES])


@numba.njit(error_model="numpy")
def _spread_line(values: np.ndarray, start: float, step: float, line: np.ndarray) -> None:
    """The transpose of `_read_line`, which replaces `line`, of a multiple of LANES; `values` has LANES zeros at both
    ends."""
    rows, real = len(values) - 2 * LANES, line.dtype.type
    drift = (LANES - 1) * (step - 1)
    half = (1 + abs(drift) / 2) / abs(step)
    line[:] = 0
    for first in range(0, len(line), LANES):
        b = start + first * (step - 1)
        middle = -(b + drift / 2) / step
        low = max(int(np.ceil(middle - half)), 1 - first - LANES)
        high = min(int(np.floor(middle + half)), rows - 1 - first)
        for offset in range(low, high + 1):
            at = first + offset + LANES
            shift = real(b + offset * step)
            _add_hats(shift, real(step - 1), values[at : at + LANES], line[first : first + LANES])


@numba.njit(error_model="numpy")
def _forward_view(volume: np.ndarray, ray: np.ndarray, rank: int, out: np.ndarray) -> None:
    planes, width, depth = volume.shape
    line = np.zeros(depth + 2 * LANES, volume.dtype)
    for column in range(len(out)):
        e_m, e_a, _ = _direction(ray, column, 0)
        if _is_main(e_m, e_a, 0.0, rank):
            for plane in range(planes):
                a, start, step = _crossing(ray, column, plane)
                if 0 < a < width - 1:
                    left = int(a)
                    _mix(volume[plane, left], volume[plane, left + 1], volume.dtype.type(a - left), line)
                    _read_line(line, start, step, out[column])


@numba.njit(error_model="numpy")
def _adjoint_plane(values: np.ndarray, rays: np.ndarray, rank: int, plane: int, out: np.ndarray) -> None:
    width, depth = out.shape
    line = np.zeros(depth, out.dtype)
    for view in range(len(values)):
        for column in range(values.shape[1]):
            e_m, e_a, _ = _direction(rays[view], column, 0)
            if _is_main(e_m, e_a, 0.0, rank):
                a, start, step = _crossing(rays[view], column, plane)
                if 0 < a < width - 1:
                    left = int(a)
                    _spread_line(values[view, column], start, step, line)
                    _unmix(line, out.dtype.type(a - left), out[left], out[left + 1])


@_compiled
def forward_upright(volume: np.ndarray, rays: np.ndarray, rank: int, out: np.ndarray) -> None:
    """Adds the ray sums whose main axis is the volume's first to `out`, with rows padded to a multiple of LANES."""
    for view in numba.prange(len(out)):
        _forward_view(volume, rays[view], rank, out[view])


@_compiled
def adjoint_upright(values: np.ndarray, rays: np.ndarray, rank: int, out: np.ndarray) -> None:
    """The transpose of `forward_upright`: adds what `values` spread to the volume `out`.

    `values` (views columns rows) have LANES zeros at both ends of the rows; b of `out` fills a multiple of LANES.
    """
    for plane in numba.prange(len(out)):
        _adjoint_plane(values, rays, rank, plane, out[plane])


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
