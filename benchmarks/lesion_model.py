"""Synthetic lesions and the places for them, in volumes (z y x)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from solvers.matched_filter import Spacing, ball, edge_of, overlap, profile

MOST_CANDIDATES = 50_000


@dataclass(frozen=True)
class Lesion:
    """A ball at a voxel (z y x), its diameter in mm and its contrast in the volume's units.

    relative: the contrast as the table of contrasts has it, for MR a share of the local signal; null: `contrast`.
    """

    centre: tuple[int, int, int]
    diameter_mm: float
    contrast: float
    tissue: str
    relative: float | None = None


def insert(volume: np.ndarray, lesions: Sequence[Lesion], spacing_mm: Spacing) -> np.ndarray:
    """The volume plus all lesions; what reaches over its border is cut off."""
    out = np.array(volume, dtype=np.float32)
    for lesion in lesions:
        shape = profile(lesion.diameter_mm, spacing_mm, edge_of(spacing_mm))
        target, source = overlap(out.shape, lesion.centre, shape.shape)
        out[target] += (lesion.contrast * shape[source]).astype(np.float32)
    return out


def distance_inside(mask: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    """Distance in mm of every voxel of the mask to the nearest voxel outside it; the volume's ends are no border."""
    if mask.all():
        return np.full(mask.shape, np.inf)
    return ndimage.distance_transform_edt(mask, sampling=spacing_mm)


def random_places(
    mask: np.ndarray,
    count: int,
    apart_mm: float,
    spacing_mm: Spacing,
    generator: np.random.Generator,
    taken: Sequence[Sequence[int]] = (),
) -> list[tuple[int, int, int]]:
    """Up to `count` random voxels of the mask, no two (nor any of `taken`) nearer than `apart_mm`."""
    flat = np.flatnonzero(mask)
    flat = generator.permutation(flat)[:MOST_CANDIDATES]
    candidates = np.stack(np.unravel_index(flat, mask.shape), axis=1)

    def far_from(place: Sequence[int]) -> np.ndarray:
        return (((candidates - np.asarray(place)) * spacing_mm) ** 2).sum(axis=1) >= apart_mm**2

    for place in taken:
        candidates = candidates[far_from(place)]
    chosen: list[tuple[int, int, int]] = []
    while len(chosen) < count and len(candidates):
        place = tuple(int(i) for i in candidates[0])
        chosen.append(place)
        candidates = candidates[far_from(place)]
    return chosen


def local_maxima(response: np.ndarray, threshold: float, mask: np.ndarray, radius_mm: float, spacing_mm: Spacing):
    """Voxels (n, 3) of the mask where the response is above the threshold and the largest within a radius."""
    largest = ndimage.maximum_filter(response, footprint=ball(radius_mm, spacing_mm), mode="nearest")
    return np.argwhere((response == largest) & (response > threshold) & mask)


def remove(volume: np.ndarray, structure: np.ndarray, spacing_mm: Spacing, shell_mm: float) -> np.ndarray:
    """The volume with a small structure (flags z y x) replaced by the mean of the shell about it, edges blended.

    The structure is grown by one voxel in the slice; the shell is what lies within `shell_mm` of that.
    """
    grown = ndimage.binary_dilation(structure, np.array([[[0, 1, 0], [1, 1, 1], [0, 1, 0]]], bool))
    away = ndimage.distance_transform_edt(~grown, sampling=spacing_mm)
    shell = (away > 0) & (away <= shell_mm)
    weight = np.clip(ndimage.gaussian_filter(grown.astype(np.float64), (0, 0.7, 0.7)) * 1.5, 0, 1)
    filled = volume * (1 - weight) + weight * float(np.median(volume[shell]))
    return filled.astype(np.float32)


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """P(positive > negative) + P(equal) / 2 over all pairs (Mann and Whitney); nan where a class is empty."""
    positive, negative = np.asarray(positive, dtype=np.float64), np.asarray(negative, dtype=np.float64)
    if positive.size == 0 or negative.size == 0:
        return float("nan")
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, side="left")
    up_to = np.searchsorted(ordered, positive, side="right")
    return float((below + up_to).mean() / (2 * negative.size))
