"""A small ball in a volume (z y x) and the filter that measures how much of it is there.

A ball is contrast * p with p the indicator of a ball convolved with an isotropic Gaussian of standard deviation b (its
edge) and averaged over every voxel (partial volume).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import signal, special

Spacing = tuple[float, float, float]
SUBVOXELS = 3


@dataclass(frozen=True)
class MatchedFilter:
    """Weights (z y x), odd sides, sum 0: their product with an image of `profile` is 1, with a constant 0."""

    weights: np.ndarray
    profile: np.ndarray

    def amplitude(self, volume: np.ndarray) -> np.ndarray:
        """Least-squares amplitude of a lesion on a flat background at every voxel (z y x), in the volume's units."""
        margins = [(side // 2, side // 2) for side in self.weights.shape]
        padded = np.pad(np.asarray(volume, dtype=np.float64), margins, mode="edge")
        return signal.oaconvolve(padded, self.weights[::-1, ::-1, ::-1], mode="valid")

    def at(self, volume: np.ndarray, place: Sequence[int]) -> float:
        """The amplitude at one voxel."""
        rows = [
            np.arange(i - s // 2, i + s // 2 + 1).clip(0, n - 1)
            for i, s, n in zip(place, self.weights.shape, volume.shape)
        ]
        return float((volume[np.ix_(*rows)] * self.weights).sum())


def blurred_ball(distance_mm: np.ndarray, radius_mm: float, edge_mm: float) -> np.ndarray:
    """Indicator of a ball convolved with an isotropic Gaussian of standard deviation b, at a distance r of its centre:

    [erf((R - r) / (sqrt 2 b)) + erf((R + r) / (sqrt 2 b))] / 2
        - b / (sqrt(2 pi) r) [exp(-(R - r)^2 / (2 b^2)) - exp(-(R + r)^2 / (2 b^2))]
    """
    r = np.maximum(np.asarray(distance_mm, dtype=np.float64), 1e-6 * radius_mm)
    below, above = (radius_mm - r) / edge_mm, (radius_mm + r) / edge_mm
    error = (special.erf(below / np.sqrt(2)) + special.erf(above / np.sqrt(2))) / 2
    tails = edge_mm / (np.sqrt(2 * np.pi) * r) * (np.exp(-(below**2) / 2) - np.exp(-(above**2) / 2))
    return np.clip(error - tails, 0, 1)


def profile(diameter_mm: float, spacing_mm: Spacing, edge_mm: float) -> np.ndarray:
    """p about a voxel's centre (odd sides, z y x), each voxel the mean over SUBVOXELS^3 points; 0 to 1."""
    reach = diameter_mm / 2 + 3 * edge_mm
    axes = []
    for step in spacing_mm:
        half = int(np.ceil(reach / step))
        inside = (np.arange(SUBVOXELS) - (SUBVOXELS - 1) / 2) / SUBVOXELS
        axes.append(((np.arange(-half, half + 1)[:, None] + inside) * step).ravel())
    z, y, x = axes
    distance = np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2)
    fine = blurred_ball(distance, diameter_mm / 2, edge_mm)
    sides = [len(axis) // SUBVOXELS for axis in axes]
    return fine.reshape(sides[0], SUBVOXELS, sides[1], SUBVOXELS, sides[2], SUBVOXELS).mean(axis=(1, 3, 5))


def edge_of(spacing_mm: Spacing) -> float:
    """Standard deviation of a lesion's edge: half a pixel."""
    return 0.5 * spacing_mm[2]


def matched_filter(diameter_mm: float, spacing_mm: Spacing) -> MatchedFilter:
    """Least-squares amplitude of p + constant over a ball whose radius exceeds the lesion's by two pixels, or half.

    With p0 = p less its mean over that ball, the weights are p0 / sum p0^2: the ideal observer in white noise over an
    unknown even background.
    """
    edge = edge_of(spacing_mm)
    inner = profile(diameter_mm, spacing_mm, edge)
    radius = diameter_mm / 2 + max(2 * spacing_mm[2], diameter_mm / 4)
    halves = [int(np.ceil(radius / step)) for step in spacing_mm]
    shape = np.zeros([2 * max(half, side // 2) + 1 for half, side in zip(halves, inner.shape)])
    target, _ = overlap(shape.shape, [side // 2 for side in shape.shape], inner.shape)
    shape[target] = inner
    offsets = np.meshgrid(*((np.arange(s) - s // 2) * step for s, step in zip(shape.shape, spacing_mm)), indexing="ij")
    support = (np.sqrt(sum(o**2 for o in offsets)) <= radius) | (shape > 0.01)
    centred = np.where(support, shape - shape[support].mean(), 0.0)
    return MatchedFilter(centred / (centred**2).sum(), shape)


def ball(radius_mm: float, spacing_mm: Spacing) -> np.ndarray:
    """Flags (z y x), odd sides, of the voxels within a radius; at least the centre."""
    halves = [int(radius_mm / step) for step in spacing_mm]
    grids = np.meshgrid(*(np.arange(-h, h + 1) * step for h, step in zip(halves, spacing_mm)), indexing="ij")
    return sum(g**2 for g in grids) <= radius_mm**2


def overlap(
    shape: tuple[int, ...], centre: Sequence[int], window: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """(slices of the volume, slices of the window) where a window of odd sides about `centre` meets the volume."""
    target, source = [], []
    for size, middle, side in zip(shape, centre, window):
        first = middle - side // 2
        low, high = max(first, 0), min(first + side, size)
        target.append(slice(low, high))
        source.append(slice(low - first, high - first))
    return tuple(target), tuple(source)
