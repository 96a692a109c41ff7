"""Cartesian ISMRMRD acquisitions put on the encoded grid, and where that grid lies in the patient."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data.errors import InputError
from data.kspace_common import KSpace, affine_of, axial_affine, check_size
from data.mr_header import MrHeader

REVERSE = np.uint64(1 << 21)
# Slice distances may differ by this share of the mean, and slices lie beside their line by this share of it.
EVEN = 0.02


@dataclass(frozen=True)
class Acquisitions:
    """heads: structured array (n); lines: [complex64 (coils samples)]; paths: [float32 (samples dimensions)]."""

    heads: np.ndarray
    lines: list[np.ndarray]
    paths: list[np.ndarray]


def place_lines(path: Path, header: MrHeader, image: Acquisitions, calibration: Acquisitions | None) -> KSpace:
    """K-space (z coils y x) with the readout along x and phase encoding 1 along y, the mean of repeated lines.

    3D data are transformed along the second phase encoding where every line of that direction was measured, and along
    the readout otherwise: planes across the readout are then the slices, and keep both phase encodings undersampled.
    """
    order, affine, warnings = slice_places(path, header, image)
    array, count = _grid(path, header, image, order)
    separate = None
    if calibration is not None:
        separate = _grid(path, header, calibration, order)[0]
    averages = int(count[count > 0].min())
    mask = count[:, 0] > 0
    if header.encoded.matrix[2] == 1:
        keep = (kept(header, 1), kept(header, 0))
        found = KSpace(array, affine, spacing_of(affine), _shared(mask), keep=keep, calibration=separate)
    elif (mask == mask[:1]).all():
        found = _along_partitions(header, array, mask[0], separate, affine)
    elif (mask == mask[..., :1]).all():
        found = _along_readout(header, array, mask[..., 0], separate, affine)
    else:
        raise InputError(
            f"{path} is 3D and whole neither along its second phase encoding nor along its readout: its slices cannot "
            "be taken apart.",
            "not-separable",
        )
    return replace(found, phase_axis="y", averages=averages, warnings=(*warnings, *found.warnings))


def _grid(path: Path, header: MrHeader, lines: Acquisitions, order: dict[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(sum over repeats divided by their number, that number with one axis for coils); (z coils y x).

    For 3D data z is the second phase encoding.
    """
    columns, rows, partitions = header.encoded.matrix
    coils = lines.lines[0].shape[0]
    slices = partitions if partitions > 1 else len(order)
    check_size(path, slices * coils * rows * columns)
    array = np.zeros((slices, coils, rows, columns), np.complex64)
    count = np.zeros((slices, 1, rows, columns), np.uint16)
    for head, line in zip(lines.heads, lines.lines, strict=True):
        if partitions == 1 and int(head["idx"]["slice"]) not in order:
            continue
        z, y = _place(path, header, head, order)
        first = columns // 2 - _echo(head)
        if first < 0 or first + line.shape[1] > columns:
            raise InputError(f"{path} has a readout that does not fit its encoded matrix: export it again.", "shape")
        array[z, :, y, first : first + line.shape[1]] += line
        count[z, 0, y, first : first + line.shape[1]] += 1
    return array / np.maximum(count, 1), count


def _place(path: Path, header: MrHeader, head: np.void, order: dict[int, int]) -> tuple[int, int]:
    """(z, y) of a line; z is the second phase encoding where there is one, else the slice."""
    _, rows, partitions = header.encoded.matrix
    idx = head["idx"]
    y = rows // 2 + int(idx["kspace_encode_step_1"]) - header.centre[0]
    z = partitions // 2 + int(idx["kspace_encode_step_2"]) - header.centre[1]
    if partitions == 1:
        z = order[int(idx["slice"])]
    if not 0 <= y < rows or not 0 <= z < max(partitions, len(order)):
        raise InputError(f"{path} has a line beyond its encoded matrix: export it again.", "shape")
    return z, y


def _echo(head: np.void) -> int:
    """Index of the sample at the centre of k-space, in a readout put forward and without its discarded samples.

    A backward readout that is marked at its middle keeps the centre there.
    """
    total, centre = int(head["number_of_samples"]), int(head["center_sample"])
    pre, post = int(head["discard_pre"]), int(head["discard_post"])
    if not head["flags"] & REVERSE:
        return centre - pre
    centre = total // 2 if 2 * centre == total else total - 1 - centre
    return centre - post


