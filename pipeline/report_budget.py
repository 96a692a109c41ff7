"""What of a series fits into a page of a given size: how many samples, and how coarse the voxels have to be."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data.errors import InputError
from pipeline.report_series import Image, ReportSeries
from pipeline.report_volumes import block_mean, next_factor, pack, quantisation_step

CT_STEP_HU = 2.0
# In percent.
MAP_STEPS = {"share": 1.0, "flag": 1.0}
# Ends of intervals, which travel as distances from the shown reconstruction.
ENDS = ("lower", "upper", "calibrated")
SPREAD_LEVELS = 150
# Template, figures' picture and provenance; the picture itself and NiiVue are counted by the caller.
OVERHEAD_MB = 0.4
FEWEST_SAMPLES = 3
PROBED_SLICES = 6


@dataclass(frozen=True)
class Packed:
    """Volumes as text by key; factor: voxels (z y x) averaged into one; interval_factor: see interval_factor()."""

    texts: dict[str, str]
    factor: tuple[int, int, int]
    samples: int
    interval_factor: float | None


def steps(series: ReportSeries) -> tuple[float, float]:
    """Quantisation steps of the images and of std and interval, in physical units."""
    images = [image.array_zyx for image in series.by_role("truth", "baseline", "reconstruction")]
    spreads = [image.array_zyx for image in series.by_role("std")]
    coarse = quantisation_step(spreads, 0.0, SPREAD_LEVELS)
    return quantisation_step(images, CT_STEP_HU if series.modality == "ct" else 0.0), coarse


def step_of(series: ReportSeries, role: str) -> float:
    """Quantisation step of a volume by its role, in the volume's unit."""
    if role in MAP_STEPS:
        return MAP_STEPS[role]
    image_step, spread_step = steps(series)
    return spread_step if role in ("std", *ENDS) else image_step


def interval_factor(series: ReportSeries, spread_step: float) -> float | None:
    """f where the interval is the shown reconstruction -+ f std to within a step (clipped at 0 for MR), else None.

    Student's t makes it so; then the interval need not travel.
    """
    lower, upper = (next(iter(series.by_role(role)), None) for role in ("lower", "upper"))
    if not (lower and upper and series.std):
        return None
    shown, std = series.get(series.shown).array_zyx, series.std.array_zyx
    sure = std > spread_step
    if not sure.any():
        return None
    factor = float(np.median((upper.array_zyx[sure] - shown[sure]) / std[sure]))
    ends = shown - factor * std, shown + factor * std
    if series.modality == "mr":
        ends = np.maximum(ends[0], 0), ends[1]
    fits = all(np.abs(end - image.array_zyx).max() <= spread_step for end, image in zip(ends, (lower, upper)))
    return factor if fits else None


def pack_volumes(series: ReportSeries, max_mb: float) -> Packed:
    """The most that fits into max_mb megabytes: first fewer samples, then coarser voxels.

    Interval ends that are packed travel as distances from the shown reconstruction. Raises InputError below one voxel.
    """
    step = {role: step_of(series, role) for role in {image.role for image in series.images}}
    factor_of_std = interval_factor(series, step.get("std", 1.0))
    room = 1e6 * (max_mb - OVERHEAD_MB)
    for factor, samples in _choices(series):
        chosen = [image for image in series.images if _travels(image, series, samples, factor_of_std)]
        if sum(_estimate(series, image, factor, step) for image in chosen) > 1.2 * room:
            continue
        texts = {image.key: pack(block_mean(_values(series, image), factor), step[image.role]) for image in chosen}
        if sum(map(len, texts.values())) <= room:
            return Packed(texts, factor, samples, factor_of_std)
    raise InputError(f"report.max_mb: {max_mb:g} MB is too little for any picture; set it to 10 or more.")


def _choices(series: ReportSeries) -> Iterator[tuple[tuple[int, int, int], int]]:
    """(factor, samples) from the finest and most to the coarsest and none."""
    most = len(series.by_role("sample"))
    factor = (1, 1, 1)
    while True:
        for samples in dict.fromkeys((most, min(most, FEWEST_SAMPLES))):
            yield factor, samples
        coarser = next_factor(factor, series.spacing_mm, series.shape_zyx)
        if coarser == factor:
            yield factor, 0
            return
        factor = coarser


def _travels(image: Image, series: ReportSeries, samples: int, factor_of_std: float | None) -> bool:
    if image.role == "sample":
        return image in series.by_role("sample")[:samples]
    return image.role not in ("lower", "upper") or factor_of_std is None


def _values(series: ReportSeries, image: Image) -> np.ndarray:
    if image.role in ENDS:
        return np.abs(image.array_zyx - series.get(series.shown).array_zyx)
    return image.array_zyx


def _estimate(series: ReportSeries, image: Image, factor: tuple[int, int, int], step: dict[str, float]) -> float:
    """Bytes of the packed text, from a few slabs of it."""
    slices = series.shape_zyx[0]
    if slices <= PROBED_SLICES * factor[0]:
        probed = slice(None)
    else:
        starts = np.linspace(0, slices - factor[0], PROBED_SLICES).astype(int)
        probed = np.concatenate([np.arange(start, start + factor[0]) for start in starts])
    values = np.asarray(image.array_zyx[probed])
    if image.role in ENDS:
        values = np.abs(values - series.get(series.shown).array_zyx[probed])
    return len(pack(block_mean(values, factor), step[image.role])) * slices / len(values)
