"""Cartesian sampling masks with a fully sampled calibration region in the centre of k-space.

All masks are boolean (y x) tensors. The 1D masks leave out whole columns (phase encoding along x, readout along y).
``acceleration`` counts everything: places of the grid divided by places sampled, calibration included.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def _numpy_generator(generator: torch.Generator | int) -> np.random.Generator:
    if isinstance(generator, torch.Generator):
        device = generator.device
        return np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator, device=device)))
    return np.random.default_rng(generator)


def _check(acceleration: float, calibration_fraction: float) -> None:
    if not acceleration >= 1:
        raise ValueError(f"The acceleration must be at least 1, not {acceleration}.")
    if not 0 <= calibration_fraction <= 1:
        raise ValueError(f"The calibration fraction must lie in [0, 1], not {calibration_fraction}.")


def _centred(length: int, count: int) -> slice:
    start = length // 2 - count // 2
    return slice(start, start + count)


def _columns_budget(columns: int, acceleration: float, calibration_fraction: float) -> tuple[int, slice]:
    """Columns to sample in all, and the calibration columns among them; ValueError when these alone are too many."""
    _check(acceleration, calibration_fraction)
    total, calibration = round(columns / acceleration), round(columns * calibration_fraction)
    if calibration > total:
        raise ValueError(
            f"{calibration} calibration lines are more than the {total} lines that acceleration {acceleration} leaves."
        )
    return total, _centred(columns, calibration)


def _from_columns(chosen: np.ndarray, rows: int) -> Tensor:
    return torch.from_numpy(chosen)[None, :].repeat(rows, 1)


def random_1d(
    shape_yx: tuple[int, int], acceleration: float, calibration_fraction: float, generator: torch.Generator | int
) -> Tensor:
    """Calibration columns plus columns drawn uniformly without replacement; exactly round(x / acceleration) in all."""
    rows, columns = shape_yx
    total, centre = _columns_budget(columns, acceleration, calibration_fraction)
    chosen = np.zeros(columns, dtype=bool)
    chosen[centre] = True
    free = np.flatnonzero(~chosen)
    chosen[_numpy_generator(generator).choice(free, total - int(chosen.sum()), replace=False)] = True
    return _from_columns(chosen, rows)


def equispaced_1d(
    shape_yx: tuple[int, int], acceleration: float, calibration_fraction: float, generator: torch.Generator | int
) -> Tensor:
    """Calibration columns plus evenly spaced ones from a random offset; exactly round(x / acceleration) in all.

    The spacing is widened so that the calibration columns do not lower the acceleration; where it is not a whole
    number the places are rounded down.
    """
    rows, columns = shape_yx
    total, centre = _columns_budget(columns, acceleration, calibration_fraction)
    chosen = np.zeros(columns, dtype=bool)
    chosen[centre] = True
    free = np.flatnonzero(~chosen)
    extra = total - int(chosen.sum())
    offset = _numpy_generator(generator).random()
    if extra:
        chosen[free[np.floor((np.arange(extra) + offset) * len(free) / extra).astype(int)]] = True
    return _from_columns(chosen, rows)


def poisson_disc_2d(
    shape_yx: tuple[int, int], acceleration: float, calibration_fraction: float, generator: torch.Generator | int
) -> Tensor:
    """Variable-density Poisson disc: no two samples closer than a radius that grows with distance from the centre.

    The calibration region is a rectangle of ``calibration_fraction`` of each side. The scale of the radius is found by
    bisection; the last few places are then added at random, so that round(y x / acceleration) are sampled in all.
    """
    rows, columns = shape_yx
    _check(acceleration, calibration_fraction)
    total = round(rows * columns / acceleration)
    fixed = np.zeros((rows, columns), dtype=bool)
    centre = tuple(_centred(n, round(n * calibration_fraction)) for n in shape_yx)
    fixed[centre] = True
    if fixed.sum() > total:
        raise ValueError(f"The calibration region alone samples more than acceleration {acceleration} allows.")
    rng = _numpy_generator(generator)
    order = rng.permutation(np.flatnonzero(~fixed))
    y, x = np.indices(shape_yx)
    distance = np.hypot((y - rows // 2) / (rows / 2), (x - columns // 2) / (columns / 2))
    extra = total - int(fixed.sum())
    chosen = _bisect_radius(order, 0.5 + distance, extra)
    fixed.flat[chosen] = True
    spare = order[~np.isin(order, chosen)]
    fixed.flat[spare[: extra - len(chosen)]] = True
    return torch.from_numpy(fixed)


def _bisect_radius(order: np.ndarray, density: np.ndarray, count: int) -> np.ndarray:
    """The largest thinned set found with at most ``count`` places; radii are scale * density pixels."""
    if count == 0:
        return order[:0]
    # Random sequential discs of radius r jam near 0.7 / r^2 places a pixel.
    guess = math.sqrt(0.7 * float((1 / density.flat[order] ** 2).sum()) / count)
    low, high, best = guess / 2, guess * 2, order[:0]
    for _ in range(8):
        scale = (low + high) / 2
        chosen = _thin(order, scale * density)
        if len(chosen) > count:
            low = scale
        else:
            high = scale
            best = chosen if len(chosen) > len(best) else best
    return best


def _thin(order: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Places of ``order``, taken in turn, that no earlier one excludes; a place excludes all nearer than its radius."""
    rows, columns = radius.shape
    reach = math.ceil(radius.max())
    # Place (y, x) sits at (y + reach, x + reach), so that no disc leaves the array.
    blocked = np.zeros((rows + 2 * reach, columns + 2 * reach), dtype=bool)
    offsets = np.hypot(*np.indices((2 * reach + 1, 2 * reach + 1)) - reach)
    chosen = []
    for place, y, x in zip(order.tolist(), (order // columns).tolist(), (order % columns).tolist()):
        if blocked[y + reach, x + reach]:
            continue
        chosen.append(place)
        half = math.ceil(radius[y, x])
        window = slice(reach - half, reach + half + 1)
        disc = offsets[window, window] < radius[y, x]
        blocked[y + reach - half : y + reach + half + 1, x + reach - half : x + reach + half + 1] |= disc
    return np.asarray(chosen, dtype=order.dtype)
