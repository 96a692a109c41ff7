"""Measurements adopted from readouts along a trajectory: radial, spiral and others.

Tensors: samples (z coils n) and trajectory (n 2) or (z n 2), ky and kx in cycles per field of view; density (n) or
(z n), the area of k-space that each sample stands for; sensitivities (z coils y x); heldout_samples and
heldout_trajectory of the readouts that are kept from the reconstruction.
"""

from dataclasses import replace

import numpy as np
import torch

from data.errors import InputError
from data.kspace_common import KSpace
from operators.noncartesian_mri import NonCartesianMri
from operators.nufft import density_compensation
from pipeline import kspace as ks
from pipeline.measure_mr import mr_metadata
from pipeline.measurement import Measurement
from pipeline.mr_prepare import compress_coils, prewhiten, to_working_grid
from pipeline.mr_sensitivities import readout_maps
from pipeline.seeds import numpy_generator
from pipeline.settings import MrMeasureSettings

# Readouts that are left whatever is kept back or thinned.
LEAST_READOUTS = 2


def adopt_readouts(kspace: KSpace, settings: MrMeasureSettings, name: str) -> tuple[Measurement, np.ndarray | None]:
    """(measurement, truth (z y x) or None); truth is the root sum of squares of all readouts where they are thinned.

    Thinning keeps the first of every `acceleration` readouts. Raises InputError for what cannot be used.
    """
    if settings.maps > 1:
        raise InputError("measure.maps: two sets of maps are made for Cartesian k-space alone; set it to 1.")
    kspace, sigma, said = prepared_coils(kspace, None, settings, name)
    kspace, smaller = to_working_grid(kspace, settings.working_spacing_mm)
    said += smaller
    truth = None
    if settings.undersample:
        truth, kspace = all_readouts(kspace), _every(kspace, settings.acceleration, name)
        said.append(f"thinned to {kspace.array.shape[2]} readouts; the truth is the root sum of squares of all")
    seen, kept = _split(kspace, settings)
    samples, path = _flat(seen)
    density = density_of(path, kspace.matrix, name)
    if samples.shape[1] == 1:
        maps = np.ones((len(samples), 1, *kspace.matrix), np.complex64)
    else:
        found, log = readout_maps(samples, path, density, kspace.matrix, name)
        maps, said = found.numpy().astype(np.complex64), said + log
    tensors = {"samples": samples, "trajectory": path, "density": density, "sensitivities": maps}
    metadata = mr_metadata(settings, "measured", kspace.shape_zyx, kspace.affine, sigma)
    metadata |= preparation(said) | {"readouts": [seen.array.shape[2], seen.array.shape[3]]}
    metadata |= {} if truth is None else {"truth": "root sum of squares of all readouts, density-compensated"}
    if kept is not None:
        tensors["heldout_samples"], tensors["heldout_trajectory"] = _flat(kept)
        metadata["heldout_noise"] = _noise_share(kept.array, sigma)
    return Measurement(tensors, metadata), truth


def preparation(said: list[str]) -> dict[str, list[str]]:
    """What the log says, for the metadata: all steps, and again those that are warnings."""
    return {"preparation": said, "warnings": [s.removeprefix("warning: ") for s in said if s.startswith("warning: ")]}


def prepared_coils(
    kspace: KSpace, beside: np.ndarray | None, settings: MrMeasureSettings, name: str
) -> tuple[KSpace, np.ndarray, list[str]]:
    """(k-space, noise of each coil, log) after prewhitening and coil compression; k-space along a trajectory or not.

    beside: noise of each coil from outside the field of view, where it could be taken.
    """
    said = []
    whitened = settings.prewhiten and kspace.noise is not None
    if whitened:
        kspace, said = prewhiten(kspace, name)
        sigma = np.full(kspace.array.shape[1], 1 / np.sqrt(kspace.averages))
    elif beside is not None:
        sigma = beside
    elif kspace.trajectory is not None:
        sigma = ks.noise_of_readouts(kspace.array, kspace.trajectory, name)
    else:
        sigma = ks.noise_per_coil(kspace.array, kspace.mask, name)
    where = "the edge of k-space" if kspace.trajectory is None else "the readouts"
    where = where if beside is None else "outside the field of view"
    said.append(f"noise from {'the noise scan' if whitened else where}")
    kspace, sigma, found = compress_coils(kspace, sigma, settings.virtual_coils, settings.coil_energy)
    return kspace, sigma, said + found


