"""Raw k-space as an array file (.npy or .h5) explained by a JSON file of the same name beside it.

JSON keys: axes, such as "coils y x" or "z coils y x" (y and x needed), or "coils readouts samples" for radial, spiral
and other trajectories; spacing_mm [z, y, x] of the image. Optional: shape; dc "centre" (default) or "corner", where
zero frequency is; origin "centre" (default) or "corner", where the transform has its origin in the image; affine, 4x4,
image index (x y z) to RAS mm; dataset, the name in an .h5 file (default "kspace"); modality "mr"; noise, a noise scan
(coils n). With readouts and samples also: trajectory, (readouts samples 2) or (z readouts samples 2), ky and kx in
cycles per field of view; matrix [rows, columns] of the image. trajectory and noise name a .npy file in the same folder,
or a data set of the same .h5 file. Others (licence, citation, notes) are free.
"""

import json
import math
from pathlib import Path

import h5py
import numpy as np

from data.errors import InputError
from data.hdf5 import check_stored
from data.kspace_common import KSpace, axial_affine, beside, check_size, own_dataset, readable, spacing_of_notes

CARTESIAN = ("z", "coils", "y", "x")
READOUTS = ("z", "coils", "readouts", "samples")
MAX_JSON_BYTES = 2**20
COMPANIONS = ("trajectory", "noise")


def read_array(path: Path) -> KSpace:
    """Read PATH and its JSON. Raises InputError: no-json, json, shape, truncated, not-scalar, too-large."""
    notes = read_notes(path)
    axes, spacing_mm = _axes(path, notes), spacing_of_notes(path, notes)
    order = CARTESIAN if "x" in axes else READOUTS
    stored = _load(path, path, notes.get("dataset", "kspace"), notes, axes)
    array = stored.transpose([axes.index(axis) for axis in order if axis in axes])
    for position, axis in enumerate(order):
        if axis not in axes:
            array = np.expand_dims(array, position)
    array = np.ascontiguousarray(array, dtype=np.complex64)
    trajectory, matrix = None, None
    if order is READOUTS:
        trajectory, matrix = _trajectory(path, notes, array.shape), _matrix(path, notes)
    else:
        array = _centred(array, notes)
    shape_zyx = (array.shape[0], *(matrix or array.shape[2:]))
    affine = given_affine(path, notes)
    affine = axial_affine(spacing_mm, shape_zyx) if affine is None else affine
    noise = _noise(path, notes, array.shape[1])
    return KSpace(array, affine, spacing_mm, trajectory=trajectory, matrix=matrix, noise=noise)


def read_notes(path: Path) -> dict:
    """The JSON beside PATH with its axes, spacing_mm, dc and modality checked."""
    notes = json_beside(path)
    written = path.with_suffix(".json")
    if notes is None:
        raise InputError(f"{path} has no {written.name} beside it: write one with axes and spacing_mm.", "no-json")
    if not isinstance(notes.get("axes"), str) or "spacing_mm" not in notes:
        raise InputError(f'{written} needs axes, such as "coils y x", and spacing_mm: add them.', "json")
    for key in ("dc", "origin"):
        if notes.get(key, "centre") not in ("centre", "corner"):
            raise InputError(f'{written} has a {key} that is neither "centre" nor "corner": correct it.', "json")
    return notes


