"""Measurements adopted from measured k-space: prepared, thinned if asked, coils estimated, a part kept back.

The steps and what they found are in the metadata under "preparation", in the order in which they were done.
"""

from dataclasses import replace

import numpy as np

from data.errors import InputError
from data.kspace_common import KSpace
from pipeline import kspace as ks
from pipeline.adopt_readouts import adopt_readouts, preparation, prepared_coils
from pipeline.measure_mr import check_settings, make_mask, mr_metadata
from pipeline.measurement import Measurement, pack_kspace, unpack_kspace
from pipeline.mr_prepare import remove_oversampling, rss_image, to_working_grid
from pipeline.mr_second_set import without_second_set
from pipeline.mr_sensitivities import cartesian_maps
from pipeline.seeds import numpy_generator
from pipeline.settings import MrMeasureSettings

# A mask counts as whole if its rectangle holds this share of the places that were measured, and this of the matrix.
WHOLE_OF_MEASURED, WHOLE_OF_MATRIX = 0.99, 0.5
ROLLED = (
    "warning: the image lies at the edges of the field of view: if its transform was made without a shift, say so in "
    'the JSON file with "origin": "corner"'
)
# What the truth of thinned data is.
TRUTH = "root sum of squares of all samples"
# Correlation with a file's own image below which the log warns.
LEAST_CORRELATION = 0.95


def adopt_mr(kspace: KSpace, settings: MrMeasureSettings, name: str) -> tuple[Measurement, np.ndarray | None]:
    """(measurement, truth (z y x) or None): the root sum of squares of all samples where `undersample` thins them.

    The mask is the reader's or read from the samples; noise comes from a noise scan or from the edge of k-space. Raises
    InputError for what cannot be used.
    """
    check_settings(settings)
    if not np.isfinite(kspace.array).all():
        raise InputError(f"{name}: k-space holds values that are not finite; export it again.")
    if settings.sensitivities == "known" and kspace.array.shape[1] > 1:
        raise InputError(
            f"{name}: measured k-space has no known sensitivities; set measure.sensitivities to estimated."
        )
    if kspace.trajectory is not None:
        return adopt_readouts(kspace, settings, name)
    kspace, said = _with_mask(kspace, name)
    beside = ks.noise_outside(kspace.array, kspace.mask, kspace.keep, name)
    kspace, cropped = remove_oversampling(kspace) if settings.remove_oversampling else (kspace, [])
    said += cropped + _compared(kspace)
    kspace, sigma, found = prepared_coils(kspace, beside, settings, name)
    kspace, smaller = to_working_grid(kspace, settings.working_spacing_mm)
    said += found + smaller
    truth = None
    if settings.undersample:
        kspace, truth, thinned = _thinned(kspace, settings, name)
        said.append(thinned)
    maps, found = _maps(kspace, settings, name)
    shape = kspace.shape_zyx
    tensors = pack_kspace(kspace.array, kspace.mask) | {"sensitivities": (maps if maps.ndim == 4 else maps[:, 0])}
    metadata = mr_metadata(settings, "measured", shape, kspace.affine, sigma) | preparation(said + found)
    metadata |= {} if truth is None else {"truth": TRUTH}
    measurement = hold_out_kspace(Measurement(tensors, metadata), settings.holdout_fraction, settings.seed)
    if maps.ndim == 5:
        measurement = without_second_set(measurement, maps[:, 1])
    return measurement, truth


def _with_mask(kspace: KSpace, name: str) -> tuple[KSpace, list[str]]:
    """(zero frequency in the middle, and a mask; places that the mask leaves out are zero; log)."""
    said = []
    if kspace.mask is None:
        array = ks.centre_kspace(kspace.array)
        kspace = replace(kspace, array=array, mask=ks.sampling_mask(array))
        said = [ROLLED] if is_rolled(rss_image(array)) else []
    if not kspace.mask.any(axis=(-2, -1)).all():
        raise InputError(f"{name}: a slice has no samples at all; leave it out.")
    mask = kspace.mask[:, None] if kspace.mask.ndim == 3 else kspace.mask
    return replace(kspace, array=kspace.array * mask), said


