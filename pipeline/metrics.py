"""Figures of merit for volumes, as pure functions of numpy arrays.

Volumes are (z y x). A plane is a way of cutting the volume: axial slices have constant z, coronal constant y,
sagittal constant x. Whoever calls decides on units, clipping and masks; nothing here rescales an image.
"""

import numpy as np
from skimage.metrics import structural_similarity

PLANES = {"axial": 0, "coronal": 1, "sagittal": 2}
SSIM_WINDOW = 7


def slice_mse(estimate: np.ndarray, truth: np.ndarray, plane: str) -> np.ndarray:
    """Mean squared error of each slice of a plane, in squared units of the volumes."""
    others = tuple(axis for axis in range(3) if axis != PLANES[plane])
    return np.mean((estimate.astype(np.float64) - truth) ** 2, axis=others)


def slices_of_interest(mask: np.ndarray, plane: str) -> np.ndarray:
    """One flag a slice: whether the mask (z y x) touches it. Slices of pure air tell nothing and are left out."""
    others = tuple(axis for axis in range(3) if axis != PLANES[plane])
    return np.any(mask, axis=others)


def psnr_db(estimate: np.ndarray, truth: np.ndarray, data_range: float, plane: str, mask: np.ndarray) -> float:
    """Mean over the plane's slices (those the mask touches, each whole) of 10 log10(data_range^2 / slice MSE).

    The mean of slice values in dB differs from the PSNR of the volume's MSE, which is the same for all planes.
    """
    mse = slice_mse(estimate, truth, plane)[slices_of_interest(mask, plane)]
    if mse.size == 0:
        return float("nan")
    with np.errstate(divide="ignore"):
        return float(np.mean(20 * np.log10(data_range) - 10 * np.log10(mse)))


def rmse(estimate: np.ndarray, truth: np.ndarray, plane: str, mask: np.ndarray) -> float:
    """Root mean squared error over the same slices as psnr_db, in the volumes' units."""
    mse = slice_mse(estimate, truth, plane)[slices_of_interest(mask, plane)]
    return float(np.sqrt(np.mean(mse))) if mse.size else float("nan")


def ssim(estimate: np.ndarray, truth: np.ndarray, data_range: float, plane: str, mask: np.ndarray) -> float:
    """Mean over the plane's slices of SSIM (Wang et al. 2004; 7x7 uniform window) with a fixed data range.

    nan where the slices are smaller than the window, as for coronal slices of a stack of fewer than seven.
    """
    axis = PLANES[plane]
    chosen = np.flatnonzero(slices_of_interest(mask, plane))
    sides = [size for other, size in enumerate(truth.shape) if other != axis]
    if min(sides) < SSIM_WINDOW or chosen.size == 0:
        return float("nan")
    values = [
        structural_similarity(
            np.take(truth, index, axis), np.take(estimate, index, axis), win_size=SSIM_WINDOW, data_range=data_range
        )
        for index in chosen
    ]
    return float(np.mean(values))


def z_jump(estimate: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """mean|x[z+1]-x[z]| of the estimate over that of the truth, where both voxels lie in the mask; 1 is ideal.

    nan for a single slice or a truth that does not change along z.
    """
    both = mask[1:] & mask[:-1]
    if not both.any():
        return float("nan")
    reference = np.mean(np.abs(np.diff(truth.astype(np.float64), axis=0))[both])
    if reference == 0:
        return float("nan")
    return float(np.mean(np.abs(np.diff(estimate.astype(np.float64), axis=0))[both]) / reference)


def coverage(lower: np.ndarray, upper: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Fraction of the mask's voxels whose truth lies in [lower, upper]."""
    inside = (truth >= lower) & (truth <= upper)
    return float(np.mean(inside[mask])) if mask.any() else float("nan")


def calibration_ratio(samples: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """(1 + 1/K) sum V / sum (m - x)^2 over the mask for samples (K z y x); 1 when truth and samples are exchangeable.

    V is the unbiased variance of the K samples, m their mean; above 1 the spread claims more error than there is.
    """
    draws = samples.shape[0]
    if draws < 2 or not mask.any():
        return float("nan")
    inside = samples[:, mask].astype(np.float64)
    error = float(np.sum((inside.mean(axis=0) - truth[mask]) ** 2))
    spread = float(np.sum(inside.var(axis=0, ddof=1)))
    return (1 + 1 / draws) * spread / error if error > 0 else float("inf")


def crps(samples: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Fair continuous ranked probability score, mean over the mask, in the volumes' units; smaller is better.

    mean_k|x_k - x| - sum_kl|x_k - x_l| / (2K(K-1)) for samples (K z y x): unbiased in K (Ferro 2014, eq. 8).
    With x_(1) <= ... <= x_(K) the double sum is 2 sum_k (2k - K - 1) x_(k).
    """
    draws = samples.shape[0]
    if draws < 2 or not mask.any():
        return float("nan")
    ordered = np.sort(samples[:, mask].astype(np.float64), axis=0)
    distance = np.mean(np.abs(ordered - truth[mask]), axis=0)
    ranks = 2 * np.arange(1, draws + 1) - draws - 1
    pairs = np.tensordot(ranks, ordered, axes=1) / (draws * (draws - 1))
    return float(np.mean(distance - pairs))
