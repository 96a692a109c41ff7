"""NIfTI in and out: (z y x) in memory, (x y z) on disk, mm, qform and sform both set."""

import gzip
import logging
import math
import os
import struct
import zlib
from pathlib import Path

import nibabel
import numpy as np

from data.atomic import atomic_path
from data.errors import InputError
from data.volume import Volume, to_closest_ras

MAX_VOXELS = 2**31
# Header extensions end before this; deflate packs no better than this; headers of NIfTI-1 and -2 begin with their size.
MAX_OFFSET_BYTES = 2**26
MAX_DEFLATE_RATIO = 1040
HEADER_BYTES = (348, 540)
FORMS_AGREE_MM = 0.01
MIN_VOXEL_MM = 1e-6
# nibabel would print what it finds odd about a header; the reader says it, or refuses the file.
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)
UNITS_MM = {"meter": 1000.0, "micron": 0.001}


def read_volume(
    path: str | os.PathLike,
    dtype=np.float32,
    closest_ras: bool = False,
    max_voxels: int = MAX_VOXELS,
    number: int | None = None,
) -> Volume:
    """Read a NIfTI as a Volume (z y x), axes as stored, or turned to closest RAS.

    .nii, .nii.gz, or the .hdr of a pair with .img; NIfTI-1 and -2, either byte order. Scale factors are applied. The
    sform places the volume where there is one, else the qform. meta["orientation"] is "unknown" where the header has
    neither; meta["warnings"] lists in words what is odd about the header. Lengths in metres or microns become mm.
    number: which volume of a 4D file, from 0; a 4D file is refused without.
    Raises InputError: not a NIfTI, not 3D, complex or colour, truncated, no usable affine, larger than max_voxels.
    """
    path = Path(path)
    image = _open(path)
    shape = _shape_xyz(path, image, max_voxels, number)
    affine, warnings = _place(path, image)
    try:
        voxels = image.dataobj if number is None else image.dataobj[..., slice(number, number + 1)]
        array = np.asarray(voxels, dtype=dtype).reshape(shape)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{path} ends too early or is damaged: copy it again from its source.", "truncated") from error
    known = int(image.header["sform_code"]) > 0 or int(image.header["qform_code"]) > 0
    meta = {"orientation": "known" if known else "unknown", "warnings": warnings}
    if not known:
        warnings.append("the header does not say how the volume lies in the patient")
    volume = Volume.from_affine(array.transpose(2, 1, 0), affine, meta)
    volume = to_closest_ras(volume) if closest_ras else volume
    return Volume(np.ascontiguousarray(volume.array_zyx), volume.affine, volume.spacing_mm, meta)


def write_volume(
    path: str | os.PathLike, array_zyx: np.ndarray, affine: np.ndarray, dtype=np.float32, description: str = ""
) -> None:
    """Write (z y x) as NIfTI-1, atomically: qform 1, sform 1, mm, no scale factors, the same bytes every time.

    Integer dtypes are rounded and clipped to their range. `description` is cut to the 79 characters of the header.
    """
    array = np.asarray(array_zyx)
    if np.issubdtype(dtype, np.integer):
        array = _rounded(array, np.dtype(dtype))
    image = nibabel.Nifti1Image(np.asarray(array.transpose(2, 1, 0), dtype=dtype, order="F"), np.asarray(affine, float))
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = description.encode("ascii", "replace")[:79]
    with atomic_path(path) as temporary:
        nibabel.save(image, temporary)


def _rounded(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Whole numbers, clipped to their range; slice by slice, so that no second volume of floats is needed."""
    limits, out = np.iinfo(dtype), np.empty(array.shape, dtype)
    for z, plane in enumerate(array):
        out[z] = np.clip(np.rint(plane), limits.min, limits.max)
    return out


def volumes_in(path: Path) -> int:
    """Volumes that the header of a 4D file claims; 1 for a 3D one and for what cannot be read. Never raises."""
    try:
        shape = _without_ones(_open(path).shape)
    except (InputError, MemoryError, OSError):
        return 1
    return max(int(shape[3]), 1) if len(shape) == 4 else 1


def is_pair(header: Path) -> bool:
    """Whether a .hdr file is the header of a NIfTI or Analyze pair; BART's headers, for one, are text."""
    try:
        with header.open("rb") as handle:
            start = handle.read(4)
    except OSError:
        return False
    return start in (bytes(size.to_bytes(4, order)) for size in HEADER_BYTES for order in ("little", "big"))


def image_beside(header: Path) -> tuple[Path, ...]:
    """The other file of a pair."""
    return (header.with_suffix(".img"), header.with_suffix(".IMG"))


def _open(path: Path):
    if not path.is_file():
        raise InputError(f"{path} is not there: check the path.", "missing")
    try:
        _check_offset(path)
        image = nibabel.load(path)
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f"{path} cannot be read as NIfTI: copy it again or remove it.", "undecodable") from error
    if not isinstance(image, nibabel.Nifti1Pair):
        raise InputError(
            f"{path} is {type(image).__name__.removesuffix('Image')} and not NIfTI, so left and right cannot be told: "
            "convert it to .nii.gz first.", "undecodable",
        )  # fmt: skip
    return image


