"""How much each measured ray counts in filtered backprojection: its share of the angle, and of rays measured twice."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

# A gap this many times the usual step is the end of the scan, not a missing view.
GAP_FACTOR = 3.0
# Share of the detector's half width by which it must be shifted before rays outside the overlap are weighted.
SHIFTED = 0.1


def view_weights(angles_rad: np.ndarray, u: Tensor, source_axis_mm: float | None) -> Tensor:
    """Weights (views bins) that sum the rays through a point to an integral over half a turn.

    angles_rad: (views), any order, as operators.ct_geometry has them. u: (bins) mm along the detector scaled to the
    axis, zero on the ray through the axis. source_axis_mm: None for parallel rays. Parallel: opposite views share
    their angle. Fan: half for a full turn (Wang 2002 where the detector is shifted), Parker's weights (1982) with the
    overscan as virtual fan angle for a short scan, one below half a turn.
    """
    parallel = source_axis_mm is None
    cells, first, covered = angular_cells(angles_rad, math.pi if parallel else 2 * math.pi)
    even = torch.from_numpy(cells).to(u.device, u.dtype)[:, None].expand(-1, u.shape[0])
    gamma = torch.atan(u / source_axis_mm) if not parallel else u
    if parallel and angular_cells(angles_rad, 2 * math.pi)[2] < 2 * math.pi:
        return even
    if covered >= 2 * math.pi or parallel:
        return even * (1 if parallel else 0.5) * shifted_weights(gamma)[None, :]
    overscan = (covered - math.pi) / 2
    if overscan <= 0:
        return even
    step = covered / len(angles_rad)
    beta = torch.from_numpy(np.mod(angles_rad - first, 2 * math.pi)).to(u.device, u.dtype)[:, None] + step / 2
    return even * parker_weights(beta, -gamma[None, :], overscan)


def angular_cells(angles_rad: np.ndarray, period: float) -> tuple[np.ndarray, float, float]:
    """(angle that each view stands for (views), first angle of the scan, angle covered: `period` where nothing is left
    out).

    A view's cell reaches half way to its neighbours; where a gap is more than GAP_FACTOR usual steps the scan ends, and
    the cells at its ends are as wide on that side as a usual step. Views of the same angle share their cell.
    """
    angles = np.mod(np.asarray(angles_rad, dtype=np.float64), period)
    angles[angles > period - 1e-9] = 0.0
    order = np.argsort(angles, kind="stable")
    ordered = angles[order]
    gaps = np.diff(ordered, append=ordered[0] + period)
    distinct = gaps[gaps > 1e-9]
    usual = float(np.median(distinct))
    open_ends = gaps > GAP_FACTOR * usual if len(distinct) > 2 else np.zeros(len(gaps), bool)
    inner = np.where(open_ends, usual, gaps)
    cells = np.empty(len(angles))
    cells[order] = (inner + np.roll(inner, 1)) / 2
    if len(distinct) == 1 and len(angles) > 1:
        cells[:] = period / len(angles)
    if not open_ends.any():
        return cells, float(ordered[0]), period
    last = int(np.argmax(gaps))
    return cells, float(ordered[(last + 1) % len(ordered)]), float(period - gaps[last] + usual)


def is_shifted(u: Tensor) -> bool:
    """Whether positions u (bins) along the detector lie so far to one side that `shifted_weights` takes care of it."""
    low, high = float(u.min()), float(u.max())
    return low < 0 < high and abs(low + high) > SHIFTED * (high - low)


def missing_bins(u: Tensor) -> tuple[int, int]:
    """(bins before the first, bins after the last) that would make a detector at u (bins) symmetric about zero."""
    low, high = float(u.min()), float(u.max())
    short = math.ceil(abs(low + high) / (high - low) * (u.shape[0] - 1))
    return (short, 0) if high > -low else (0, short)


def shifted_weights(gamma: Tensor) -> Tensor:
    """Weights (bins) of a full scan whose rays gamma and -gamma add up to two, zero where the detector ends in the
    overlap, smooth between (Wang, Medical Physics 29, 2002, with a sine); ones where the detector is nearly centred."""
    if not is_shifted(gamma):
        return torch.ones_like(gamma)
    low, high = float(gamma.min()), float(gamma.max())
    overlap, sign = min(-low, high), 1.0 if high > -low else -1.0
    return 1 + torch.sin(math.pi / 2 * (sign * gamma / overlap).clamp(-1, 1))


def parker_weights(beta: Tensor, gamma: Tensor, delta: float) -> Tensor:
    """Weights of rays (beta, gamma) and (beta + pi + 2 gamma, -gamma) that add up to one, 0 <= beta <= pi + 2 delta."""
    tiny = 1e-6
    rising = (math.pi / 4 * beta / (delta - gamma).clamp_min(tiny)).sin().square()
    falling = (math.pi / 4 * (math.pi + 2 * delta - beta) / (delta + gamma).clamp_min(tiny)).sin().square()
    weight = torch.where(beta < 2 * (delta - gamma), rising, torch.ones_like(rising))
    return torch.where(beta > math.pi - 2 * gamma, falling, weight)
