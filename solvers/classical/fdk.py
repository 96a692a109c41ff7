"""Filtered backprojection for circular cone beams with a flat detector (Feldkamp, Davis and Kress 1984)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from operators.cone_geometry import ConeGeometry, ConeVectors, VolumeGrid, projection_matrices
from solvers.classical.fbp import FbpSettings, fbp, ramp_filter
from solvers.classical.fbp_weights import is_shifted, missing_bins, view_weights
from solvers.problem import Problem

# A voxel that is seen in less than this share of half a turn is not scaled up any further.
LEAST_SEEN = 0.25
_VOXELS_AT_ONCE = 2**21
# How far sources may leave a circle about z, and columns its tangent, as a share of its radius and of their length.
NEARLY = 0.1


def fdk(problem: Problem, settings: FbpSettings) -> Tensor:
    """FDK (z y x) in prior units of cone-beam CT data; needs problem.geometry with "grid", "beam", "norm".

    As for `fbp` what is reconstructed is attenuation relative to water, 1 + u. Raises ValueError for other beams and
    for trajectories that are no circle.
    """
    geometry = problem.geometry or {}
    if not isinstance(geometry.get("grid"), VolumeGrid):
        raise ValueError("fdk reconstructs cone beams alone; use fbp for parallel and fan beams.")
    projections = (problem.y + problem.A(torch.ones_like(problem.x_init))) * geometry["norm"]
    if settings.extrapolate is None:
        settings = replace(settings, extrapolate=bool(geometry.get("truncated", False)))
    return backproject_cone(projections, geometry["grid"], geometry["beam"], settings) - 1


def analytic(problem: Problem, settings: FbpSettings) -> Tensor:
    """Filtered backprojection for the beam at hand: `fdk` for cones, `fbp` for the others."""
    cone = isinstance((problem.geometry or {}).get("grid"), VolumeGrid)
    return fdk(problem, settings) if cone else fbp(problem, settings)


def upright(projections: Tensor, beam: ConeGeometry) -> tuple[Tensor, ConeVectors]:
    """The same measurement with columns that run along (cos, sin) of every view, turned round where they do not.

    Raises ValueError where the sources lie on no circle about z or the columns do not run across the axis.
    """
    table = beam.vectors()
    radius = np.hypot(table[:, 0], table[:, 1])
    far = float(radius.mean())
    if np.abs(radius - far).max() > NEARLY * far or np.abs(table[:, 2]).max() > NEARLY * far:
        raise ValueError("fdk needs sources on a circle about the volume's z axis; use cgls or tv.")
    across = (-table[:, 1] * table[:, 6] + table[:, 0] * table[:, 7]) / radius
    if (np.abs(across) < (1 - NEARLY) * np.linalg.norm(table[:, 6:9], axis=1)).any():
        raise ValueError("fdk needs detector columns that run across the volume's z axis; use cgls or tv.")
    back = across < 0
    table[back, 6:9] *= -1
    flip = torch.from_numpy(back).to(projections.device)[:, None, None]
    return torch.where(flip, projections.flip(-1), projections), ConeVectors(table.tolist(), beam.rows, beam.columns)


@dataclass(frozen=True)
class AxisDetector:
    """The detector scaled to the axis of rotation, means over views: column positions a and row positions b in mm,
    (columns) and (rows), zero at the foot of the perpendicular from the source; source_axis_mm along it; and the view
    angles (views) of the sources (sin, -cos)."""

    a_mm: np.ndarray
    b_mm: np.ndarray
    source_axis_mm: float
    angles_rad: np.ndarray

    @property
    def spacing_mm(self) -> float:
        return float(abs(self.a_mm[-1] - self.a_mm[0]) / max(len(self.a_mm) - 1, 1))


def axis_detector(beam: ConeGeometry) -> AxisDetector:
    """The scanner as FDK sees it; of a trajectory of vectors the means over its views."""
    source, centre, u, v = np.moveaxis(beam.vectors().reshape(-1, 4, 3), 1, 0)
    normal = np.cross(u, v)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    to_axis, to_detector = (np.abs((way * normal).sum(1)) for way in (source, centre - source))
    scale = to_axis / to_detector
    positions = []
    for edge, count in ((u, beam.columns), (v, beam.rows)):
        length = np.linalg.norm(edge, axis=1)
        shift = float((((centre - source) * edge).sum(1) / length * scale).mean())
        positions.append((np.arange(count) - (count - 1) / 2) * float((length * scale).mean()) + shift)
    return AxisDetector(*positions, float(to_axis.mean()), np.arctan2(source[:, 0], -source[:, 1]))


def filter_projections(projections: Tensor, detector: AxisDetector, settings: FbpSettings) -> tuple[Tensor, Tensor]:
    """(weighted and filtered projections (views rows columns'), weights of the rays (views columns')).

    Rays count D / sqrt(D^2 + a^2 + b^2) and their share of half a turn: a half for a full turn, Parker's weights (1982)
    for a short scan, Wang's (2002) for a shifted detector, whose missing columns are in columns'.
    """
    device, dtype, source_mm = projections.device, projections.dtype, detector.source_axis_mm
    a, b = (torch.from_numpy(x).to(device, dtype) for x in (detector.a_mm, detector.b_mm))
    share = view_weights(detector.angles_rad, a, source_mm).to(dtype)
    cosine = source_mm / (source_mm**2 + a**2 + b[:, None] ** 2).sqrt()
    missing = missing_bins(a) if is_shifted(a) else (0, 0)
    weighted = torch.nn.functional.pad(projections * cosine * share[:, None, :], missing)
    return ramp_filter(weighted, detector.spacing_mm, settings), torch.nn.functional.pad(share, missing)


def backproject_cone(projections: Tensor, grid: VolumeGrid, beam: ConeGeometry, settings: FbpSettings) -> Tensor:
    """Volume (z y x) whose line integrals are `projections` (views rows columns), in units of projections / mm.

    f = int w D^2 / L^2 q_theta(a, b) dtheta, L the distance from the source along the central ray. Exact in the plane
    of the source, worse the farther from it. A voxel that falls above or below the detector in some views is scaled by
    what the weights of the others leave out, down to LEAST_SEEN of them; where it does so in all, it is zero.
    """
    projections, beam = upright(projections, beam)
    detector = axis_detector(beam)
    filtered, share = filter_projections(projections, detector, settings)
    a = torch.from_numpy(detector.a_mm)
    before = missing_bins(a)[0] if is_shifted(a) else 0
    middle = before + (beam.columns - 1) / 2, (beam.rows - 1) / 2
    frames = beam.vectors().reshape(-1, 4, 3)
    normal = np.cross(frames[:, 2], frames[:, 3])
    scale = np.abs((frames[:, 0] * normal).sum(1) / ((frames[:, 1] - frames[:, 0]) * normal).sum(1))
    image = torch.zeros(grid.shape, dtype=projections.dtype, device=projections.device)
    step = max(1, _VOXELS_AT_ONCE // (grid.rows * grid.columns))
    for start in range(0, grid.slices, step):
        slab = image[start : start + step]
        seen, whole = torch.zeros_like(slab), torch.zeros_like(slab)
        axes = _axes(grid, slice(start, start + step), projections)
        for view, matrix in enumerate(projection_matrices(beam)):
            h, column, row = _places(matrix, axes, middle)
            slab += _bilinear(filtered[view], column, row).mul_((scale[view] / h).square_())
            weight = _bilinear(share[view, None], column, torch.zeros_like(row))
            whole += weight
            seen += weight.mul_(((row + 0.5) >= 0) & (row + 0.5 <= beam.rows))
        slab *= whole / torch.maximum(seen, LEAST_SEEN * whole).clamp_min_(1e-6)
    return image


def _axes(grid: VolumeGrid, slices: slice, like: Tensor) -> list[Tensor]:
    """World coordinates x, y, z in mm of some slices, each with the shape that broadcasts to (z y x)."""
    x, y, z = (
        (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * step
        for n, step in ((grid.columns, grid.pixel_mm), (grid.rows, -grid.pixel_mm), (grid.slices, grid.slice_mm))
    )
    return [c.to(like.device, like.dtype) for c in (x[None, None], y[None, :, None], z[slices, None, None])]


def _places(matrix: np.ndarray, axes: list[Tensor], middle: tuple[float, float]) -> tuple[Tensor, Tensor, Tensor]:
    """(h, column, row) of the voxels in one view, (z y x); see `projection_matrices`."""
    h, column, row = (
        axes[0] * float(line[0]) + axes[1] * float(line[1]) + axes[2] * float(line[2]) + float(line[3])
        for line in matrix
    )
    return h, column / h + middle[0], row / h + middle[1]


def _bilinear(image: Tensor, column: Tensor, row: Tensor) -> Tensor:
    """Image (rows columns) at fractional places; the edge's value up to half a pixel outside, zero beyond."""
    size = image.shape
    points = torch.stack([(2 * column + 1) / size[1] - 1, (2 * row + 1) / size[0] - 1], -1).reshape(1, 1, -1, 2)
    sampled = torch.nn.functional.grid_sample(image[None, None], points, padding_mode="border", align_corners=False)
    return sampled.masked_fill_((points.abs() > 1).any(-1), 0.0).reshape(column.shape)