def _check_offset(path: Path) -> None:
    """Refuse a header that puts the voxels far away, before whatever lies between is unpacked as an extension."""
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as handle:
        start = handle.read(max(HEADER_BYTES))
    if len(start) < min(HEADER_BYTES):
        raise InputError(f"{path} ends too early: copy it again from its source.", "truncated")
    order = "<" if int.from_bytes(start[:4], "little") in HEADER_BYTES else ">"
    second = struct.unpack(f"{order}i", start[:4])[0] == HEADER_BYTES[1] and len(start) >= HEADER_BYTES[1]
    offset = struct.unpack(f"{order}q", start[168:176])[0] if second else struct.unpack(f"{order}f", start[108:112])[0]
    if not 0 <= offset <= MAX_OFFSET_BYTES:
        raise InputError(f"{path} has its voxels at a place that makes no sense: copy it again.", "undecodable")


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _shape_xyz(path: Path, image, max_voxels: int, number: int | None) -> tuple[int, int, int]:
    """Shape of one volume; the file must be as long as all of them."""
    shape = _without_ones(image.shape)
    series = number is not None and len(shape) == 4 and number < shape[3]
    if len(shape) != 3 and not series:
        many = f" ({shape[3]} volumes)" if len(shape) == 4 else ""
        raise InputError(f"{path} has {len(shape)} dimensions and not 3{many}: give one 3D volume a file.", "not-3d")
    if image.get_data_dtype().kind not in "iuf":
        raise InputError(f"{path} holds colour or complex values: give one real value a voxel.", "not-scalar")
    voxels = math.prod(int(size) for size in shape[:3])
    if not 0 < voxels <= min(max_voxels, MAX_VOXELS):
        raise InputError(
            f"{path} claims {voxels} voxels, more than {min(max_voxels, MAX_VOXELS)} or none: cut it up or raise "
            "ingest.max_volume_gb.", "too-large",
        )  # fmt: skip
    volumes = int(shape[3]) if series else 1
    _check_length(path, image, volumes * voxels * image.get_data_dtype().itemsize)
    return shape[:3]


def _check_length(path: Path, image, data_bytes: int) -> None:
    """Compare what the header claims with the length of the file, before memory is asked for."""
    holder = Path(image.file_map["image"].filename)
    packed = holder.name.lower().endswith((".gz", ".bz2", ".zst"))
    if not holder.is_file():
        raise InputError(f"{path} has no image file beside it: copy both files of the pair.", "truncated")
    there = holder.stat().st_size * (MAX_DEFLATE_RATIO if packed else 1)
    if there < image.dataobj.offset + data_bytes:
        raise InputError(f"{path} ends too early: copy it again from its source.", "truncated")


def _place(path: Path, image) -> tuple[np.ndarray, list[str]]:
    """(affine to RAS mm, warnings in words)."""
    warnings = []
    affine = np.asarray(image.affine, float)
    apart_mm = _forms_apart_mm(image)
    if not apart_mm <= FORMS_AGREE_MM:
        how = f"up to {apart_mm:.2f} mm apart" if math.isfinite(apart_mm) else "differently"
        warnings.append(f"qform and sform place voxels {how}; the sform is used")
    unit = _unit(image)
    if unit in UNITS_MM:
        affine = np.diag([UNITS_MM[unit]] * 3 + [1]) @ affine
        warnings.append(f"lengths are in {unit}s in the header and are taken as such")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    volume = abs(np.linalg.det(affine[:3, :3])) if np.isfinite(affine).all() else 0.0
    if not volume > 1e-6 * np.prod(lengths) > 0 or np.abs(affine).max() > 1e6 or lengths.min() < MIN_VOXEL_MM:
        raise InputError(f"{path} has a header whose geometry makes no sense: write it again.", "geometry")
    return affine, warnings


def _unit(image) -> str:
    try:
        return image.header.get_xyzt_units()[0]
    except KeyError:
        return "unknown"


def _forms_apart_mm(image) -> float:
    """The largest distance in mm between the places that qform and sform give to a corner; 0 unless both are set."""
    try:
        qform, sform = image.header.get_qform(coded=True)[0], image.header.get_sform(coded=True)[0]
    except ValueError:
        return math.inf  # a quaternion that is no rotation
    if qform is None or sform is None:
        return 0.0
    shape = image.shape[:3]
    corners = np.array([[x, y, z, 1] for x in (0, shape[0]) for y in (0, shape[1]) for z in (0, shape[2])])
    with np.errstate(all="ignore"):
        return float(np.linalg.norm(((qform - sform) @ corners.T)[:3], axis=0).max())
