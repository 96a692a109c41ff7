"""Preparation of measured k-space before anything is estimated from it: prewhitening, oversampling, coil compression.

Each step takes a KSpace and returns another with a line for the log, or the same with none where it has nothing to do.
K-space is (z coils y x), or (z coils readouts samples) with a trajectory; the steps keep white noise white.
"""

from dataclasses import replace

import numpy as np

from data.errors import InputError
from data.kspace_common import KSpace
from pipeline import kspace as ks
from pipeline.measure_mr import cropped_affine

# Coils up to which compression is not worth its loss.
FEW_COILS = 8
# Noise samples a coil that a covariance needs.
LEAST_NOISE_PER_COIL = 8


def prewhiten(kspace: KSpace, name: str) -> tuple[KSpace, list[str]]:
    """Coils mixed by the inverse Cholesky factor of the noise covariance, which is the identity afterwards.

    Covariance of each of real and imaginary part: C = N N^H / (2 n) of the noise scan N (coils n). Units become those
    of the noise. Raises InputError for a noise scan that is too short or in which coils depend on each other.
    """
    if kspace.noise is None:
        return kspace, []
    noise = kspace.noise.astype(np.complex128)
    coils, count = noise.shape
    if count < LEAST_NOISE_PER_COIL * coils or not np.isfinite(noise).all():
        raise InputError(
            f"{name}: the noise scan has {count} usable samples for {coils} coils, too few to prewhiten with; set "
            "measure.prewhiten to false."
        )
    noise = noise - noise.mean(axis=1, keepdims=True)
    try:
        mix = np.linalg.inv(np.linalg.cholesky(noise @ noise.conj().T / (2 * count)))
    except np.linalg.LinAlgError as error:
        raise InputError(
            f"{name}: the noise scan shows coils that depend on each other; set measure.prewhiten to false."
        ) from error
    said = f"prewhitened with {count} noise samples of each of {coils} coils"
    return replace(_mixed(kspace, mix), noise=None), [said]


def _mixed(kspace: KSpace, mix: np.ndarray) -> KSpace:
    """The coils of all data mixed by a matrix (new coils, coils)."""
    mix = mix.astype(np.complex64)

    def apply(array: np.ndarray | None) -> np.ndarray | None:
        return None if array is None else np.einsum("dc,zcab->zdab", mix, array, optimize=True)

    mask = kspace.mask
    if mask is None and kspace.trajectory is None:
        mask = ks.sampling_mask(kspace.array)
    return replace(kspace, array=apply(kspace.array), calibration=apply(kspace.calibration), mask=mask)


def remove_oversampling(kspace: KSpace) -> tuple[KSpace, list[str]]:
    """The image cropped to the field of view that was asked for, along each axis that was sampled whole.

    An axis that was not sampled whole (an asymmetric echo, a phase encoding) keeps its field of view: cropping would
    mix measured samples with missing ones.
    """
    said = []
    if kspace.keep is None or kspace.trajectory is not None:
        return kspace, said
    for axis, what in ((1, "y"), (2, "x")):
        size, keep = kspace.array.shape[axis + 1], kspace.keep[axis - 1]
        mask = kspace.mask if kspace.mask is not None else ks.sampling_mask(kspace.array)
        if keep >= size:
            continue
        if not _whole(mask, axis - 3):
            said.append(f"oversampling along {what} was kept: that axis was not sampled whole")
            continue
        kspace = _cropped(replace(kspace, mask=mask), axis, keep)
        said.append(f"oversampling along {what} removed: {size} to {keep}")
    return kspace, said


def _whole(mask: np.ndarray, axis: int) -> bool:
    """Whether every sampled line along an axis of the mask is sampled from end to end."""
    return bool((mask == mask.any(axis=axis, keepdims=True)).all())