def slice_places(
    path: Path, header: MrHeader, image: Acquisitions
) -> tuple[dict[int, int], np.ndarray, tuple[str, ...]]:
    """(z by slice counter, affine of the encoded grid in RAS mm, warnings).

    Slices are ordered along slice_dir. Raises InputError: gap (uneven), tilt (stacked askew), mixed (turned).
    """
    heads = image.heads
    counters, first = np.unique(heads["idx"]["slice"], return_index=True)
    axes = np.stack([heads[name][first] for name in ("read_dir", "phase_dir", "slice_dir")], axis=-1).astype(float)
    centres = heads["position"][first].astype(float)
    matrix, field_mm = header.encoded.matrix, header.encoded.field_mm
    spacing = np.array([length / size for length, size in zip(field_mm, matrix, strict=True)])
    if matrix[2] > 1 and len(counters) > 1:
        raise InputError(f"{path} holds several 3D slabs: export them one by one.", "mixed")
    if not _is_rotation(axes[0]):
        if len(counters) > 1 and np.ptp(centres, axis=0).any():
            raise InputError(f"{path} has slices without directions: export it with its geometry.", "no-geometry")
        shape = (max(matrix[2], len(counters)), matrix[1], matrix[0])
        said = ("the data do not say how the volume lies in the patient",)
        return {int(c): z for z, c in enumerate(counters)}, axial_affine(tuple(spacing[::-1]), shape), said
    if not np.allclose(axes, axes[0], atol=1e-3):
        raise InputError(f"{path} has slices that are turned against each other: export them one by one.", "mixed")
    normal = axes[0][:, 2]
    along = centres @ normal
    order = np.argsort(along)
    if len(counters) > 1:
        spacing[2] = _even_distance(path, along[order], centres[order], normal)
    centre = centres[order[0]]
    affine = affine_of(centre, axes[0], spacing, (matrix[0], matrix[1]), matrix[2] // 2 if matrix[2] > 1 else 0)
    return {int(counters[index]): z for z, index in enumerate(order)}, affine, ()


def _is_rotation(axes: np.ndarray) -> bool:
    """Three unit vectors at right angles, of either handedness."""
    return bool(np.isfinite(axes).all() and np.allclose(axes.T @ axes, np.eye(3), atol=1e-3))


def _even_distance(path: Path, along: np.ndarray, centres: np.ndarray, normal: np.ndarray) -> float:
    steps = np.diff(along)
    mean = float(steps.mean())
    if steps.min() <= 0 or np.abs(steps - mean).max() > EVEN * mean:
        raise InputError(f"{path} has slices that are not evenly spaced: export them all.", "gap")
    beside = centres - centres[0] - np.outer(along - along[0], normal)
    if np.linalg.norm(beside, axis=1).max() > EVEN * mean:
        raise InputError(f"{path} has slices that are stacked askew: export them one by one.", "tilt")
    return mean


def kept(header: MrHeader, axis: int) -> int:
    """Points along an axis (x y z) that cover the field of view that was asked for."""
    size, share = header.encoded.matrix[axis], header.recon.field_mm[axis] / header.encoded.field_mm[axis]
    return min(size, max(round(size * share), 1))


def _shared(mask: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(mask[0] if (mask == mask[:1]).all() else mask)


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(length) for length in np.linalg.norm(affine[:3, :3], axis=0))
    return z, y, x


def along_slices(array: np.ndarray) -> np.ndarray:
    """Centred orthonormal inverse Fourier transform along the first axis."""
    shifted = np.fft.ifftshift(array, axes=0)
    return np.fft.fftshift(np.fft.ifft(shifted, axis=0, norm="ortho"), axes=0).astype(np.complex64)


def _along_partitions(
    header: MrHeader, array: np.ndarray, mask: np.ndarray, separate: np.ndarray | None, affine: np.ndarray
) -> KSpace:
    """3D k-space (kz coils ky kx) as slices along z, without the slab's oversampling."""
    number, size = kept(header, 2), array.shape[0]
    first = size // 2 - number // 2
    slab = slice(first, first + number)
    affine = moved(affine, 2, first)
    separate = None if separate is None else along_slices(separate)[slab]
    keep = (kept(header, 1), kept(header, 0))
    return KSpace(along_slices(array)[slab], affine, spacing_of(affine), mask, keep=keep, calibration=separate)


def _along_readout(
    header: MrHeader, array: np.ndarray, mask: np.ndarray, separate: np.ndarray | None, affine: np.ndarray
) -> KSpace:
    """3D k-space (kz coils ky kx) as planes across the readout: z is the old x, y the old z, x the old y."""
    number, size = kept(header, 0), array.shape[3]
    first = size // 2 - number // 2
    slab = slice(first, first + number)
    affine = moved(affine, 0, first)[:, [1, 2, 0, 3]]
    planes = along_slices(array.transpose(3, 1, 0, 2))[slab]
    if separate is not None:
        separate = along_slices(separate.transpose(3, 1, 0, 2))[slab]
    said = ("slices were cut across the readout, the direction that was measured whole",)
    return KSpace(planes, affine, spacing_of(affine), mask, calibration=separate, warnings=said)


def moved(affine: np.ndarray, axis: int, first: int) -> np.ndarray:
    """The affine of an image that begins at index FIRST of an axis (x y z)."""
    affine = affine.copy()
    affine[:3, 3] += affine[:3, axis] * first
    return affine
