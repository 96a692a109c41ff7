"""Ellipsoids with closed-form line integrals, and their voxel volumes: the truth that cone-beam tests compare with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from operators.cone_geometry import ConeGeometry, VolumeGrid


@dataclass(frozen=True)
class Ellipsoid:
    """Constant `value` inside; centre and semi-axes in mm (x y z), turned by `turn_rad` about z."""

    centre: tuple[float, float, float]
    axes: tuple[float, float, float]
    turn_rad: float = 0.0
    value: float = 1.0

    def unit(self, vectors: np.ndarray) -> np.ndarray:
        """World vectors (... 3) in the frame where the ellipsoid is the unit ball at the origin (no shift)."""
        c, s = np.cos(self.turn_rad), np.sin(self.turn_rad)
        return vectors @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) / np.array(self.axes)


# A body, an off-centre hole, a dense lens near the edge: nothing symmetric about any axis.
PHANTOM = (
    Ellipsoid((2.0, -3.0, 1.0), (34.0, 24.0, 26.0), 0.4),
    Ellipsoid((-9.0, 4.0, 6.0), (9.0, 12.0, 7.0), -0.7, -0.6),
    Ellipsoid((14.0, -8.0, -9.0), (6.0, 4.0, 9.0), 0.2, 0.9),
)


def line_integrals(shapes: tuple[Ellipsoid, ...], beam: ConeGeometry) -> np.ndarray:
    """Exact line integrals, float64 (views rows columns): chord of the line o + t d through the unit ball is
    2 sqrt((o.d)^2 - |d|^2 (|o|^2 - 1)) / |d|^2 in t, with |d| = 1 mm in the world."""
    column = (np.arange(beam.columns) - (beam.columns - 1) / 2)[None, :, None]
    row = (np.arange(beam.rows) - (beam.rows - 1) / 2)[:, None, None]
    total = np.zeros(beam.shape)
    for view, vectors in enumerate(beam.vectors()):
        source, centre, u, v = vectors.reshape(4, 3)
        d = centre + column * u + row * v - source
        d /= np.linalg.norm(d, axis=-1, keepdims=True)
        for shape in shapes:
            o, e = shape.unit(source - np.array(shape.centre)), shape.unit(d)
            square = (e**2).sum(-1)
            under = (e @ o) ** 2 - square * (o @ o - 1)
            total[view] += shape.value * 2 * np.sqrt(np.maximum(under, 0)) / square
    return total


def voxels(shapes: tuple[Ellipsoid, ...], grid: VolumeGrid, fine: int = 4) -> np.ndarray:
    """Means over voxels, each sampled at fine^3 points, float64 (z y x); row 0 at the largest y."""
    lengths = ((n * fine, step / fine) for n, step in zip(grid.shape, grid.spacing_mm, strict=True))
    z, y, x = ((np.arange(n) - (n - 1) / 2) * step for n, step in lengths)
    volume = np.zeros(grid.shape)
    for shape in shapes:
        for k in range(grid.slices):
            zz = z[k * fine : (k + 1) * fine]
            points = np.stack(np.broadcast_arrays(x[None, None], -y[None, :, None], zz[:, None, None]), -1)
            inside = (shape.unit(points - np.array(shape.centre)) ** 2).sum(-1) <= 1
            volume[k] += shape.value * inside.reshape(fine, grid.rows, fine, grid.columns, fine).mean((0, 2, 4))
    return volume
