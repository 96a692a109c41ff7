"""Where the axis of rotation projects on the detector, from the projections themselves.

All find c, in mm on the detector: how far right of the place where the geometry has it the axis really projects. The
geometry takes it as offset_mm - c; no projection is shifted or resampled.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, optimize

from operators.ct_geometry import FanBeam, ParallelBeam
from solvers.classical.fbp_weights import angular_cells

ROWS = 5
MOST_VIEWS = 360
# Largest shift that is looked for, as a share of the detector's width.
REACH = 0.125
FULL_TURN = 2 * math.pi
LEAST_RANGE_PARALLEL = math.radians(150)
# Beyond half a turn of a parallel beam, so that opposite rays were measured.
OVERLAP = math.radians(30)
LEAST_PAIRS = 0.02


@dataclass(frozen=True)
class Centre:
    """shift_mm: c as above, None where it cannot be told; spread_mm: standard deviation between slices, if several."""

    shift_mm: float | None
    method: str
    spread_mm: float | None = None


def find_centre(integrals: np.ndarray, beam: ParallelBeam | FanBeam, truncated: bool) -> Centre:
    """The axis of rotation from line integrals (z views bins), bad samples interpolated.

    opposite rays (where enough of them were measured): the shift for which a ray and its opposite agree best. moments
    (parallel, about half a turn, not truncated): a projection's centre of mass moves as c + a cos + b sin. Otherwise it
    is not found.
    """
    _, _, covered = angular_cells(np.asarray(beam.angles_rad), FULL_TURN)
    parallel = isinstance(beam, ParallelBeam)
    if covered >= math.pi + (OVERLAP if parallel else fan_angle(beam) / 2):
        name, method = "opposite rays", _opposite
    elif parallel and covered >= LEAST_RANGE_PARALLEL and not truncated:
        name, method = "moments", _moments
    else:
        cut = parallel and covered >= LEAST_RANGE_PARALLEL
        return Centre(None, f"not found: {'projections are cut off' if cut else 'the range of angles is too small'}")
    found = [method(integrals[z], beam) for z in _rows(integrals)]
    found = [value for value in found if value is not None]
    if not found:
        return Centre(None, f"not found: {name} had no clear best")
    spread = float(np.std(found, ddof=1)) if len(found) > 1 else None
    return Centre(float(np.median(found)), name, spread)


def fan_angle(beam: FanBeam) -> float:
    """Angle in radians between the outermost rays."""
    return 2 * math.atan(beam.bins * beam.bin_mm / 2 / (beam.source_axis_mm + beam.axis_detector_mm))


def _rows(integrals: np.ndarray) -> list[int]:
    """The slices with most in them: up to ROWS of the half that has most contrast, evenly spread."""
    contrast = integrals.std(axis=(1, 2))
    chosen = np.sort(np.argsort(contrast)[::-1][: max(len(contrast) // 2, min(ROWS, len(contrast)))])
    return [int(z) for z in chosen[np.linspace(0, len(chosen) - 1, min(ROWS, len(chosen))).astype(int)]]


def _positions(beam: ParallelBeam | FanBeam) -> np.ndarray:
    """(bins) mm on the detector from the ray through the axis."""
    return (np.arange(beam.bins) - (beam.bins - 1) / 2) * beam.bin_mm + beam.offset_mm


def _moments(plane: np.ndarray, beam: ParallelBeam) -> float | None:
    mass = plane.sum(axis=1)
    if not (mass > 0).all():
        return None
    centre = (plane * _positions(beam)).sum(axis=1) / mass
    angles = np.asarray(beam.angles_rad)
    design = np.stack([np.ones_like(angles), np.cos(angles), np.sin(angles)], axis=1)
    fit = optimize.least_squares(
        lambda v: design @ v - centre, np.linalg.lstsq(design, centre)[0], loss="soft_l1", f_scale=beam.bin_mm / 4
    )
    return float(fit.x[0])


def _opposite(plane: np.ndarray, beam: ParallelBeam | FanBeam) -> float | None:
    """Least mean square difference of p(beta, u) and p(beta + pi - 2 gamma, -u) over the rays measured both ways.

    tan gamma = u / D, and gamma = 0 for parallel rays. Views are interpolated linearly and bins by cubic splines.
    """
    _, first, covered = angular_cells(np.asarray(beam.angles_rad), FULL_TURN)
    turned = np.mod(np.asarray(beam.angles_rad) - first + 1e-9, FULL_TURN)
    order = np.argsort(turned, kind="stable")[:: math.ceil(beam.views / MOST_VIEWS)]
    angles, values = turned[order], plane[order].astype(np.float64)
    whole = covered >= FULL_TURN - 1e-6
    ends = np.append(angles, angles[0] + FULL_TURN) if whole else angles
    splines = ndimage.spline_filter1d(np.concatenate([values, values[:1]]) if whole else values, axis=1, mode="mirror")
    along = _positions(beam)
    distance = beam.source_axis_mm + beam.axis_detector_mm if isinstance(beam, FanBeam) else math.inf

    def mismatch(c: float) -> float:
        place = (2 * c - along - beam.offset_mm) / beam.bin_mm + (beam.bins - 1) / 2
        gamma = np.arctan((along - c) / distance)
        partner = np.mod(angles[:, None] + math.pi - 2 * gamma[None, :] - ends[0], FULL_TURN) + ends[0]
        seen = (place >= 0) & (place <= beam.bins - 1) & (partner <= ends[-1])
        if seen.mean() < LEAST_PAIRS:
            return math.inf
        rows, bins = np.interp(partner[seen], ends, np.arange(len(ends))), np.broadcast_to(place, seen.shape)[seen]
        low = np.minimum(rows.astype(int), len(ends) - 2)
        share = rows - low
        at = [
            ndimage.map_coordinates(splines, [row, bins], order=3, prefilter=False, mode="mirror")
            for row in (low, low + 1)
        ]
        return float(np.square(values[seen] - (1 - share) * at[0] - share * at[1]).mean())

    return _least(mismatch, beam)


def _least(cost: Callable[[float], float], beam: ParallelBeam | FanBeam) -> float | None:
    """The c with the least cost: a scan in steps of two bins, then Brent's method; None at the end of what is looked
    for."""
    reach = max(REACH * beam.bins, 4.0)
    steps = np.arange(-reach, reach + 1e-9, 2.0)
    costs = [cost(step * beam.bin_mm) for step in steps]
    best = int(np.argmin(costs))
    if best in (0, len(steps) - 1) or not math.isfinite(costs[best]):
        return None
    bounds = (steps[best - 1] * beam.bin_mm, steps[best + 1] * beam.bin_mm)
    found = optimize.minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 0.01 * beam.bin_mm})
    return float(found.x)