def density_of(path: np.ndarray, matrix: tuple[int, int], name: str) -> np.ndarray:
    """Density compensation (n) or (z n); InputError for a trajectory beyond the matrix."""
    try:
        if path.ndim == 2:
            return density_compensation(torch.from_numpy(path), matrix).numpy()
        return np.stack([density_compensation(torch.from_numpy(one), matrix).numpy() for one in path])
    except ValueError as error:
        raise InputError(f"{name}: {error} Correct its matrix or its trajectory.") from error


def all_readouts(kspace: KSpace) -> np.ndarray:
    """Root sum of squares (z y x) of the coils' density-compensated images."""
    samples, path = _flat(kspace)
    density = density_of(path, kspace.matrix, "k-space")
    slices, coils = samples.shape[:2]
    out = np.zeros((slices, *kspace.matrix), np.float32)
    for z in range(slices):
        one, area = (path, density) if path.ndim == 2 else (path[z], density[z])
        operator = NonCartesianMri(
            torch.from_numpy(one), torch.ones((coils, 1, *kspace.matrix), dtype=torch.complex64), torch.from_numpy(area)
        )
        images = operator.adjoint(torch.from_numpy(samples[z][:, None] * np.sqrt(area)))
        out[z] = images.abs().square().sum(0).sqrt().numpy()
    return out


def _flat(kspace: KSpace) -> tuple[np.ndarray, np.ndarray]:
    """(samples (z coils n), trajectory (n 2) or (z n 2)) of readouts."""
    path = kspace.trajectory
    samples = np.ascontiguousarray(kspace.array.reshape(*kspace.array.shape[:2], -1))
    return samples, np.ascontiguousarray(path.reshape(*path.shape[:-3], -1, 2)).astype(np.float32)


def _pick(kspace: KSpace, readouts: np.ndarray) -> KSpace:
    return replace(kspace, array=kspace.array[:, :, readouts], trajectory=kspace.trajectory[..., readouts, :, :])


def _every(kspace: KSpace, acceleration: float, name: str) -> KSpace:
    count = kspace.array.shape[2]
    chosen = np.unique(np.arange(0, count, acceleration).astype(int))
    if len(chosen) < LEAST_READOUTS:
        raise InputError(f"{name}: measure.acceleration {acceleration:g} leaves too few of {count} readouts.")
    return _pick(kspace, chosen)


def _split(kspace: KSpace, settings: MrMeasureSettings) -> tuple[KSpace, KSpace | None]:
    """(readouts to reconstruct from, whole readouts kept back or None)."""
    count = kspace.array.shape[2]
    number = min(round(settings.holdout_fraction * count), count - LEAST_READOUTS)
    if settings.holdout_fraction > 0 and count >= 10:
        number = max(number, 1)
    if number < 1:
        return kspace, None
    rng = numpy_generator(settings.seed, "mr", "holdout")
    kept = np.sort(rng.choice(count, size=number, replace=False))
    return _pick(kspace, np.setdiff1d(np.arange(count), kept)), _pick(kspace, kept)


def _noise_share(samples: np.ndarray, sigma: np.ndarray) -> float:
    """|noise| / |data| expected over samples (z coils readouts n): the error that a perfect image would have."""
    places = samples.size / samples.shape[1]
    return float(np.sqrt(2 * places * np.sum(sigma**2)) / np.linalg.norm(samples))
