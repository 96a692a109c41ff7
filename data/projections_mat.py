"""MATLAB files: arrays, and structs of arrays, of version 5 to 7 (scipy) and 7.3 (HDF5).

The Helsinki Tomography Challenge 2022 (Meaney, Silva de Moura and Siltanen, zenodo.org/record/6984868) keeps a scan
as a struct CtDataFull or CtDataLimited with type ("2D"), sinogram (views bins) of log data and parameters, as the
HelTomo toolbox writes it: distanceSourceOrigin and distanceSourceDetector in mm, angles in degrees, pixelSizePost in mm
(bins on the detector after binning), numDetectorsPost. Only these are read: parameters also names who measured.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io

from data.errors import InputError
from data.hdf5 import check_stored
from data.isolated import read_isolated

HELSINKI = ("CtDataFull", "CtDataLimited", "CtData")
# Most that a compressed element may grow, and the size below which nobody asks.
MAX_GROWTH, MIN_BYTES = 200, 2**26
_PARAMETERS = ("distanceSourceOrigin", "distanceSourceDetector", "angles")
_SIZES = ("pixelSizePost", "pixelSize")


@dataclass(frozen=True)
class HelsinkiScan:
    """sinogram: (views bins), log data. angles_deg: (views). Lengths in mm, bin_mm on the detector."""

    sinogram: np.ndarray
    angles_deg: np.ndarray
    source_axis_mm: float
    source_detector_mm: float
    bin_mm: float


def is_helsinki(path: Path) -> bool:
    """Whether a .mat file has one of the challenge's structs, or crashes or stalls what looks for one; never raises.

    The latter is for the reader to refuse in a sentence.
    """
    try:
        return read_isolated("data.projections_mat:look_for_helsinki", path)
    except InputError:
        return True
    except OSError:
        return False


def look_for_helsinki(path: Path) -> bool:
    """Whether a .mat file has one of the challenge's structs, for data.isolated; never raises."""
    try:
        return helsinki_name(path) is not None
    except Exception:
        return False


def helsinki_name(path: Path) -> str | None:
    """The struct's name, or None. Raises what the readers raise for a damaged file."""
    if h5py.is_hdf5(path):
        with h5py.File(path, "r") as handle:
            names = set(handle)
    else:
        names = {name for name, _, _ in scipy.io.whosmat(path, appendmat=False)}
    return next((name for name in HELSINKI if name in names), None)


def read_helsinki(path: Path) -> HelsinkiScan:
    """Read a scan of the challenge's form. Raises InputError: truncated, shape, json (a field missing or wrong), and as
    data.isolated does."""
    return HelsinkiScan(**read_isolated("data.projections_mat:helsinki_values", path))


def helsinki_values(path: Path) -> dict:
    """The attributes of a HelsinkiScan, for data.isolated."""
    try:
        name = helsinki_name(path)
    except Exception as error:
        raise InputError(f"{path} ends too early or is no MATLAB file: copy it again.", "truncated") from error
    if name is None:
        raise InputError(f"{path} has none of {', '.join(HELSINKI)}: explain it by a geometry.json.", "json")
    sinogram = read_mat(path, f"{name}.sinogram")
    origin, detector, angles = (read_mat(path, f"{name}.parameters.{field}") for field in _PARAMETERS)
    bin_mm = _first_there(path, name)
    if sinogram.ndim != 2 or sinogram.dtype.kind not in "fiu":
        raise InputError(f"{path} has a sinogram of {sinogram.ndim} axes: only the 2D form is read so.", "shape")
    # MATLAB's one row or one column.
    angles = np.asarray(angles, dtype=np.float64).ravel()
    if len(angles) != len(sinogram):
        raise InputError(f"{path} has {len(angles)} angles and {len(sinogram)} views: correct the file.", "shape")
    lengths = [float(np.asarray(value).ravel()[0]) for value in (origin, detector, bin_mm)]
    if not (np.isfinite(angles).all() and 0 < lengths[0] <= lengths[1] < 1e6 and 0 < lengths[2] < 1e6):
        raise InputError(f"{path} has angles or lengths that make no fan beam: correct its parameters.", "json")
    return vars(HelsinkiScan(sinogram, angles, *lengths))


def read_mat(path: Path, name: str) -> np.ndarray:
    """The numeric array under a name such as "sinogram" or "CtDataFull.parameters.angles", in MATLAB's order of axes.

    Raises InputError: json (no such array), truncated, not-scalar, too-large (what grows too much when unpacked).
    """
    try:
        value = _read_hdf5(path, name) if h5py.is_hdf5(path) else _read_v5(path, name)
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f"{path} ends too early or cannot be read: copy it again.", "truncated") from error
    if value is None:
        raise InputError(f"{path} has no array {name!r}: correct the name or the file.", "json")
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
        raise InputError(f"{path} holds no real numbers under {name!r}: name an array of numbers.", "not-scalar")
    return value


def _first_there(path: Path, name: str) -> np.ndarray:
    for field in _SIZES:
        try:
            return read_mat(path, f"{name}.parameters.{field}")
        except InputError as error:
            if error.reason != "json":
                raise
    raise InputError(f"{path} has no {name}.parameters.{_SIZES[0]}: add the size of a bin in mm.", "json")


def _read_v5(path: Path, name: str) -> Any:
    _refuse_bomb(path)
    first, *fields = name.split(".")
    value = scipy.io.loadmat(path, appendmat=False, variable_names=[first]).get(first)
    for field in fields:
        if not isinstance(value, np.ndarray) or value.dtype.names is None or field not in value.dtype.names:
            return None
        value = value[field].flat[0] if value.size == 1 else None
    return value


def _read_hdf5(path: Path, name: str) -> Any:
    """HDF5 keeps MATLAB's arrays with their axes in reverse."""
    with h5py.File(path, "r") as handle:
        item: Any = handle
        for part in name.split("."):
            link = item.get(part, getlink=True) if isinstance(item, h5py.Group) else None
            item = item[part] if isinstance(link, h5py.HardLink) else None
        if not isinstance(item, h5py.Dataset) or item.external or item.is_virtual:
            return None
        if item.dtype.kind not in "fiu" or item.size > 2**31:
            raise InputError(f"{path} holds no readable numbers under {name!r}: save them as double.", "not-scalar")
        check_stored(path, item)
        return item[()].T


def _refuse_bomb(path: Path) -> None:
    """InputError "too-large" where a compressed element of a version 5 file grows beyond MAX_GROWTH times its size."""
    with path.open("rb") as handle:
        header = handle.read(128)
        order = "<" if header[126:128] == b"IM" else ">"
        while len(tag := handle.read(8)) == 8:
            kind, size = np.frombuffer(tag, order + "u4")
            if kind == 15 and _grows(handle.read(int(size)), max(MAX_GROWTH * int(size), MIN_BYTES)):
                raise InputError(f"{path} unpacks to far more than its size: save it without compression.", "too-large")
            if kind != 15:
                handle.seek(int(size), 1)


def _grows(packed: bytes, limit: int) -> bool:
    unpacker, total = zlib.decompressobj(), 0
    while packed and total <= limit:
        total += len(unpacker.decompress(packed, 2**20))
        packed = unpacker.unconsumed_tail
    return total > limit
