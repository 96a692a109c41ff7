"""Finding one's way in k-space: its centre, calibration region, noise level, and places to keep for testing.

K-space arrays are (z coils y x) with zero frequency at index n // 2 of y and x; masks are (y x) or (z y x).
"""

import numpy as np

from data.errors import InputError

MIN_NOISE_SAMPLES = 100
# Steps along a readout, in cycles per field of view, up to which it shows what lies outside; where that begins, in
# fields of view from the middle.
OVERSAMPLED, OUTSIDE = 0.7, 0.62
# How far beyond the field of view noise is taken, and up to where, in halves of what was encoded.
BESIDE, FILTERED = 0.08, 0.85
# Median of |n| over its standard deviation for Gaussian n.
MEDIAN_TO_SIGMA = 0.6744897501960817


def centre_kspace(kspace: np.ndarray) -> np.ndarray:
    """Shift k-space whose energy peaks at the corner, as an unshifted FFT leaves it, so that it peaks at the centre."""
    energy = np.square(np.abs(kspace)).sum(axis=(0, 1))
    peak = np.unravel_index(int(np.argmax(energy)), energy.shape)
    corner = all(min(at, size - at) < abs(at - size // 2) for at, size in zip(peak, energy.shape, strict=True))
    return np.fft.fftshift(kspace, axes=(-2, -1)) if corner else kspace


def sampling_mask(kspace: np.ndarray) -> np.ndarray:
    """Where any coil is not zero: (y x) when all slices agree, otherwise (z y x)."""
    mask = np.any(kspace != 0, axis=1)
    return mask[0] if np.all(mask == mask[:1]) else mask


def find_calibration(mask: np.ndarray) -> tuple[slice, slice]:
    """The fully sampled rectangle about the centre as slices of y and x, grown side by side; empty if there is none."""
    shared = mask if mask.ndim == 2 else mask.all(axis=0)
    rows, columns = shared.shape
    top, left = rows // 2, columns // 2
    bottom, right = top, left
    if shared[top, left]:
        bottom, right = top + 1, left + 1
    grown = bool(shared[top, left])
    while grown:
        grown = False
        if top > 0 and shared[top - 1, left:right].all():
            top, grown = top - 1, True
        if bottom < rows and shared[bottom, left:right].all():
            bottom, grown = bottom + 1, True
        if left > 0 and shared[top:bottom, left - 1].all():
            left, grown = left - 1, True
        if right < columns and shared[top:bottom, right].all():
            right, grown = right + 1, True
    return slice(top, bottom), slice(left, right)


def noise_per_coil(kspace: np.ndarray, mask: np.ndarray, name: str) -> np.ndarray:
    """Standard deviation (coils) of the noise in each of real and imaginary part, from the outermost samples.

    median(|n|) / 0.6745 over the tenth of the samples that lie farthest out: signal in a few of them does no harm.
    """
    rows, columns = mask.shape[-2:]
    y = (np.arange(rows) - rows // 2) / (rows / 2)
    x = (np.arange(columns) - columns // 2) / (columns / 2)
    radius = np.broadcast_to(np.hypot(y[:, None], x[None]), mask.shape)
    farthest = mask & (radius >= np.quantile(radius[mask], 0.9))
    chosen = np.broadcast_to(farthest, (kspace.shape[0], rows, columns))
    return _spread(np.moveaxis(kspace, 1, 0)[:, chosen], name)


def noise_outside(kspace: np.ndarray, mask: np.ndarray, keep: tuple[int, int] | None, name: str) -> np.ndarray | None:
    """The same (coils) from beside the object, along an oversampled axis that was sampled whole; None without one.

    keep: (rows, columns) of the field of view that was asked for. Only the transform along that axis is made, so that
    the other may be undersampled. The outermost places are left out, where receivers filter.
    """
    for axis, size in ((-2, kspace.shape[2]), (-1, kspace.shape[3])):
        share = 1.0 if keep is None else keep[axis] / size
        place = np.abs(np.arange(size) - size // 2) / (size / 2)
        outside = (place > share + BESIDE) & (place < FILTERED)
        lines = mask.any(axis=axis)
        if not outside.any() or not (mask == np.expand_dims(lines, axis)).all():
            continue
        window = np.hanning(size + 2)[1:-1]
        moved = np.moveaxis(kspace, (1, axis), (0, -1)) * (window / np.sqrt(np.square(window).mean()))
        spectrum = np.fft.fftshift(np.fft.fft(moved, axis=-1, norm="ortho"), axes=-1)
        chosen = np.broadcast_to(lines, spectrum.shape[1:3])
        return _spread(spectrum[:, chosen][..., outside].reshape(kspace.shape[1], -1), name)
    return None


def noise_of_readouts(samples: np.ndarray, trajectory: np.ndarray, name: str) -> np.ndarray:
    """The same from samples (z coils readouts n) along a trajectory (readouts n 2) or (z readouts n 2).

    Straight readouts that are oversampled show, transformed, the object's projection within the field of view and
    noise alone outside; of others the outermost samples are taken, as above.
    """
    steps = np.diff(trajectory, axis=-2)
    step = float(np.median(np.linalg.norm(steps, axis=-1)))
    straight = np.abs(steps - steps.mean(axis=-2, keepdims=True)).max() < 0.05 * step
    if straight and 0 < step <= OVERSAMPLED:
        count = samples.shape[-1]
        window = np.hanning(count + 2)[1:-1]
        projections = np.fft.fft(samples * (window / np.sqrt(np.square(window).sum())), axis=-1)
        outside = np.abs(np.fft.fftfreq(count) / step) > OUTSIDE
        return _spread(np.moveaxis(projections[..., outside], 1, 0).reshape(samples.shape[1], -1), name)
    radius = np.linalg.norm(trajectory, axis=-1)
    farthest = radius >= np.quantile(radius, 0.9)
    chosen = np.broadcast_to(farthest, (samples.shape[0], *samples.shape[2:]))
    return _spread(np.moveaxis(samples, 1, 0)[:, chosen], name)


def _spread(values: np.ndarray, name: str) -> np.ndarray:
    """median(|n|) / 0.6745 over the samples (coils n) and their parts."""
    if values.shape[1] < MIN_NOISE_SAMPLES:
        raise InputError(f"{name}: only {values.shape[1]} samples to estimate noise from; give more slices or samples.")
    parts = np.concatenate([values.real, values.imag], axis=1)
    sigma = np.median(np.abs(parts), axis=1) / MEDIAN_TO_SIGMA
    if not np.all(sigma > 0):
        raise InputError(f"{name}: a coil is zero at the edge of k-space; remove empty coils or zero-filled edges.")
    return sigma


def split_heldout(
    mask: np.ndarray, calibration: tuple[slice, slice], fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(mask to reconstruct from, mask kept for testing), both shaped as `mask`; together they are the mask.

    Whole lines are kept where the mask is made of lines, single places otherwise; never of the calibration region.
    """
    free = mask.copy()
    free[..., calibration[0], calibration[1]] = False
    flat = mask if mask.ndim == 2 else mask.any(axis=0)
    if np.all(flat == flat[:1]) or np.all(flat == flat[:, :1]):
        axis = 0 if np.all(flat == flat[:1]) else 1
        lines = np.flatnonzero(np.any(free if free.ndim == 2 else free.any(axis=0), axis=axis))
        chosen = _choose(lines, fraction, rng)
        kept = np.zeros_like(free)
        kept[(..., slice(None), chosen) if axis == 0 else (..., chosen, slice(None))] = True
        heldout = kept & free
    else:
        heldout = np.zeros_like(free)
        heldout.ravel()[_choose(np.flatnonzero(free), fraction, rng)] = True
    return mask & ~heldout, heldout


def _choose(candidates: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """The fraction of the candidates, at least one where there are ten and the fraction is not zero."""
    count = round(fraction * len(candidates))
    if fraction > 0 and len(candidates) >= 10:
        count = max(count, 1)
    return np.sort(rng.choice(candidates, size=count, replace=False))
