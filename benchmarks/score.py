"""Every figure of a method's result against the truth, as plain JSON values."""

import math
from typing import Any

import numpy as np

from pipeline import metrics
from pipeline.evaluate import patient_mask, scale_of
from pipeline.uncertainty_metrics import judge


def score_image(estimate: np.ndarray, truth: np.ndarray, modality: str) -> dict[str, Any]:
    """PSNR in dB, SSIM and RMSE by plane, and the z-jump, of (z y x) volumes in physical units.

    Clipping, scale and mask are those of the pipeline's own table.
    """
    scale, mask = scale_of(truth, modality), patient_mask(truth, modality)
    volumes = [np.clip(v * scale.factor, *scale.limits) for v in (estimate, truth)]
    planes = metrics.PLANES
    figures = {
        "psnr_db": {plane: metrics.psnr_db(*volumes, scale.data_range, plane, mask) for plane in planes},
        "ssim": {plane: metrics.ssim(*volumes, scale.data_range, plane, mask) for plane in planes},
        "rmse": {plane: metrics.rmse(*volumes, plane, mask) for plane in planes},
        "z_jump": metrics.z_jump(*volumes, mask),
    }
    return finite(figures)


def mean_psnr_db(estimate: np.ndarray, truth: np.ndarray, modality: str) -> float:
    """Mean over the three planes of the PSNR in dB: what settings are searched by."""
    scale, mask = scale_of(truth, modality), patient_mask(truth, modality)
    volumes = [np.clip(v * scale.factor, *scale.limits) for v in (estimate, truth)]
    return float(np.mean([metrics.psnr_db(*volumes, scale.data_range, plane, mask) for plane in metrics.PLANES]))


def finite(value: Any) -> Any:
    """The value with numpy numbers as Python's and what is not finite as None, for JSON."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [finite(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def score_samples(samples: np.ndarray, truth: np.ndarray, modality: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(figures, curves) of the spread of samples (K z y x), K >= 2, within the mask; lengths in the table's units."""
    figures, curves = judge(samples, truth, patient_mask(truth, modality), scale_of(truth, modality).factor)
    return finite(figures), finite(curves)
