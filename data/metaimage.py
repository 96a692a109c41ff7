"""MetaImage in: .mha, or .mhd with its data file beside it. The header is lines of `Key = value`; places are LPS.

Keys as in ITK's MetaIO: NDims, DimSize, ElementType, ElementDataFile are needed; the rest has the defaults of ITK.
"""

from pathlib import Path

import numpy as np

from data.errors import InputError
from data.nifti import MAX_VOXELS
from data.raw_array import MAX_TEXT_HEADER_BYTES, beside, check_shape, checked_affine, read_voxels
from data.volume import Volume

TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip
LAST_KEY = "elementdatafile"
DIRECTIONS = ("transformmatrix", "rotation", "orientation")
ORIGINS = ("offset", "position", "origin")


def metaimage_files(path: Path) -> tuple[Path, ...]:
    """The data file that a .mhd names, () for one that holds its data or cannot be read."""
    try:
        name = _header(path)[0][LAST_KEY]
        return () if name.upper() == "LOCAL" else (beside(path, name),)
    except InputError:
        return ()


def read_metaimage(path: Path, max_voxels: int = MAX_VOXELS) -> Volume:
    """One scalar 3D volume (z y x) float32, axes as stored, affine to RAS mm.

    Without TransformMatrix or ElementSpacing the axes are those of the patient (LPS) and 1 mm long, and
    meta["warnings"] says so. Raises InputError: undecodable, truncated, not-3d, not-scalar, too-large, geometry,
    outside.
    """
    path = Path(path)
    header, length = _header(path)
    shape = tuple(_numbers(path, header, "dimsize", int))
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if int(header.get("elementnumberofchannels", "1")) != 1:
        raise InputError(f"{path} holds more than one value a voxel: give one scalar volume a file.", "not-scalar")
    check_shape(path, shape, max_voxels)
    affine, warnings = _place(path, header)
    array = _voxels(path, header, length, shape).astype(np.float32)
    orientation = "known" if any(key in header for key in DIRECTIONS) else "unknown"
    return Volume.from_affine(array, affine, {"orientation": orientation, "warnings": warnings})


def _header(path: Path) -> tuple[dict[str, str], int]:
    """(values by lower-case key, bytes until local data). Raises InputError "undecodable"."""
    fields: dict[str, str] = {}
    with path.open("rb") as handle:
        left = MAX_TEXT_HEADER_BYTES
        while LAST_KEY not in fields and left > 0 and (line := handle.readline(left)):
            left -= len(line)
            key, equals, value = line.decode("latin-1").partition("=")
            if equals and key.strip().isalpha():
                fields[key.strip().lower()] = value.strip()
        length = handle.tell()
    if not {"dimsize", "elementtype", LAST_KEY} <= fields.keys():
        raise InputError(f"{path} has no MetaImage header that can be read: write it again.", "undecodable")
    return fields, length


def _numbers(path: Path, header: dict[str, str], key: str, kind: type) -> list:
    try:
        return [kind(word) for word in header[key].split()]
    except ValueError as error:
        raise InputError(f"{path} has a {key} that is no list of numbers: write it again.", "undecodable") from error


def _voxels(path: Path, header: dict[str, str], length: int, shape: tuple[int, ...]) -> np.ndarray:
    code = TYPES.get(header["elementtype"].upper())
    name = header[LAST_KEY]
    if code is None or name.split()[:1] == ["LIST"] or "%" in name:
        what = f"elements of type {header['elementtype'][:20]!r}" if code is None else "data spread over many files"
        raise InputError(f"{path} has {what}, which are not read: write it as one .mha.", "undecodable")
    big = any(_yes(header, key) for key in ("binarydatabyteordermsb", "elementbyteordermsb"))
    holder, offset = (path, length) if name.upper() == "LOCAL" else (beside(path, name), 0)
    skip = (_numbers(path, header, "headersize", int) if "headersize" in header else [0])[0]
    encoding = "gzip" if _yes(header, "compresseddata") else "raw" if _yes(header, "binarydata", True) else "text"
    dtype = np.dtype(code).newbyteorder(">" if big else "<")
    return read_voxels(holder, offset + max(skip, 0), dtype, shape, encoding, last=skip == -1)


def _yes(header: dict[str, str], key: str, default: bool = False) -> bool:
    return header[key][:1] in "Tt1" if header.get(key) else default


def _place(path: Path, header: dict[str, str]) -> tuple[np.ndarray, list[str]]:
    """(affine to RAS mm, warnings in words)."""
    warnings = []
    spacing_key = next((key for key in ("elementspacing", "elementsize") if key in header), None)
    spacing = np.array(_numbers(path, header, spacing_key, float) if spacing_key else [1.0] * 3)
    if spacing_key is None:
        warnings.append("the header gives no spacing; 1 mm is taken")
    direction_key = next((key for key in DIRECTIONS if key in header), None)
    directions = np.array(_numbers(path, header, direction_key, float) if direction_key else np.eye(3).ravel())
    if direction_key is None:
        warnings.append("the header does not say how the volume lies in the patient")
    origin_key = next((key for key in ORIGINS if key in header), None)
    origin = np.array(_numbers(path, header, origin_key, float) if origin_key else [0.0] * 3)
    axes = round(len(directions) ** 0.5)
    if axes < 3 or len(directions) != axes**2 or min(len(spacing), len(origin)) < 3:
        raise InputError(f"{path} has directions or an origin that make no sense: write it again.", "geometry")
    columns = directions.reshape(axes, axes)[:3, :3].T
    with np.errstate(all="ignore"):
        return checked_affine(path, columns * spacing[:3], origin[:3]), warnings
