"""Is the stated uncertainty right? Figures of posterior samples against the truth, as pure functions of numpy arrays.

Samples are (K z y x), K >= 2; mean m, unbiased standard deviation s, truth and mask are (z y x). The truth's predictive
standard deviation is s sqrt(1 + 1/K): that of a further draw about the mean of K. Lengths keep the volumes' unit.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from data.errors import InputError
from pipeline import metrics

LEVELS = (0.5, 0.8, 0.9, 0.95)
BLOCKS = (2, 4, 8)
BINS = 20
SPARSIFICATION_STEPS = 100
# Ranks of more voxels than this take long and say no more.
MOST_RANKED = 1_000_000


@dataclass(frozen=True)
class Summary:
    """Arrays (z y x) in the samples' units; lower and upper bound the central interval."""

    mean: np.ndarray
    std: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


def half_width_factor(draws: int, interval: float) -> float:
    """t_{K-1} sqrt(1 + 1/K): the half width of the interval in units of the samples' standard deviation."""
    if draws < 2:
        raise InputError("reconstruct.samples: one sample has no spread; set samples to 2 or more for uncertainty.")
    return float(stats.t.ppf(0.5 + interval / 2, draws - 1) * np.sqrt(1 + 1 / draws))


def moments(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and unbiased standard deviation (z y x, float64) of samples."""
    mean = samples.mean(axis=0, dtype=np.float64)
    variance = np.zeros_like(mean)
    for sample in samples:
        variance += (sample - mean) ** 2
    return mean, np.sqrt(variance / (samples.shape[0] - 1))


def summarise(samples: np.ndarray, interval: float) -> Summary:
    """Mean, unbiased standard deviation and interval of samples (K z y x), K >= 2; InputError for K = 1."""
    factor = half_width_factor(samples.shape[0], interval)
    mean, std = moments(samples)
    return Summary(mean, std, mean - factor * std, mean + factor * std)


def coverage_curve(
    mean: np.ndarray, std: np.ndarray, draws: int, truth: np.ndarray, mask: np.ndarray
) -> dict[float, float]:
    """Share of the mask's voxels inside m +- t_{K-1} s sqrt(1 + 1/K), for every level of LEVELS."""
    error = np.abs(truth[mask] - mean[mask])
    return {level: float(np.mean(error <= half_width_factor(draws, level) * std[mask])) for level in LEVELS}


def calibration_curve(
    mean: np.ndarray, std: np.ndarray, draws: int, truth: np.ndarray, mask: np.ndarray, bins: int = BINS
) -> dict[str, Any]:
    """Uncertainty calibration error and its curve (Laves et al. 2020), of standard deviations in bins of equal count.

    The mask's voxels, sorted by s, fall into bins of equal count n_b; `predicted` is the root of each bin's mean
    predictive variance, `actual` its root mean squared error, `uce` = sum n_b/N |predicted - actual|.
    """
    predicted2 = (1 + 1 / draws) * std[mask].astype(np.float64) ** 2
    error2 = (truth[mask].astype(np.float64) - mean[mask]) ** 2
    groups = np.array_split(np.argsort(predicted2, kind="stable"), min(bins, predicted2.size))
    predicted = np.sqrt([predicted2[group].mean() for group in groups])
    actual = np.sqrt([error2[group].mean() for group in groups])
    counts = np.array([group.size for group in groups])
    uce = float(np.sum(counts * np.abs(predicted - actual)) / counts.sum())
    return {"uce": uce, "predicted": predicted.tolist(), "actual": actual.tolist(), "counts": counts.tolist()}


def sparsification(mean: np.ndarray, std: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
    """Area between two sparsification curves (Ilg et al. 2018), and the curves.

    A curve is the root mean squared error of what remains after the share f of the voxels is left out, over that of
    all: those of largest s (`by_std`), or of largest error (`oracle`). `ause` integrates their difference over f; 0 is
    a perfect order, and an s that says nothing has the area above the oracle.
    """
    error2 = (truth[mask].astype(np.float64) - mean[mask]) ** 2
    if error2.sum() == 0:
        return {"ause": 0.0, "removed": [0.0], "by_std": [0.0], "oracle": [0.0]}
    removed = np.arange(SPARSIFICATION_STEPS) / SPARSIFICATION_STEPS
    left = np.maximum(np.ceil((1 - removed) * error2.size).astype(int), 1)
    curves = []
    for order in (np.argsort(std[mask], kind="stable"), np.argsort(error2, kind="stable")):
        remaining = np.cumsum(error2[order])[left - 1] / left
        curves.append(np.sqrt(remaining / error2.mean()))
    ause = float(np.trapezoid(curves[0] - curves[1], removed))
    return {"ause": ause, "removed": removed.tolist(), "by_std": curves[0].tolist(), "oracle": curves[1].tolist()}


def block_means(array: np.ndarray, side: int) -> np.ndarray:
    """Means (... z/b y/b x/b) over cubes of `side` voxels (at most as many slices as there are); a rest is left out."""
    sides = [min(side, array.shape[-3]), side, side]
    counts = [size // edge for size, edge in zip(array.shape[-3:], sides)]
    cropped = array[..., : counts[0] * sides[0], : counts[1] * sides[1], : counts[2] * sides[2]]
    split = [extent for pair in zip(counts, sides) for extent in pair]
    return cropped.reshape(*array.shape[:-3], *split).mean(axis=(-5, -3, -1), dtype=np.float64)


def block_coverage(
    samples: np.ndarray, truth: np.ndarray, mask: np.ndarray, side: int
) -> dict[str, float | int | dict[float, float]]:
    """Coverage at LEVELS and calibration ratio of means over cubes that lie in the mask whole, and how many there are.

    Voxels may be right one by one while their errors are correlated otherwise than the samples'; then blocks are not.
    """
    whole = block_means(mask.astype(np.float64), side) > 1 - 1e-9
    if not whole.any():
        return {"blocks": 0, "coverage": dict.fromkeys(LEVELS, float("nan")), "calibration_ratio": float("nan")}
    coarse, coarse_truth = block_means(samples, side), block_means(truth, side)
    mean, std = moments(coarse)
    return {
        "blocks": int(whole.sum()),
        "coverage": coverage_curve(mean, std, samples.shape[0], coarse_truth, whole),
        "calibration_ratio": metrics.calibration_ratio(coarse, coarse_truth, whole),
    }


def widths(
    mean: np.ndarray, std: np.ndarray, draws: int, truth: np.ndarray, mask: np.ndarray, level: float = 0.9
) -> dict[str, float]:
    """Mean width of the interval, of the oracle's, and their ratio.

    The oracle is the narrowest m +- lambda s that holds the truth in the share `level` of the mask's voxels: above 1
    the ratio is what is paid for covering too much, below 1 the interval covers too little.
    """
    spread, error = std[mask].astype(np.float64), np.abs(truth[mask].astype(np.float64) - mean[mask])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(error == 0, 0.0, error / spread)
    oracle = float(np.quantile(ratio, level, method="inverted_cdf")) if ratio.size else float("nan")
    mean_spread = float(spread.mean()) if spread.size else float("nan")
    width = 2 * half_width_factor(draws, level) * mean_spread
    best = 2 * oracle * mean_spread if np.isfinite(oracle) else float("nan")
    return {"width": width, "oracle_width": best, "ratio": width / best if best > 0 else float("nan")}


def rank_correlation(mean: np.ndarray, std: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Spearman's correlation of s with |m - truth| over the mask's voxels; nan where one of them is constant."""
    step = max(1, -(-int(mask.sum()) // MOST_RANKED))
    spread, error = std[mask][::step], np.abs(truth[mask] - mean[mask])[::step]
    if spread.size < 2 or np.ptp(spread) == 0 or np.ptp(error) == 0:
        return float("nan")
    return float(stats.spearmanr(spread, error).statistic)


def judge(samples: np.ndarray, truth: np.ndarray, mask: np.ndarray, factor: float = 1.0) -> tuple[dict, dict]:
    """(figures by column name, curves for JSON) of samples; lengths are multiplied by `factor`."""
    draws = samples.shape[0]
    mean, std = moments(samples)
    cover = coverage_curve(mean, std, draws, truth, mask)
    calibration = calibration_curve(mean * factor, std * factor, draws, truth * factor, mask)
    sparse = sparsification(mean, std, truth, mask)
    blocks = {side: block_coverage(samples, truth, mask, side) for side in BLOCKS}
    width = widths(mean, std, draws, truth, mask)
    figures = {f"coverage{100 * level:g}": value for level, value in cover.items()}
    figures |= {
        "calibration_ratio": metrics.calibration_ratio(samples, truth, mask),
        "crps": metrics.crps(samples, truth, mask) * factor,
        "uce": calibration["uce"],
        "ause": sparse["ause"],
        "width90": width["width"] * factor,
        "oracle_width90": width["oracle_width"] * factor,
        "width_ratio90": width["ratio"],
        "spearman": rank_correlation(mean, std, truth, mask),
    }
    figures |= {f"block{side}_coverage90": block["coverage"][0.9] for side, block in blocks.items()}
    curves = {
        "samples": draws,
        "coverage": {f"{level:g}": value for level, value in cover.items()},
        "calibration": calibration,
        "sparsification": sparse,
        "blocks": {
            str(side): block | {"coverage": {f"{level:g}": value for level, value in block["coverage"].items()}}
            for side, block in blocks.items()
        },
    }
    return figures, curves
