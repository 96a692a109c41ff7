"""Discs, whose line integrals are known in closed form for every beam."""

from __future__ import annotations

import numpy as np

from operators.ct_geometry import Beam, ParallelBeam

Disc = tuple[float, float, float, float]


def chords(beam: Beam, discs: tuple[Disc, ...]) -> np.ndarray:
    """Sum of value * 2 sqrt(r^2 - distance^2) over discs (x, y, r in mm, value), shape (views bins)."""
    rows = beam.vectors()
    places = np.arange(beam.bins) - (beam.bins - 1) / 2
    points = rows[:, None, 2:4] + places[None, :, None] * rows[:, None, 4:]
    first = np.broadcast_to(rows[:, None, :2], points.shape)
    parallel = isinstance(beam, ParallelBeam) or getattr(beam, "kind", "") == "parallel_vec"
    ray = first if parallel else points - first
    ray = ray / np.hypot(ray[..., 0], ray[..., 1])[..., None]
    total = np.zeros(points.shape[:2])
    for x, y, radius, value in discs:
        away = np.array([x, y]) - points
        distance = away[..., 0] * ray[..., 1] - away[..., 1] * ray[..., 0]
        total += value * 2 * np.sqrt(np.clip(radius**2 - distance**2, 0, None))
    return total
