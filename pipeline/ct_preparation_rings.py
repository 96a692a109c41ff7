"""Stripes of a sinogram, which become rings: how strong they are, and two ways to suppress them."""

import math

import numpy as np
import pywt
from scipy import ndimage

MAD = 0.6744897501960817
BINS_AROUND = 15
# Stripes above this many times what noise alone makes, and above this line integral, are worth a warning.
NOTICE, LEAST = 3.0, 0.002
WAVELET, DAMPING = "db5", 1.3


def stripe_strength(integrals: np.ndarray, variance: np.ndarray) -> tuple[float, float]:
    """(standard deviation of the bins' constant offsets as a line integral, what noise alone would make of it).

    A bin's offset is the median over the views of p less the mean of the two bins beside it.
    """
    offset = integrals[..., 1:-1] - (integrals[..., :-2] + integrals[..., 2:]) / 2
    usual = np.median(offset, axis=1)
    # var(p - mean of two) = 1.5 var(p); the median of n values is pi/2 as uncertain as their mean.
    seen = float(np.median(np.abs(usual - np.median(usual)))) / MAD / math.sqrt(1.5)
    finite = variance[np.isfinite(variance)]
    noise = math.sqrt(math.pi / 2 * float(np.median(finite)) / integrals.shape[1]) if finite.size else 0.0
    return math.sqrt(max(seen**2 - noise**2, 0.0)), noise


def by_sorting(integrals: np.ndarray, size: int = BINS_AROUND) -> np.ndarray:
    """Takes a constant off each bin: how far its values, sorted over the views, lie above those of the bins around it.

    Sorting and the median of `size` bins are those of Vo, Atwood and Drakopoulos 2018 (Optics Express 26, 28396),
    algorithm 3, which puts the smoothed values back and so blurs the object too. A gain that is off by a factor shifts
    the logarithm by a constant, so that here only the median of the difference over the ranks is taken off.
    """
    ordered = np.sort(integrals, axis=1)
    above = ordered - ndimage.median_filter(ordered, size=(1, 1, size), mode="nearest")
    return integrals - np.median(above, axis=1, keepdims=True)


def by_wavelets(integrals: np.ndarray, levels: int | None = None) -> np.ndarray:
    """Muench, Trtik, Marone and Stampanoni 2009 (Optics Express 17, 8567): in each level of a wavelet transform the
    band that is smooth over views and detailed over bins loses its lowest frequencies over the views,
    g = 1 - exp(-k^2 / (2 s^2)) with s = DAMPING.
    """
    result = np.empty_like(integrals)
    for z, plane in enumerate(integrals):
        depth = levels or max(min(pywt.dwt_max_level(min(plane.shape), WAVELET), 5), 1)
        padded = np.pad(plane, ((0, plane.shape[0] % 2), (0, plane.shape[1] % 2)), mode="edge")
        coefficients = pywt.wavedec2(padded, WAVELET, mode="symmetric", level=depth)
        for level in range(1, len(coefficients)):
            horizontal, vertical, diagonal = coefficients[level]
            coefficients[level] = (horizontal, _damped(vertical), diagonal)
        result[z] = pywt.waverec2(coefficients, WAVELET, mode="symmetric")[: plane.shape[0], : plane.shape[1]]
    return result


def _damped(band: np.ndarray) -> np.ndarray:
    """The band without its lowest frequencies over the views."""
    transformed = np.fft.rfft(band, axis=0)
    k = np.arange(transformed.shape[0], dtype=np.float32)[:, None]
    return np.fft.irfft(transformed * (1 - np.exp(-(k**2) / (2 * DAMPING**2))), n=band.shape[0], axis=0)
