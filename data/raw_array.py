"""Voxels behind a text header (NRRD, MetaImage): sizes looked at before memory is asked for, unpacking bounded."""

import bz2
import math
import os
import zlib
from pathlib import Path

import numpy as np

from data.errors import InputError
from data.volume import LPS_TO_RAS

MAX_TEXT_HEADER_BYTES = 2**20
# zlib.decompressobj takes zlib and gzip streams alike with this; no stream packs better than the ratio.
ZLIB_OR_GZIP = 32 + zlib.MAX_WBITS
MAX_RATIO = {"gzip": 1040, "bzip2": 2**17}
CHUNK_BYTES = 2**22
# A printed number takes at most this many bytes with what stands between two.
TEXT_BYTES_A_NUMBER = 40


def beside(header: Path, name: str) -> Path:
    """The data file that a header names, in its folder or below. Raises InputError "outside" for any other place."""
    path = header.parent / name
    try:
        inside = path.resolve().is_relative_to(header.parent.resolve())
    except (OSError, ValueError):
        inside = False
    if not name or Path(name).is_absolute() or ".." in Path(name).parts or not inside:
        raise InputError(f"{header} names a data file outside its own folder: put both into one folder.", "outside")
    return path


def read_voxels(
    path: Path, offset: int, dtype: np.dtype, shape_xyz: tuple[int, ...], encoding: str, last: bool = False
) -> np.ndarray:
    """An array (z y x), x fastest in the file. encoding: raw, gzip (zlib streams too), bzip2 or text.

    offset: bytes before the voxels or the packed stream. last: the voxels are the end of the file instead. Raises
    InputError "truncated" or "undecodable".
    """
    needed = math.prod(shape_xyz) * dtype.itemsize
    try:
        size = path.stat().st_size
        if needed > max(size - offset, 0) * MAX_RATIO.get(encoding, TEXT_BYTES_A_NUMBER if encoding == "text" else 1):
            raise InputError(f"{path} ends too early: copy it again from its source.", "truncated")
        with path.open("rb") as handle:
            handle.seek(-needed if last else offset, os.SEEK_END if last else os.SEEK_SET)
            data = _text(handle, dtype, shape_xyz) if encoding == "text" else _bytes(handle, needed, encoding)
    except FileNotFoundError as error:
        raise InputError(f"{path} is not there, though a header names it: copy it too.", "truncated") from error
    except (OSError, EOFError, ValueError, zlib.error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be unpacked: copy it again from its source.", "undecodable") from error
    if len(data) < needed:
        raise InputError(f"{path} ends too early: copy it again from its source.", "truncated")
    return np.frombuffer(data, dtype).reshape(shape_xyz[::-1])


def _bytes(handle, needed: int, encoding: str) -> bytes | bytearray:
    """At most NEEDED bytes, whatever the stream would unpack to."""
    if encoding == "raw":
        return handle.read(needed)
    unpack = bz2.BZ2Decompressor() if encoding == "bzip2" else zlib.decompressobj(ZLIB_OR_GZIP)
    data, chunk = bytearray(), b""
    while len(data) < needed and not unpack.eof:
        waiting = encoding == "bzip2" and not unpack.needs_input
        chunk = b"" if waiting else getattr(unpack, "unconsumed_tail", b"") or handle.read(CHUNK_BYTES)
        if not chunk and not waiting:
            break
        data += unpack.decompress(chunk, min(needed - len(data), 4 * CHUNK_BYTES))
    return data


def _text(handle, dtype: np.dtype, shape_xyz: tuple[int, ...]) -> bytes:
    count = math.prod(shape_xyz)
    numbers = handle.read(count * TEXT_BYTES_A_NUMBER).split()
    return np.array(numbers[:count], np.float64).astype(dtype).tobytes()


def checked_affine(
    header: Path, directions_mm: np.ndarray, origin_mm: np.ndarray, flip: np.ndarray = LPS_TO_RAS
) -> np.ndarray:
    """4x4 from columns (one for each axis) and origin, times FLIP. Raises InputError "geometry" for a singular one."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = directions_mm, origin_mm
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    sensible = np.isfinite(affine).all() and np.abs(affine).max() < 1e6 and lengths.min() > 1e-6
    if not sensible or abs(np.linalg.det(affine[:3, :3])) < 1e-6 * np.prod(lengths):
        raise InputError(f"{header} has directions or an origin that make no sense: write it again.", "geometry")
    return flip @ affine


def check_shape(header: Path, shape_xyz: tuple[int, ...], max_voxels: int) -> None:
    """Raises InputError "not-3d" or "too-large"."""
    if len(shape_xyz) != 3:
        raise InputError(f"{header} has {len(shape_xyz)} dimensions and not 3: give one 3D volume a file.", "not-3d")
    voxels = math.prod(shape_xyz)
    if min(shape_xyz) <= 0 or voxels > max_voxels:
        raise InputError(
            f"{header} claims {voxels} voxels, more than {max_voxels} or none: cut it up or raise "
            "ingest.max_volume_gb.", "too-large",
        )  # fmt: skip
