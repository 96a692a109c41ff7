"""NRRD in: .nrrd, or .nhdr with its data file beside it. pynrrd reads the header; the voxels are read here, bounded."""

import math
from pathlib import Path

import nrrd
import numpy as np

from data.errors import InputError
from data.nifti import MAX_VOXELS
from data.raw_array import MAX_TEXT_HEADER_BYTES, beside, check_shape, checked_affine, read_voxels
from data.volume import LPS_TO_RAS, Volume

_INTEGERS = {"char": 1, "short": 2, "short int": 2, "int": 4, "longlong": 8, "long long": 8, "long long int": 8}
TYPES = {"float": "f4", "double": "f8", "uchar": "u1", "ushort": "u2", "uint": "u4", "ulonglong": "u8"}
TYPES |= {f"{sign}{name}": f"i{size}" for name, size in _INTEGERS.items() for sign in ("", "signed ") if name != "char"}
TYPES |= {"signed char": "i1"} | {f"unsigned {name}": f"u{size}" for name, size in _INTEGERS.items()}
TYPES |= {f"{u}int{8 * n}{t}": f"{u or 'i'}{n}" for u in ("", "u") for n in (1, 2, 4, 8) for t in ("", "_t")}
ENCODINGS = {"raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}
ENCODINGS |= dict.fromkeys(("ascii", "text", "txt"), "text")
SPACES = {
    "right-anterior-superior": np.eye(4), "ras": np.eye(4),
    "left-anterior-superior": np.diag([-1.0, 1, 1, 1]), "las": np.diag([-1.0, 1, 1, 1]),
    "left-posterior-superior": LPS_TO_RAS, "lps": LPS_TO_RAS,
}  # fmt: skip
UNITS_MM = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 1e-3}


def nrrd_files(path: Path) -> tuple[Path, ...]:
    """The data file of a detached header, () where there is none or it cannot be told."""
    try:
        name = _detached(_header(path)[0])
        return () if name is None else (beside(path, name),)
    except InputError:
        return ()


def read_nrrd(path: Path, max_voxels: int = MAX_VOXELS) -> Volume:
    """One scalar 3D volume (z y x) float32, axes as stored, affine to RAS mm.

    A space that is not RAS, LAS or LPS, or none, leaves the orientation unknown: it is taken for LPS, as ITK does, and
    meta["warnings"] says so. Raises InputError: undecodable, truncated, not-3d, not-scalar, too-large, geometry,
    outside.
    """
    path = Path(path)
    header, length = _header(path)
    sizes = tuple(int(size) for size in header["sizes"])
    axes = [axis for axis in range(len(sizes)) if sizes[axis] > 1 or len(sizes) == 3]
    kinds = header.get("kinds", ["domain"] * len(sizes))
    if any(kinds[axis] not in ("domain", "space", "???", "none") for axis in axes if axis < len(kinds)):
        raise InputError(f"{path} holds {' '.join(map(str, kinds))}: give one scalar volume a file.", "not-scalar")
    shape = tuple(sizes[axis] for axis in axes)
    check_shape(path, shape, max_voxels)
    affine, warnings = _place(path, header, axes)
    array = _voxels(path, header, length, shape).astype(np.float32)
    orientation = "known" if str(header.get("space", "")).lower() in SPACES else "unknown"
    return Volume.from_affine(array, affine, {"orientation": orientation, "warnings": warnings})


def _header(path: Path) -> tuple[dict, int]:
    """(fields, bytes until the data of an attached file). Raises InputError "undecodable"."""
    try:
        with path.open("rb") as handle:
            start = handle.read(MAX_TEXT_HEADER_BYTES)
        end = min((at + len(gap) for gap in (b"\n\n", b"\r\n\r\n") if (at := start.find(gap)) >= 0), default=len(start))
        header = nrrd.read_header(start[:end].decode("ascii", "replace").splitlines())
        if len(header["sizes"]) != header["dimension"] or header["type"] not in TYPES or "encoding" not in header:
            raise ValueError("fields disagree")
    except MemoryError:
        raise
    except Exception as error:
        raise InputError(f"{path} has no NRRD header that can be read: write it again.", "undecodable") from error
    return header, end


def _detached(header: dict) -> str | None:
    return header.get("data file", header.get("datafile"))


def _voxels(path: Path, header: dict, length: int, shape: tuple[int, ...]) -> np.ndarray:
    encoding = ENCODINGS.get(str(header["encoding"]).lower())
    dtype = np.dtype(TYPES[header["type"]])
    if encoding is None or dtype.kind not in "iuf":
        said = header["encoding"] if encoding is None else header["type"]
        raise InputError(f"{path} is encoded as {str(said)[:20]!r}, which is not read: write as gzip.", "undecodable")
    if dtype.itemsize > 1 and encoding != "text":
        order = {"little": "<", "big": ">"}.get(str(header.get("endian", "")).lower())
        if order is None:
            raise InputError(f"{path} does not say its byte order: write it again.", "undecodable")
        dtype = dtype.newbyteorder(order)
    name = _detached(header)
    if name is not None and (name.split()[:1] == ["LIST"] or "%" in name):
        raise InputError(f"{path} spreads its data over many files: write it as one .nrrd.", "undecodable")
    holder, offset = (path, length) if name is None else (beside(path, name), 0)
    lines, skip = (int(header.get(f"{word} skip", header.get(f"{word}skip", 0))) for word in ("line", "byte"))
    if lines or skip < -1 or (skip and encoding not in ("raw", "text")):
        raise InputError(f"{path} skips lines or packed bytes, which is not read: write it again.", "undecodable")
    return read_voxels(holder, offset + max(skip, 0), dtype, shape, encoding, last=skip == -1)


def _place(path: Path, header: dict, axes: list[int]) -> tuple[np.ndarray, list[str]]:
    """(affine to RAS mm, warnings in words)."""
    warnings = []
    space = str(header.get("space", "")).lower()
    flip = SPACES.get(space, LPS_TO_RAS)
    if space not in SPACES:
        warnings.append("the header does not say how the volume lies in the patient")
    try:
        if "space directions" in header:
            directions = np.array([header["space directions"][axis] for axis in axes], float).T
            origin = np.array(header.get("space origin", np.zeros(3)), float)
        else:
            spacings = np.array(header.get("spacings", np.ones(max(axes) + 1)), float)[axes]
            directions, origin = np.diag(spacings), np.zeros(3)
            warnings.append("the header gives spacings and no directions")
        units = [UNITS_MM.get(unit, math.nan) for unit in header.get("space units", ["mm"])]
        scale = units[0] if len(set(units)) == 1 else math.nan
        with np.errstate(all="ignore"):
            return checked_affine(path, directions * scale, origin * scale, flip), warnings
    except (ValueError, IndexError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} has directions or an origin that make no sense: write again.", "geometry") from error
