"""K-space in the form of the fastMRI data sets (.h5).

Data sets of the file (Zbontar et al., arXiv:1811.08839): kspace, (slices coils H W) or (slices H W) for one coil, zero
frequency in the middle, readout along H; ismrmrd_header, XML; optional mask (W), true where a column was measured;
optional reconstruction_rss (slices h w) or reconstruction_esc for one coil, the middle of the image of all samples.
"""

import math
from pathlib import Path

import h5py
import numpy as np

from data.errors import InputError
from data.hdf5 import check_stored
from data.kspace_common import KSpace, axial_affine, check_size, look_into, own_dataset, readable
from data.mr_header import read_header

SLICE_SIDES = ("the data do not say how the volume lies in the patient",)
REFERENCES = ("reconstruction_rss", "reconstruction_esc")


def is_fastmri(path: Path) -> bool:
    """Whether an HDF5 file has the layout; never raises."""

    def look(handle: h5py.File) -> bool:
        return all(own_dataset(handle, name) is not None for name in ("kspace", "ismrmrd_header"))

    return look_into(path, look, False)


def read_fastmri(path: Path) -> KSpace:
    """Rows are H, columns W. Raises InputError: truncated, undecodable (header), shape, not-scalar, too-large."""
    with readable(path), h5py.File(path, "r") as handle:
        array = _kspace(path, handle)
        header = read_header(path, own_dataset(handle, "ismrmrd_header"))
        mask = _mask(path, handle, array)
        reference = _reference(path, handle, array)
    rows, columns = array.shape[2:]
    encoded, recon = header.encoded, header.recon
    pixel_mm = [length / size for length, size in zip(encoded.field_mm, encoded.matrix, strict=True)]
    spacing_mm = (recon.field_mm[2] / recon.matrix[2], pixel_mm[0], pixel_mm[1])
    affine = axial_affine(spacing_mm, (array.shape[0], rows, columns))
    keep = min(rows, max(round(recon.field_mm[0] / pixel_mm[0]), 1)), columns
    warnings = SLICE_SIDES
    if encoded.matrix[0] != rows:
        warnings = (*warnings, "k-space has not as many rows as the header says; its pixels were taken as given there")
    return KSpace(array, affine, spacing_mm, mask=mask, keep=keep, reference=reference, warnings=warnings)


def _kspace(path: Path, handle: h5py.File) -> np.ndarray:
    source = own_dataset(handle, "kspace")
    if source is None or source.ndim not in (3, 4):
        raise InputError(f"{path} has no kspace of its own with the axes (slices coils H W): export it again.", "shape")
    if source.dtype.kind != "c":
        raise InputError(f"{path} holds {source.dtype} and not complex numbers: save it as complex64.", "not-scalar")
    check_size(path, math.prod(source.shape))
    check_stored(path, source)
    array = source[()].astype(np.complex64)
    return array[:, None] if array.ndim == 3 else array


def _mask(path: Path, handle: h5py.File, array: np.ndarray) -> np.ndarray | None:
    """Columns that the file says were measured, and of those the ones that are not zero; None where it does not say."""
    source = own_dataset(handle, "mask")
    if source is None:
        return None
    columns = np.ravel(source[()]).astype(bool) if source.size == array.shape[3] else np.zeros(0, bool)
    if columns.size != array.shape[3]:
        raise InputError(f"{path} has a mask that does not fit the columns of its kspace: export it again.", "shape")
    mask = np.any(array != 0, axis=1) & columns
    return mask[0] if (mask == mask[:1]).all() else mask


def _reference(path: Path, handle: h5py.File, array: np.ndarray) -> np.ndarray | None:
    for name in REFERENCES:
        source = own_dataset(handle, name)
        if source is None:
            continue
        fits = source.ndim == 3 and source.shape[0] == array.shape[0] and source.dtype.kind == "f"
        if not fits or source.shape[1] > array.shape[2] or source.shape[2] > array.shape[3]:
            raise InputError(f"{path} has a {name} that does not fit its kspace: export it again.", "shape")
        return source[()].astype(np.float32)
    return None