def is_rolled(images: np.ndarray) -> bool:
    """Whether less than a tenth of the energy (z y x) lies in the middle quarter of the slices."""
    rows, columns = images.shape[1:]
    middle = _middle(images, rows // 2, columns // 2)
    return bool(np.square(middle).sum() < 0.1 * np.square(images).sum())


def _compared(kspace: KSpace) -> list[str]:
    """How well the image of all samples agrees with the one that came with the data, where k-space is whole."""
    if kspace.reference is None or not is_whole(kspace.mask):
        return []
    ours, theirs = rss_image(kspace.array), kspace.reference
    rows, columns = (min(a, b) for a, b in zip(ours.shape[1:], theirs.shape[1:], strict=True))
    ours, theirs = (_middle(image, rows, columns).ravel().astype(np.float64) for image in (ours, theirs))
    if not ours.std() > 0 or not theirs.std() > 0:
        return []
    correlation = float(np.corrcoef(ours, theirs)[0, 1])
    warning = "warning: " if correlation < LEAST_CORRELATION else ""
    return [f"{warning}the image that came with the data and that of all samples correlate with {correlation:.4f}"]


def _middle(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    top, left = image.shape[1] // 2 - rows // 2, image.shape[2] // 2 - columns // 2
    return image[:, top : top + rows, left : left + columns]


def is_whole(mask: np.ndarray) -> bool:
    """Whether what was measured is one full rectangle about the centre, of at least half the matrix."""
    rows, columns = ks.find_calibration(mask)
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    places = mask.sum(axis=(-2, -1)).max()
    return bool(area >= max(WHOLE_OF_MEASURED * places, WHOLE_OF_MATRIX * mask.shape[-2] * mask.shape[-1]))


def _thinned(kspace: KSpace, settings: MrMeasureSettings, name: str) -> tuple[KSpace, np.ndarray, str]:
    """Whole k-space on a sampling mask, and the image of all of it."""
    if not is_whole(kspace.mask):
        raise InputError(f"{name}: k-space is undersampled already; set measure.undersample to false.")
    truth = rss_image(kspace.array)
    matrix = kspace.array.shape[2:]
    along_x = kspace.phase_axis == "x"
    mask = make_mask(settings, matrix if along_x else matrix[::-1]).numpy()
    mask = (mask if along_x else mask.T) & kspace.mask
    array = kspace.array * (mask[:, None] if mask.ndim == 3 else mask)
    said = f"thinned to {100 * mask.mean():.1f} % of k-space; the truth is the root sum of squares of all samples"
    return replace(kspace, array=array, mask=mask, calibration=None), truth, said


def _maps(kspace: KSpace, settings: MrMeasureSettings, name: str) -> tuple[np.ndarray, list[str]]:
    if kspace.array.shape[1] == 1:
        return np.ones(kspace.array.shape, np.complex64), []
    maps, said = cartesian_maps(
        kspace.array, kspace.mask, kspace.calibration, settings.calibration, settings.maps, name
    )
    return maps.numpy().astype(np.complex64), said


def hold_out_kspace(measurement: Measurement, fraction: float, seed: int) -> Measurement:
    """The measurement with a fraction of its lines or places kept from the reconstruction to test it.

    Nothing is taken from the calibration region, which the sensitivities were estimated from.
    """
    kspace, mask = unpack_kspace(measurement.tensors)
    rng = numpy_generator(seed, "mr", "holdout")
    kept, heldout = ks.split_heldout(mask, ks.find_calibration(mask), fraction, rng)
    if not heldout.any():
        return measurement
    sigma = np.asarray(measurement.metadata["noise"]["sigma_per_coil"])
    tensors = pack_kspace(kspace, kept) | pack_kspace(kspace, heldout, prefix="heldout_")
    tensors["sensitivities"] = measurement.tensors["sensitivities"]
    settings = measurement.metadata["settings"] | {"holdout_fraction": fraction}
    noise = heldout_noise(kspace, heldout, sigma)
    return Measurement(tensors, measurement.metadata | {"heldout_noise": noise, "settings": settings})


def heldout_noise(kspace: np.ndarray, heldout: np.ndarray, sigma: np.ndarray) -> float:
    """|noise| / |data| expected over the samples kept back: the error that a perfect image would have."""
    places = np.broadcast_to(heldout if heldout.ndim == 3 else heldout[None], (kspace.shape[0], *kspace.shape[2:]))
    noise = 2 * places.sum() * np.sum(sigma**2)
    return float(np.sqrt(noise) / np.linalg.norm(np.moveaxis(kspace, 1, 0)[:, places]))


