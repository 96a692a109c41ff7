"""NIfTI in and out: (z y x) in memory, (x y z) on disk, mm, qform and sform both set."""

import os
import zlib
from pathlib import Path

import nibabel
import numpy as np

from data.atomic import atomic_path
from data.errors import InputError
from data.volume import Volume, to_closest_ras

MAX_VOXELS = 2**31


def read_volume(path: str | os.PathLike, dtype=np.float32, closest_ras: bool = False) -> Volume:
    """Read a 3D NIfTI as a Volume (z y x), axes as stored, or turned to closest RAS.

    Scale factors are applied. meta["orientation"] is "unknown" where the header has neither qform nor sform.
    Raises InputError: not a NIfTI, not 3D, complex or colour, truncated, or larger than MAX_VOXELS.
    """
    path = Path(path)
    image = _open(path)
    shape = _shape_xyz(path, image)
    try:
        array = np.asarray(image.dataobj, dtype=dtype).reshape(shape)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{path} ends too early or is damaged: copy it again from its source.", "truncated") from error
    known = int(image.header["sform_code"]) > 0 or int(image.header["qform_code"]) > 0
    meta = {"orientation": "known" if known else "unknown"}
    volume = Volume.from_affine(array.transpose(2, 1, 0), image.affine, meta)
    volume = to_closest_ras(volume) if closest_ras else volume
    return Volume(np.ascontiguousarray(volume.array_zyx), volume.affine, volume.spacing_mm, meta)


def write_volume(
    path: str | os.PathLike, array_zyx: np.ndarray, affine: np.ndarray, dtype=np.float32, description: str = ""
) -> None:
    """Write (z y x) as NIfTI-1, atomically: qform 1, sform 1, mm, no scale factors, the same bytes every time.

    Integer dtypes are rounded and clipped to their range. `description` is cut to the 79 characters of the header.
    """
    array = np.asarray(array_zyx).transpose(2, 1, 0)
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        array = np.clip(np.rint(array), limits.min, limits.max)
    image = nibabel.Nifti1Image(np.asarray(array, dtype=dtype, order="F"), np.asarray(affine, float))
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = description.encode("ascii", "replace")[:79]
    with atomic_path(path) as temporary:
        nibabel.save(image, temporary)


def _open(path: Path):
    if not path.is_file():
        raise InputError(f"{path} is not there: check the path.", "missing")
    try:
        image = nibabel.load(path)
    except (nibabel.filebasedimages.ImageFileError, OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{path} cannot be read as NIfTI: copy it again or remove it.", "undecodable") from error
    if not isinstance(image, nibabel.Nifti1Image):
        raise InputError(f"{path} is not NIfTI: convert it to .nii.gz first.", "undecodable")
    return image


def _shape_xyz(path: Path, image) -> tuple[int, int, int]:
    shape = image.shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise InputError(f"{path} has {len(shape)} dimensions and not 3: give one 3D volume a file.", "not-3d")
    if image.get_data_dtype().kind not in "iuf":
        raise InputError(f"{path} holds colour or complex values: give one real value a voxel.", "not-scalar")
    voxels = int(np.prod(shape, dtype=np.int64))
    if not 0 < voxels <= MAX_VOXELS:
        raise InputError(f"{path} claims {voxels} voxels, more than {MAX_VOXELS} or none: cut it up.", "too-large")
    stored = image.dataobj.offset + voxels * image.get_data_dtype().itemsize
    if not path.name.endswith((".gz", ".bz2", ".zst")) and path.stat().st_size < stored:
        raise InputError(f"{path} ends too early: copy it again from its source.", "truncated")
    return shape
