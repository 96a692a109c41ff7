"""Raw k-space as an array file (.npy or .h5) explained by a JSON file of the same name beside it.

JSON keys: axes, such as "coils y x" or "z coils y x" (y and x needed); spacing_mm [z, y, x] of the image; optional:
shape; dc "centre" (default) or "corner"; affine, 4x4, image index (x y z) to RAS mm; dataset, the name in an .h5 file
(default "kspace"); modality "mr". Others (licence, citation, notes) are free.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from data.errors import InputError

AXES = ("z", "coils", "y", "x")
SUFFIXES = (".npy", ".h5")
MAX_JSON_BYTES = 2**20
MAX_SAMPLES = 2**31


@dataclass(frozen=True)
class KSpace:
    """array: complex64 (z coils y x), zero frequency at n // 2 of y and x. affine: image index (x y z) to RAS mm."""

    array: np.ndarray
    affine: np.ndarray
    spacing_mm: tuple[float, float, float]


def read_kspace(path: Path) -> KSpace:
    """Read PATH and its JSON. Raises InputError: no-json, json, shape, truncated, undecodable, not-scalar, nan."""
    path = Path(path)
    notes = _notes(path)
    axes, spacing_mm = _axes(path, notes), _spacing(path, notes)
    stored = _array(path, notes, axes)
    array = stored.transpose([axes.index(axis) for axis in AXES if axis in axes])
    for position, axis in enumerate(AXES):
        if axis not in axes:
            array = np.expand_dims(array, position)
    array = np.ascontiguousarray(array, dtype=np.complex64)
    if notes.get("dc", "centre") == "corner":
        array = np.fft.fftshift(array, axes=(-2, -1))
    return KSpace(array, _affine(path, notes, spacing_mm, array.shape), spacing_mm)


def _notes(path: Path) -> dict:
    beside = path.with_suffix(".json")
    if not beside.is_file():
        raise InputError(f"{path} has no {beside.name} beside it: write one with axes and spacing_mm.", "no-json")
    try:
        if beside.stat().st_size > MAX_JSON_BYTES:
            raise ValueError("too long")
        notes = json.loads(beside.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{beside} is not a JSON file: correct it.", "json") from error
    if not isinstance(notes, dict) or not isinstance(notes.get("axes"), str) or "spacing_mm" not in notes:
        raise InputError(f'{beside} needs axes, such as "coils y x", and spacing_mm: add them.', "json")
    if notes.get("dc", "centre") not in ("centre", "corner"):
        raise InputError(f'{beside} has a dc that is neither "centre" nor "corner": correct it.', "json")
    if notes.get("modality", "mr") != "mr":
        raise InputError(f'{beside} has a modality that is not "mr": k-space is MR only.', "json")
    return notes


def _axes(path: Path, notes: dict) -> list[str]:
    axes = notes["axes"].split()
    if len(set(axes)) != len(axes) or not {"y", "x"} <= set(axes) <= set(AXES):
        raise InputError(f"{path.with_suffix('.json')} has axes other than z, coils, y, x, each once: correct.", "json")
    return axes


def _spacing(path: Path, notes: dict) -> tuple[float, float, float]:
    try:
        z, y, x = (float(value) for value in notes["spacing_mm"])
    except (TypeError, ValueError) as error:
        raise InputError(f"{path.with_suffix('.json')} needs spacing_mm as [z, y, x]: correct it.", "json") from error
    if not all(0 < value < 1000 for value in (z, y, x)):
        raise InputError(f"{path.with_suffix('.json')} has a spacing_mm that is not a length: correct it.", "json")
    return z, y, x


def _array(path: Path, notes: dict, axes: list[str]) -> np.ndarray:
    try:
        if path.suffix == ".npy":
            source = np.load(path, mmap_mode="r", allow_pickle=False)
            _check_shape(path, notes, axes, source)
            return np.array(source)
        with h5py.File(path, "r") as handle:
            source = _dataset(path, handle, notes.get("dataset", "kspace"))
            _check_shape(path, notes, axes, source)
            return source[()]
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f"{path} ends too early or cannot be read: copy it again.", "truncated") from error


def _dataset(path: Path, handle: h5py.File, name: str) -> h5py.Dataset:
    """The data set itself: links to other files, external and virtual storage are refused."""
    link = handle.get(name, getlink=True) if isinstance(name, str) else None
    source = handle[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(source, h5py.Dataset) or source.external or source.is_virtual:
        raise InputError(f"{path} has no data set {name!r} of its own: name it in the JSON as dataset.", "json")
    return source


def _check_shape(path: Path, notes: dict, axes: list[str], source) -> None:
    shape = list(source.shape)
    said = notes.get("shape")
    if len(shape) != len(axes) or (said is not None and said != shape):
        says = f"shape {said}" if said is not None else f'axes "{notes["axes"]}"'
        raise InputError(f"{path} has the shape {shape} where its JSON says {says}: correct one of them.", "shape")
    if source.dtype.kind != "c":
        raise InputError(f"{path} holds {source.dtype} and not complex numbers: save it as complex64.", "not-scalar")
    if not 0 < int(np.prod(shape, dtype=np.int64)) <= MAX_SAMPLES:
        raise InputError(f"{path} holds no samples or more than {MAX_SAMPLES}: cut it up.", "too-large")


def _affine(path: Path, notes: dict, spacing_mm: tuple[float, float, float], shape: tuple[int, ...]) -> np.ndarray:
    """As the JSON says, or an axial slice about the origin with columns to the left and rows to the back."""
    if "affine" not in notes:
        dz, dy, dx = spacing_mm
        affine = np.diag([-dx, -dy, dz, 1.0])
        affine[:3, 3] = -affine[:3, :3] @ [(shape[3] - 1) / 2, (shape[2] - 1) / 2, (shape[0] - 1) / 2]
        return affine
    try:
        affine = np.array(notes["affine"], float)
        usable = affine.shape == (4, 4) and np.isfinite(affine).all() and abs(np.linalg.det(affine)) > 0
    except (TypeError, ValueError):
        usable = False
    if not usable:
        raise InputError(f"{path.with_suffix('.json')} has an affine that is no 4x4 matrix: correct it.", "json")
    return affine
