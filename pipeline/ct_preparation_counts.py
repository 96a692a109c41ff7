"""From detector counts to line integrals with their variance, and which samples are not to be believed.

Arrays are (z views bins). A variance of infinity marks a sample that counts for nothing.
"""

import math
from typing import Any

import numpy as np
from scipy import ndimage

from data.errors import InputError
from data.projections import Frames, Projections

# Median absolute deviation of a normal variable over its standard deviation.
MAD = 0.6744897501960817
LARGEST = 12.0
BINS_AROUND, BINS_FOR_SPREAD = 7, 11
UNSTEADY, STILL, SPIKE = 5.0, 0.1, 8.0
LEAST_OFFSET = 0.05
PASSES = 4
NEIGHBOURS = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], bool)
FINE_STEP_RAD = math.radians(1.0)


def line_integrals(
    projections: Projections, photons_per_count: float | None
) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
    """(line integrals, their variance, record) of counts, transmission or log data; the variance only of counts.

    Counts: p = ln((flat - dark) / (counts - dark)), the flat field interpolated between before and after the scan;
    var(p) = (I/g + e^2) / I^2 + (I0/g + e^2) / (n I0^2) for I, I0 counts above dark, g photons a count, e the dark
    frames' standard deviation and n flat frames. Counts below a photon, or below e, are read as that. Transmission
    that is not positive is read as the smallest positive one. Raises InputError where none is positive.
    """
    if projections.kind == "counts":
        return _from_counts(projections, photons_per_count)
    values = projections.values
    record: dict[str, Any] = {"values": projections.kind}
    if projections.kind == "transmission":
        positive = values[np.isfinite(values) & (values > 0)]
        if not positive.size:
            raise InputError("the transmission is nowhere positive; correct `values` in geometry.json.")
        floor = max(float(positive.min()), math.exp(-LARGEST))
        record["raised_share"] = _share(values < floor)
        values = -np.log(np.maximum(values, floor))
    return values.astype(np.float32, copy=False), None, record


def log_variance(
    integrals: np.ndarray, step_rad: float, noise_of_air: float | None
) -> tuple[np.ndarray, dict[str, Any]]:
    """(variance, record) of log data: exp(p) / N, N from the noise of a ray through air or from the data."""
    photons = photons_of(integrals, step_rad) if noise_of_air is None else noise_of_air**-2
    said = "estimated from the data" if noise_of_air is None else "measure.noise_of_air"
    variance = np.exp(np.clip(integrals, -1, LARGEST)) / np.float32(photons)
    return variance.astype(np.float32), {"photons_of_an_open_ray": photons, "noise": said}


def photons_of(integrals: np.ndarray, step_rad: float) -> float:
    """Photons N of an unattenuated ray, from d = second differences / sqrt(6) and var(d) = exp(p) / N.

    Along views where they lie within a degree, else along bins; the median of |d| exp(-p/2) does not mind edges. Where
    the detector smears neighbouring bins N comes out too high along bins.
    """
    axis = 1 if step_rad <= FINE_STEP_RAD and integrals.shape[1] >= 16 else 2
    p = np.moveaxis(integrals, axis, -1)
    d = (p[..., 2:] - 2 * p[..., 1:-1] + p[..., :-2]) / math.sqrt(6)
    scaled = np.abs(d) * np.exp(-np.clip(p[..., 1:-1], -1, LARGEST) / 2)
    sigma = float(np.nanmedian(scaled)) / MAD
    # Noiseless data: a thousandth of the open ray, rather than weights without bound.
    return 1 / max(sigma, 1e-3) ** 2


def _from_counts(projections: Projections, photons_per_count: float | None) -> tuple[np.ndarray, np.ndarray, dict]:
    flat, after, dark = projections.flat, projections.flat_after, projections.dark
    zero = np.float32(0) if dark is None else dark.mean[:, None, :]
    electronic = np.float32(0) if dark is None or dark.variance is None else dark.variance[:, None, :]
    gain, how = photons_per_count or projections.photons_per_count, "given"
    if gain is None:
        gain, how = _gain(flat, dark)
    views = projections.values.shape[1]
    later = (np.linspace(0, 1, views, dtype=np.float32) if after is not None else np.zeros(views, np.float32))[:, None]
    open_beam = (flat.mean[:, None, :] - zero) * (1 - later)
    frames = (1 - later) ** 2 / flat.count
    if after is not None:
        open_beam = open_beam + (after.mean[:, None, :] - zero) * later
        frames = frames + later**2 / after.count
    signal = projections.values - zero
    floor = np.maximum(np.float32(1 / gain), np.sqrt(electronic))
    record = {"values": "counts", "photons_per_count": gain, "gain": how, "raised_share": _share(signal < floor)}
    record["flat_frames"] = flat.count + (after.count if after is not None else 0)
    record["flat_drift"] = _drift(flat, after, zero)
    dead = ~np.isfinite(signal) | ~(open_beam > floor)
    signal, open_beam = np.maximum(signal, floor), np.maximum(open_beam, floor)
    integrals = np.log(open_beam) - np.log(signal)
    variance = (signal / gain + electronic) / signal**2 + (open_beam / gain + electronic) * frames / open_beam**2
    integrals[dead], variance[dead] = np.nan, np.inf
    return integrals.astype(np.float32, copy=False), variance.astype(np.float32, copy=False), record