def _cropped(kspace: KSpace, axis: int, keep: int) -> KSpace:
    """Crop along axis 1 (y) or 2 (x) of the image. The part of an orthonormal transform keeps the noise as it is."""
    size = kspace.array.shape[axis + 1]
    first = size // 2 - keep // 2

    def crop(array: np.ndarray | None) -> np.ndarray | None:
        if array is None:
            return None
        image = _transform(array, axis + 1, np.fft.ifft)
        return _transform(np.take(image, range(first, first + keep), axis + 1), axis + 1, np.fft.fft)

    affine = kspace.affine.copy()
    affine[:3, 3] += affine[:3, 2 - axis] * first
    mask = np.take(kspace.mask, range(keep), axis - 3)
    array = crop(kspace.array) * (mask[:, None] if mask.ndim == 3 else mask)
    return replace(kspace, array=array, calibration=crop(kspace.calibration), mask=mask, affine=affine)


def _transform(array: np.ndarray, axis: int, fft) -> np.ndarray:
    shifted = np.fft.ifftshift(array, axes=axis)
    return np.fft.fftshift(fft(shifted, axis=axis, norm="ortho"), axes=axis).astype(np.complex64)


def to_working_grid(kspace: KSpace, working_spacing_mm: float | None) -> tuple[KSpace, list[str]]:
    """Samples within the even matrix whose pixels come nearest to the spacing; never more than there are.

    Along a trajectory the samples are left out that any readout has beyond it.
    """
    if working_spacing_mm is None:
        return kspace, []
    native, pixel_mm = kspace.shape_zyx[1:], kspace.spacing_mm[1:]
    matrix = tuple(
        min(size, 2 * max(round(size * mm / working_spacing_mm / 2), 4))
        for size, mm in zip(native, pixel_mm, strict=True)
    )
    if matrix == native:
        return kspace, []
    affine = cropped_affine(kspace.affine, native, matrix)
    spacing_mm = (kspace.spacing_mm[0], *(mm * n / m for mm, n, m in zip(pixel_mm, native, matrix, strict=True)))
    placed = replace(kspace, affine=affine, spacing_mm=spacing_mm, keep=None, reference=None)
    said = [f"working grid {matrix[0]} x {matrix[1]} of {native[0]} x {native[1]}"]
    if kspace.trajectory is not None:
        inside = (np.abs(kspace.trajectory) <= np.array(matrix) / 2).all(axis=-1)
        inside = inside.all(axis=tuple(range(inside.ndim - 1)))
        path = kspace.trajectory[..., inside, :]
        return replace(placed, array=kspace.array[..., inside], trajectory=path, matrix=matrix), said
    rows, columns = (slice(n // 2 - m // 2, n // 2 - m // 2 + m) for n, m in zip(native, matrix, strict=True))
    mask = kspace.mask[..., rows, columns]
    separate = None if kspace.calibration is None else kspace.calibration[..., rows, columns]
    return replace(placed, array=kspace.array[..., rows, columns], mask=mask, calibration=separate), said


def compress_coils(
    kspace: KSpace, sigma: np.ndarray, virtual_coils: int | None, energy: float
) -> tuple[KSpace, np.ndarray, list[str]]:
    """(k-space of virtual coils, their noise, log): the strongest combinations of coils (Buehrer et al. 2007).

    Coils are first divided by their noise, so that it stays white. virtual_coils null: as many as hold `energy`, a
    share of all samples' energy; data of few coils are left alone then.
    """
    coils = kspace.array.shape[1]
    if (virtual_coils is None and (coils <= FEW_COILS or energy >= 1)) or (virtual_coils or 0) >= coils:
        return kspace, sigma, []
    scaled = np.moveaxis(kspace.array, 1, 0).reshape(coils, -1) / sigma[:, None]
    values, vectors = np.linalg.eigh(scaled @ scaled.conj().T)
    shares = np.cumsum(values[::-1].clip(0)) / values.clip(0).sum()
    count = virtual_coils or int(np.searchsorted(shares, energy) + 1)
    mix = vectors[:, ::-1][:, :count].conj().T / sigma
    said = f"{coils} coils compressed to {count}, which hold {100 * shares[count - 1]:.2f} % of the energy"
    return _mixed(kspace, mix), np.ones(count), [said]


def rss_image(kspace: np.ndarray) -> np.ndarray:
    """Root sum of squares (z y x) over coils of the images of k-space (z coils y x)."""
    images = _transform(_transform(kspace, 2, np.fft.ifft), 3, np.fft.ifft)
    return np.sqrt(np.square(np.abs(images)).sum(axis=1)).astype(np.float32)