def json_beside(path: Path) -> dict | None:
    """The JSON object beside PATH, None where there is no such file; InputError ("json") for what is none."""
    notes_file = beside(path, path.with_suffix(".json").name)
    if notes_file is None:
        return None
    try:
        if notes_file.stat().st_size > MAX_JSON_BYTES:
            raise ValueError("too long")
        notes = json.loads(notes_file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{notes_file} is not a JSON file: correct it.", "json") from error
    if not isinstance(notes, dict):
        raise InputError(f"{notes_file} is not a JSON object: correct it.", "json")
    if notes.get("modality", "mr") != "mr":
        raise InputError(f'{notes_file} has a modality that is not "mr": k-space is MR only.', "json")
    return notes


def companions(path: Path) -> tuple[Path, ...]:
    """The JSON beside PATH and the .npy files that it names; never raises."""
    try:
        notes = json_beside(path) or {}
    except (InputError, OSError):
        notes = {}
    named = tuple(path.with_name(notes[key]) for key in COMPANIONS if _is_file_name(notes.get(key)))
    return (path.with_suffix(".json"), *named)


def _centred(array: np.ndarray, notes: dict) -> np.ndarray:
    """Zero frequency at n // 2, and the image's origin there too: rolling the image back is a phase along k."""
    if notes.get("dc", "centre") == "corner":
        array = np.fft.fftshift(array, axes=(-2, -1))
    if notes.get("origin", "centre") == "corner":
        rows, columns = (np.arange(size) - size // 2 for size in array.shape[-2:])
        turns = rows[:, None] * (len(rows) // 2) / len(rows) + columns * (len(columns) // 2) / len(columns)
        array = (array * np.exp(2j * np.pi * turns)).astype(np.complex64)
    return array


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and name.endswith(".npy") and Path(name).name == name and "\0" not in name


def _axes(path: Path, notes: dict) -> list[str]:
    axes = notes["axes"].split()
    known = READOUTS if "readouts" in axes else CARTESIAN
    if len(set(axes)) != len(axes) or not set(known[2:]) <= set(axes) <= set(known):
        raise InputError(
            f"{path.with_suffix('.json')} has axes other than z, coils, y, x (or z, coils, readouts, samples), each "
            "once: correct.",
            "json",
        )
    return axes


def _matrix(path: Path, notes: dict) -> tuple[int, int]:
    matrix = notes.get("matrix")
    if not isinstance(matrix, list) or len(matrix) != 2 or not all(type(n) is int and 8 <= n <= 4096 for n in matrix):
        raise InputError(f"{path.with_suffix('.json')} needs matrix as [rows, columns], 8 to 4096: correct it.", "json")
    return matrix[0], matrix[1]


def _load(path: Path, source: Path, name: str, notes: dict, axes: list[str]) -> np.ndarray:
    """Complex samples of a .npy file, or of a data set of an .h5 file, checked against the JSON before they are read.
    """
    with readable(source):
        if source.suffix.lower() == ".npy":
            array = np.load(source, mmap_mode="r", allow_pickle=False)
            _check_shape(path, notes, axes, array)
            return np.array(array)
        with h5py.File(source, "r") as handle:
            found = _dataset(path, handle, name)
            _check_shape(path, notes, axes, found)
            check_stored(source, found)
            return found[()]


def _dataset(path: Path, handle: h5py.File, name: str) -> h5py.Dataset:
    found = own_dataset(handle, name)
    if found is None:
        raise InputError(f"{path} has no data set {name!r} of its own: name it in the JSON as dataset.", "json")
    return found


def _check_shape(path: Path, notes: dict, axes: list[str], source) -> None:
    shape = list(source.shape)
    said = notes.get("shape")
    if len(shape) != len(axes) or (said is not None and said != shape):
        says = f"shape {said}" if said is not None else f'axes "{notes["axes"]}"'
        raise InputError(f"{path} has the shape {shape} where its JSON says {says}: correct one of them.", "shape")
    if source.dtype.kind != "c":
        raise InputError(f"{path} holds {source.dtype} and not complex numbers: save it as complex64.", "not-scalar")
    check_size(path, math.prod(shape))


def _companion(path: Path, notes: dict, key: str) -> np.ndarray | None:
    """The array that the JSON names under KEY; None where it names none."""
    name = notes.get(key)
    if name is None:
        return None
    if path.suffix.lower() == ".npy":
        source = beside(path, name) if _is_file_name(name) else None
        if source is None:
            written = path.with_suffix(".json")
            raise InputError(f"{written} names no .npy file of its own folder as {key}: correct it.", "json")
        with readable(source):
            array = np.load(source, mmap_mode="r", allow_pickle=False)
            check_size(source, array.size)
            return np.array(array)
    with readable(path), h5py.File(path, "r") as handle:
        found = _dataset(path, handle, name)
        check_size(path, found.size)
        check_stored(path, found)
        return found[()]


def _trajectory(path: Path, notes: dict, shape: tuple[int, ...]) -> np.ndarray:
    array = _companion(path, notes, "trajectory")
    fits = ((*shape[2:], 2), (shape[0], *shape[2:], 2))
    if array is None or array.shape not in fits or array.dtype.kind != "f" or not np.isfinite(array).all():
        raise InputError(
            f"{path} needs a trajectory of real numbers with the axes (readouts samples 2) that fits its samples: "
            "name it in the JSON as trajectory.",
            "shape",
        )
    return array.astype(np.float32)


def _noise(path: Path, notes: dict, coils: int) -> np.ndarray | None:
    array = _companion(path, notes, "noise")
    if array is not None and (array.ndim != 2 or array.shape[0] != coils or array.dtype.kind != "c"):
        raise InputError(f"{path} has a noise scan that is not complex with the axes (coils n): correct it.", "shape")
    return None if array is None else array.astype(np.complex64)


def given_affine(path: Path, notes: dict) -> np.ndarray | None:
    """The JSON's affine, None where it has none; InputError ("json") for one that is no 4x4 matrix."""
    if "affine" not in notes:
        return None
    try:
        affine = np.array(notes["affine"], float)
        usable = affine.shape == (4, 4) and np.isfinite(affine).all() and abs(np.linalg.det(affine)) > 0
    except (TypeError, ValueError):
        usable = False
    if not usable:
        raise InputError(f"{path.with_suffix('.json')} has an affine that is no 4x4 matrix: correct it.", "json")
    return affine
