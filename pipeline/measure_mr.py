"""MR measurements simulated from a magnitude volume; what these and adopted ones share: masks, metadata, checks."""

import math
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch

from data.errors import InputError
from data.volume import Volume, spacing_of
from operators.coils import simulate_sensitivities, simulate_smooth_phase
from operators.fourier import fft2, ifft2
from operators.noise import gaussian_noise
from operators.sampling_masks import equispaced_1d, poisson_disc_2d, random_1d
from pipeline.measurement import Measurement, pack_kspace
from pipeline.mr_sensitivities import cartesian_maps
from pipeline.seeds import generator
from pipeline.settings import MrMeasureSettings, require_choice, require_range

MASKS = {"random_1d": random_1d, "equispaced_1d": equispaced_1d, "poisson_disc_2d": poisson_disc_2d}


class NoiselessMr(NamedTuple):
    """k-space and sensitivities (z coils y x), and the complex image (z y x), all on the working matrix."""

    kspace: torch.Tensor
    sensitivities: torch.Tensor
    image: torch.Tensor


def simulate_mr(volume: Volume, settings: MrMeasureSettings, name: str) -> tuple[Measurement, np.ndarray]:
    """(measurement, truth (z y x): magnitude of the noiseless image on the working grid) of a magnitude volume.

    Smooth phase and coil sensitivities are put on the native grid, k-space is its FFT cropped to the working matrix,
    sampled on a mask, with complex Gaussian noise of noise_fraction times the truth's 99.5th percentile in each part.
    """
    check_settings(settings)
    whole = noiseless_mr(volume, settings)
    clean, known, truth = whole.kspace, whole.sensitivities, whole.image.abs().numpy()
    matrix = clean.shape[-2:]
    peak = float(np.percentile(truth, 99.5))
    if not peak > 0:
        raise InputError(f"{name}: the volume is empty; leave this series out.")
    mask = make_mask(settings, matrix)
    sigma = settings.noise_fraction * peak
    noisy, _ = gaussian_noise(clean, sigma, generator(settings.seed, "mr", "noise"))
    noisy = noisy * mask
    sensitivities = known
    if settings.sensitivities == "estimated":
        sensitivities = cartesian_maps(noisy.numpy(), mask.numpy(), None, "region", 1, name)[0]
    slices, rows, columns = volume.array_zyx.shape
    affine = cropped_affine(volume.affine, (rows, columns), matrix)
    metadata = mr_metadata(settings, "simulate", truth.shape, affine, np.full(settings.coils, sigma))
    metadata["native_shape_zyx"] = [slices, rows, columns]
    tensors = pack_kspace(noisy.numpy(), mask.numpy()) | {"sensitivities": sensitivities.numpy().astype(np.complex64)}
    return Measurement(tensors, metadata), truth


def noiseless_mr(volume: Volume, settings: MrMeasureSettings) -> NoiselessMr:
    """Magnitudes under the smooth phase and coils of the settings' seed, k-space cropped to the working matrix."""
    magnitude = torch.from_numpy(np.maximum(volume.array_zyx, 0).astype(np.float32))
    slices, rows, columns = magnitude.shape
    matrix = working_matrix(volume, settings.working_spacing_mm)
    phasors = simulate_smooth_phase((slices, rows, columns), generator(settings.seed, "mr", "phase"))
    coils = simulate_sensitivities(
        settings.coils, (slices, rows, columns), generator(settings.seed, "mr", "coils"), volume.spacing_mm
    )
    image = magnitude * phasors
    clean = torch.stack([crop_kspace(fft2(coils[z] * image[z]), matrix) for z in range(slices)])
    known = resample_sensitivities(coils, matrix)
    return NoiselessMr(clean, known, torch.stack([(known[z].conj() * ifft2(clean[z])).sum(0) for z in range(slices)]))


def make_mask(settings: MrMeasureSettings, matrix: tuple[int, int]) -> torch.Tensor:
    """The sampling mask (y x); InputError where acceleration and calibration region exclude each other."""
    draw = generator(settings.seed, "mr", "mask")
    try:
        return MASKS[settings.mask](matrix, settings.acceleration, settings.calibration_fraction, draw)
    except ValueError as error:
        raise InputError(f"measure: {error}") from error


