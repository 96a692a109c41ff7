"""K-space in BART's format: NAME.hdr, a text with 16 dimensions, and NAME.cfl, complex64, first dimension fastest.

Dimensions used: 0 readout (our x), 1 first phase encoding (y), 2 second phase encoding (z), 3 coils, 13 slices. Every
other one must be 1. K-space is centred, as BART's own tools write it. With readouts along a trajectory the samples are
(1, samples, readouts, coils) and the trajectory, (3, samples, readouts) in cycles per field of view, is NAME_traj.cfl.
A JSON file NAME.json may give spacing_mm [z, y, x], affine, matrix [rows, columns] and trajectory (a .cfl beside it).
"""

import math
from pathlib import Path

import numpy as np

from data.errors import InputError
from data.ismrmrd_grid import along_slices
from data.kspace_array import given_affine, json_beside
from data.kspace_common import KSpace, axial_affine, beside, check_size, readable, spacing_of_notes

DIMENSIONS = 16
NAMES = ("readout", "phase 1", "phase 2", "coils", "maps", "echoes", "coefficients", "coefficients 2", "iterations",
         "shifts", "time", "time 2", "levels", "slices", "averages", "batch")  # fmt: skip
USED = (0, 1, 2, 3, 13)
MAX_HEADER_BYTES = 2**16


def is_bart_kspace(path: Path) -> bool:
    """Whether NAME.cfl with NAME.hdr can be k-space: not a trajectory (3 numbers a sample); never raises."""
    try:
        shape = read_shape(path)
    except (InputError, OSError):
        return True
    return not (shape[0] == 3 and shape[3] == 1)


def bart_files(path: Path) -> tuple[Path, ...]:
    """Header, JSON and trajectory of NAME.cfl, whether they are there or not; never raises."""
    try:
        trajectory = _trajectory_path(path, json_beside(path) or {})
    except (InputError, OSError):
        trajectory = path.with_name(f"{path.stem}_traj.cfl")
    return path.with_suffix(".hdr"), path.with_suffix(".json"), trajectory, trajectory.with_suffix(".hdr")


def read_bart(path: Path) -> KSpace:
    """Raises InputError: truncated, shape, dimensions (one that is not used is longer than 1), json, too-large."""
    notes = json_beside(path) or {}
    array = read_cfl(path)
    wrong = [NAMES[d] for d in range(DIMENSIONS) if d not in USED and array.shape[d] > 1]
    if wrong or (array.shape[2] > 1 and array.shape[13] > 1):
        which = ", ".join(wrong) or "both phase 2 and slices"
        raise InputError(f"{path} uses the dimensions {which}: cut one volume out with bart slice.", "dimensions")
    if array.shape[0] == 1 and array.shape[1] > 1:
        return _readouts(path, notes, array)
    spacing_mm, said = _spacing(path, notes)
    if array.shape[2] > 1:
        coils_last = array.reshape(array.shape[:4], order="F")
        kspace = np.ascontiguousarray(coils_last.transpose(2, 3, 1, 0))
        mask = np.any(kspace != 0, axis=1)
        if not (mask == mask[:1]).all():
            raise InputError(f"{path} is 3D and not whole along its second phase encoding: cut it up with bart.",
                             "not-separable")  # fmt: skip
        kspace = along_slices(kspace)
    else:
        kspace = array.reshape((*array.shape[:2], array.shape[3], array.shape[13]), order="F").transpose(3, 2, 1, 0)
    kspace = np.ascontiguousarray(kspace)
    shape = (kspace.shape[0], *kspace.shape[2:])
    affine = given_affine(path, notes)
    affine = axial_affine(spacing_mm, shape) if affine is None else affine
    return KSpace(kspace, affine, spacing_mm, phase_axis="y", warnings=said)


