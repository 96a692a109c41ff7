"""Radial, spiral and other ISMRMRD acquisitions with a trajectory, as readouts of each slice."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from data.errors import InputError
from data.ismrmrd_grid import Acquisitions, along_slices, kept, moved, slice_places, spacing_of
from data.kspace_common import KSpace
from data.mr_header import MrHeader


def gather_readouts(path: Path, header: MrHeader, image: Acquisitions) -> KSpace:
    """K-space (z coils readouts samples) with its trajectory; a stack (3D) is transformed along its partitions.

    The first two dimensions of the stored trajectory are taken as kx and ky; a third is not used. Raises InputError
    "trajectory" where there is none or slices differ in the number of readouts.
    """
    order, affine, warnings = slice_places(path, header, image)
    stacked = header.encoded.matrix[2] > 1
    groups = defaultdict(list)
    for index, head in enumerate(image.heads):
        counter = head["idx"]["kspace_encode_step_2"] if stacked else head["idx"]["slice"]
        z = header.encoded.matrix[2] // 2 + int(counter) - header.centre[1] if stacked else order[int(counter)]
        groups[z].append(index)
    columns, rows, partitions = header.encoded.matrix
    if sorted(groups) != list(range(partitions if stacked else len(order))):
        raise InputError(f"{path} lacks partitions of its stack: its slices cannot be taken apart.", "not-separable")
    array, trajectory = _arrays(path, image, [groups[z] for z in range(len(groups))])
    trajectory, said = in_cycles(path, trajectory, (rows, columns))
    if stacked:
        if trajectory.ndim == 4:
            raise InputError(f"{path} has partitions of different trajectories: they cannot be used.", "trajectory")
        number, first = kept(header, 2), partitions // 2 - kept(header, 2) // 2
        array, affine = along_slices(array)[first : first + number], moved(affine, 2, first)
    matrix, trajectory, affine = _without_margin(header, trajectory, affine)
    return KSpace(array, affine, spacing_of(affine), None, trajectory, matrix, warnings=(*warnings, *said))


def _arrays(path: Path, image: Acquisitions, groups: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """((z coils readouts samples), trajectory (readouts samples 2) shared by all slices, else with z first)."""
    shapes = {image.lines[index].shape for group in groups for index in group}
    usable = all(traj.ndim == 2 and traj.shape[1] >= 2 and np.isfinite(traj).all() for traj in image.paths)
    if len(shapes) != 1 or len({len(group) for group in groups}) != 1 or not usable:
        raise InputError(
            f"{path} has readouts without a trajectory, or of different lengths: export it with its trajectory.",
            "trajectory",
        )
    array = np.stack([np.stack([image.lines[index] for index in group], axis=1) for group in groups])
    paths = np.stack([np.stack([image.paths[index][:, 1::-1] for index in group]) for group in groups])
    return array, paths[0] if (paths == paths[:1]).all() else paths


def in_cycles(path: Path, trajectory: np.ndarray, matrix: tuple[int, int]) -> tuple[np.ndarray, tuple[str, ...]]:
    """The trajectory (... 2) as (ky, kx) in cycles per field of view, and what was assumed.

    The format does not fix the unit: up to 0.5 is taken as cycles per pixel, more as cycles per field of view.
    """
    farthest = np.abs(trajectory).reshape(-1, 2).max(axis=0)
    if not farthest.max() > 0 or np.any(farthest > 0.5 * np.array(matrix) + 1):
        raise InputError(f"{path} has a trajectory beyond its encoded matrix: export it again.", "trajectory")
    if farthest.max() <= 0.5 + 1e-3:
        said = "the trajectory was taken as cycles per pixel"
        return (trajectory * np.array(matrix)).astype(np.float32), (said,)
    return trajectory.astype(np.float32), ("the trajectory was taken as cycles per field of view",)


def _without_margin(
    header: MrHeader, trajectory: np.ndarray, affine: np.ndarray
) -> tuple[tuple[int, int], np.ndarray, np.ndarray]:
    """(matrix, trajectory, affine) of the field of view that was asked for, at the same pixel size.

    A readout that is oversampled encodes more than that; an image model without the margin is right as long as nothing
    lies there.
    """
    columns, rows, _ = header.encoded.matrix
    small = kept(header, 1), kept(header, 0)
    scale = np.array([small[0] / rows, small[1] / columns], np.float32)
    affine = moved(moved(affine, 1, rows // 2 - small[0] // 2), 0, columns // 2 - small[1] // 2)
    return small, trajectory * scale, affine