def _gain(flat: Frames, dark: Frames | None) -> tuple[float, str]:
    """(photons a count, how it is known): mean over variance of the flat frames, where there are five or more."""
    if flat.variance is None or flat.count < 5:
        return 1.0, "assumed"
    zero = 0.0 if dark is None else dark.mean
    electronic = 0.0 if dark is None or dark.variance is None else dark.variance
    extra = flat.variance - electronic
    usable = extra > 0
    if not usable.any():
        return 1.0, "assumed"
    # The mean of 1/variance of n frames is too large by (n - 1) / (n - 3); the median of the variance is nearly right.
    return float(np.median((flat.mean - zero)[usable]) / np.median(extra[usable])), "from the flat frames"


def _drift(flat: Frames, after: Frames | None, zero: np.ndarray | np.float32) -> float | None:
    """How much brighter the flat field was after the scan, as a share."""
    if after is None:
        return None
    dark = zero if np.isscalar(zero) or zero.ndim == 0 else zero[:, 0, :]
    return float(np.median(after.mean - dark) / np.median(flat.mean - dark) - 1)


def bad_samples(integrals: np.ndarray) -> np.ndarray:
    """Flags (z views bins): not finite, bins that do not follow their neighbours over the views, and single spikes.

    With r = p - what the bins at its sides lead one to expect: a bin is bad where the spread of r over the views is
    UNSTEADY times that of the bins about it, or where p hardly changes from view to view (STILL of what its neighbours
    do) and yet differs from them. A bin that is off by a constant is a ring's cause and not bad. A spike lies outside
    the range of its eight neighbours by SPIKE times the usual change between views, as no edge and no thin wire does.
    """
    finite = np.isfinite(integrals)
    p = integrals if finite.all() else _fill(integrals, finite)
    bad = ~finite
    for z, plane in enumerate(p):
        bins = _bad_bins(plane)
        bad[z] |= bins
        if bins.any():
            plane = interpolate_bins(plane[None], np.broadcast_to(bins, plane.shape)[None])[0]
        bad[z] |= _spikes(plane)
    return bad


def _bad_bins(plane: np.ndarray) -> np.ndarray:
    """Flags (bins) of one slice (views bins). What is worst is mended before its neighbours are looked at again."""
    bad = np.zeros(plane.shape[1], bool)
    for _ in range(PASSES):
        offset = plane - _expected(plane)
        usual = np.median(offset, axis=0)
        spread = np.median(np.abs(offset - usual), axis=0) / MAD
        around = ndimage.median_filter(spread, BINS_FOR_SPREAD, mode="nearest")
        change = np.median(np.abs(np.diff(plane, axis=0)), axis=0)
        still = change < STILL * ndimage.median_filter(change, BINS_FOR_SPREAD, mode="nearest")
        unsteady = spread > UNSTEADY * np.maximum(around, max(float(np.median(spread)), 1e-4))
        worst = spread >= 0.5 * ndimage.maximum_filter(spread, BINS_AROUND, mode="nearest")
        found = ((unsteady & worst) | (still & (np.abs(usual) > LEAST_OFFSET))) & ~bad
        if not found.any():
            break
        bad |= found
        plane = interpolate_bins(plane[None], np.broadcast_to(bad, plane.shape)[None])[0]
    return bad


def _expected(plane: np.ndarray) -> np.ndarray:
    """What the bins beside a bin lead one to expect: the mean of the medians of the three on its left and right."""
    medians = np.pad(ndimage.median_filter(plane, size=(1, 3), mode="nearest"), ((0, 0), (2, 2)), mode="edge")
    return (medians[:, :-4] + medians[:, 4:]) / 2


def _spikes(plane: np.ndarray) -> np.ndarray:
    """Flags (views bins) of samples far outside the range of their eight neighbours."""
    over = plane - ndimage.maximum_filter(plane, footprint=NEIGHBOURS, mode="nearest")
    under = ndimage.minimum_filter(plane, footprint=NEIGHBOURS, mode="nearest") - plane
    change = np.median(np.abs(np.diff(plane, axis=0)), axis=0) / MAD
    usual = ndimage.median_filter(change, BINS_FOR_SPREAD, mode="nearest")
    return np.maximum(over, under) > SPIKE * np.maximum(usual, max(float(np.median(change)), 1e-4))


def _fill(integrals: np.ndarray, good: np.ndarray) -> np.ndarray:
    return interpolate_bins(np.nan_to_num(integrals, nan=0.0, posinf=0.0, neginf=0.0), ~good)


def interpolate_bins(integrals: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """The integrals with bad samples on the straight line between the good bins at either side of them.

    A view without a good bin becomes zero. The values are for filtered backprojection and pictures; solvers give them
    no weight.
    """
    filled = integrals.copy()
    bins = np.arange(integrals.shape[-1])
    for z, view in np.argwhere(bad.any(-1)):
        good = ~bad[z, view]
        filled[z, view, ~good] = np.interp(bins[~good], bins[good], integrals[z, view, good]) if good.any() else 0.0
    return filled


def _share(flags: np.ndarray) -> float:
    return float(np.count_nonzero(flags) / flags.size)