def _readouts(path: Path, notes: dict, array: np.ndarray) -> KSpace:
    named = _trajectory_path(path, notes)
    source = beside(path, named.name)
    if source is None:
        raise InputError(f"{path} has readouts without {named.name} beside it: add the trajectory.", "trajectory")
    points = read_cfl(source)
    if points.shape[:3] != (3, *array.shape[1:3]) or points.size != 3 * math.prod(array.shape[1:3]):
        raise InputError(f"{source} does not fit the samples of {path.name}: write both again.", "shape")
    points = points.reshape(points.shape[:3], order="F").real
    if not np.isfinite(points).all() or np.abs(points[2]).max() > 1e-3:
        raise InputError(f"{source} is not a trajectory in a plane: only 2D readouts can be used.", "trajectory")
    trajectory = np.ascontiguousarray(points[1::-1].transpose(2, 1, 0)).astype(np.float32)
    kspace = array.reshape((*array.shape[1:4], array.shape[13]), order="F").transpose(3, 2, 1, 0)
    matrix = _matrix(path, notes, trajectory)
    spacing_mm, said = _spacing(path, notes)
    affine = given_affine(path, notes)
    affine = axial_affine(spacing_mm, (kspace.shape[0], *matrix)) if affine is None else affine
    kspace = np.ascontiguousarray(kspace)
    return KSpace(kspace, affine, spacing_mm, trajectory=trajectory, matrix=matrix, warnings=said)


def _trajectory_path(path: Path, notes: dict) -> Path:
    name = notes.get("trajectory", f"{path.stem}_traj.cfl")
    if not isinstance(name, str) or Path(name).name != name or not name.endswith(".cfl") or "\0" in name:
        raise InputError(f"{path.with_suffix('.json')} names no .cfl file of its own folder as trajectory.", "json")
    return path.with_name(name)


def _matrix(path: Path, notes: dict, trajectory: np.ndarray) -> tuple[int, int]:
    """As the JSON says, or twice the trajectory's extent along each axis, rounded up to even."""
    if "matrix" not in notes:
        extent = np.abs(trajectory).reshape(-1, 2).max(axis=0)
        rows, columns = (2 * math.ceil(round(float(half), 3)) for half in extent)
    else:
        given = notes["matrix"]
        if not isinstance(given, list) or len(given) != 2 or not all(type(n) is int for n in given):
            raise InputError(f"{path.with_suffix('.json')} needs matrix as [rows, columns]: correct it.", "json")
        rows, columns = given
    if not (8 <= rows <= 4096 and 8 <= columns <= 4096):
        raise InputError(f"{path} has a matrix of {rows} x {columns}, not 8 to 4096: give it in a JSON file.", "json")
    return rows, columns


def _spacing(path: Path, notes: dict) -> tuple[tuple[float, float, float], tuple[str, ...]]:
    """spacing_mm of the JSON, or 1 mm with a warning: the format holds no lengths."""
    if "spacing_mm" not in notes:
        said = "the format holds no lengths: voxels of 1 mm were assumed", "nor how the volume lies in the patient"
        return (1.0, 1.0, 1.0), (", ".join(said),)
    return spacing_of_notes(path, notes), ()


def read_shape(path: Path) -> tuple[int, ...]:
    """The 16 dimensions of NAME.hdr. Raises InputError: no-header, shape, too-large."""
    header = beside(path, path.with_suffix(".hdr").name)
    if header is None or header.stat().st_size > MAX_HEADER_BYTES:
        raise InputError(f"{path} has no .hdr of the same name beside it: copy both files.", "undecodable")
    lines = header.read_bytes().decode("ascii", "replace").splitlines()
    at = next((index for index, line in enumerate(lines) if line.strip().lower() == "# dimensions"), None)
    fields = lines[at + 1].split() if at is not None and at + 1 < len(lines) else []
    if not 1 <= len(fields) <= DIMENSIONS or not all(field.isdigit() and len(field) < 12 for field in fields):
        raise InputError(f"{header} has no line of dimensions after '# Dimensions': write it again.", "shape")
    shape = tuple(int(field) for field in fields) + (1,) * (DIMENSIONS - len(fields))
    check_size(path, math.prod(shape))
    return shape


def read_cfl(path: Path) -> np.ndarray:
    """complex64 array of 16 axes. Raises InputError, also where the file's size is not what its header says."""
    shape = read_shape(path)
    with readable(path):
        if path.stat().st_size != 8 * math.prod(shape):
            raise InputError(f"{path} is not as long as its header says: copy both files again.", "truncated")
        return np.fromfile(path, "<c8").reshape(shape, order="F")