def working_matrix(volume: Volume, working_spacing_mm: float | None) -> tuple[int, int]:
    """(rows, columns): the native ones, or the even numbers whose pixels come nearest to the spacing, never more."""
    _, rows, columns = volume.array_zyx.shape
    if working_spacing_mm is None:
        return rows, columns
    _, row_mm, column_mm = volume.spacing_mm

    def nearest(count: int, spacing_mm: float) -> int:
        return min(count, 2 * max(round(count * spacing_mm / working_spacing_mm / 2), 4))

    return nearest(rows, row_mm), nearest(columns, column_mm)


def crop_kspace(kspace: torch.Tensor, matrix: tuple[int, int]) -> torch.Tensor:
    """Centre of k-space (... y x) on a smaller matrix, scaled so that an orthonormal inverse keeps the intensities."""
    rows, columns = kspace.shape[-2:]
    top, left = rows // 2 - matrix[0] // 2, columns // 2 - matrix[1] // 2
    scale = math.sqrt(matrix[0] * matrix[1] / (rows * columns))
    return kspace[..., top : top + matrix[0], left : left + matrix[1]] * scale


def cropped_places(native: int, matrix: int) -> np.ndarray:
    """Native indices of the pixels of an image whose k-space was cropped: index n // 2 stays at the origin."""
    return native // 2 + (np.arange(matrix) - matrix // 2) * native / matrix


def cropped_affine(affine: np.ndarray, native: tuple[int, int], matrix: tuple[int, int]) -> np.ndarray:
    """Affine of that image; native and matrix are (rows, columns)."""
    step = np.eye(4)
    for axis, rows_or_columns in ((1, 0), (0, 1)):
        size, coarse = native[rows_or_columns], matrix[rows_or_columns]
        step[axis, axis], step[axis, 3] = size / coarse, cropped_places(size, coarse)[0]
    return np.asarray(affine, dtype=np.float64) @ step


def resample_sensitivities(coils: torch.Tensor, matrix: tuple[int, int]) -> torch.Tensor:
    """Sensitivities (z coils y x) at the pixels of the cropped image, by linear interpolation; sum_c |S_c|^2 = 1."""
    rows, columns = coils.shape[-2:]
    if (rows, columns) == matrix:
        return coils
    down, across = (_interpolation(size, coarse) for size, coarse in zip((rows, columns), matrix, strict=True))
    smooth = down @ coils @ across.T
    return smooth / smooth.abs().square().sum(1, keepdim=True).sqrt().clamp_min(1e-6)


def _interpolation(native: int, matrix: int) -> torch.Tensor:
    """(matrix native) weights of linear interpolation at the cropped places."""
    places = np.clip(cropped_places(native, matrix), 0, native - 1)
    weights = np.clip(1 - np.abs(places[:, None] - np.arange(native)[None]), 0, None)
    return torch.from_numpy(weights).to(torch.complex64)


def mr_metadata(
    settings: MrMeasureSettings, source: str, shape: tuple[int, ...], affine: np.ndarray, sigma: np.ndarray
) -> dict[str, Any]:
    return {
        "modality": "mr",
        "source": source,
        "units": "arbitrary",
        "affine": np.asarray(affine).tolist(),
        "spacing_mm": list(spacing_of(affine)),
        "shape_zyx": [int(size) for size in shape],
        "noise": {"kind": "gaussian", "sigma_per_coil": [float(value) for value in sigma]},
        "settings": asdict(settings),
    }


def check_settings(settings: MrMeasureSettings) -> None:
    require_choice(settings.mask, tuple(MASKS), "measure.mask")
    require_choice(settings.sensitivities or "known", ("known", "estimated"), "measure.sensitivities")
    require_choice(settings.calibration, ("auto", "region", "completed"), "measure.calibration")
    require_range(settings.maps, 1, 2, "measure.maps")
    require_range(settings.coil_energy, 0.5, 1, "measure.coil_energy")
    require_range(1 if settings.virtual_coils is None else settings.virtual_coils, 1, 256, "measure.virtual_coils")
    require_range(settings.coils, 1, 256, "measure.coils")
    require_range(settings.acceleration, 1, 100, "measure.acceleration")
    require_range(settings.calibration_fraction, 0, 1, "measure.calibration_fraction")
    require_range(settings.noise_fraction, 1e-6, 1, "measure.noise_fraction")
    require_range(settings.holdout_fraction, 0, 0.5, "measure.holdout_fraction")
    spacing = settings.working_spacing_mm
    require_range(1.0 if spacing is None else spacing, 0.05, 50, "measure.working_spacing_mm")
