"""What every reader of raw MR data gives, and what they share: limits, HDF5 without links to elsewhere, default places.

Images have the axes (z y x), k-space (z coils y x) with zero frequency at index n // 2 of y and x.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import h5py
import numpy as np

from data.errors import InputError

MAX_SAMPLES = 2**31
Read = TypeVar("Read")


@dataclass(frozen=True)
class KSpace:
    """Raw MR data of one volume.

    array       complex64; Cartesian (z coils y x), zero where nothing was measured; with a trajectory
                (z coils readouts samples)
    affine      4x4, image index (x y z) to RAS mm; the matrix of the image is `matrix` for a trajectory
    spacing_mm  (z y x) of that image
    mask        bool (y x) or (z y x), places that were measured; None: where any coil is not zero
    trajectory  float32 (readouts samples 2), or (z readouts samples 2): ky, kx in cycles per field of view
    matrix      (rows, columns) of the image that a trajectory encodes
    keep        (rows, columns) of the field of view that was asked for, at the same pixel size; fewer than the array's
                where the scanner oversampled. None: all
    noise       complex64 (coils n) from a noise scan, scaled to the bandwidth of the data; None: there is none
    calibration complex64 (z coils y x), measured for coil sensitivities alone; None: there is none
    reference   float32 (z rows columns), a root-sum-of-squares image that came with the data; None: there is none
    phase_axis  "x" or "y", along which lines were encoded one by one; the readout is the other
    averages    how many measurements each sample is the mean of (the fewest)
    warnings    what was assumed or left out, in sentences without names
    """

    array: np.ndarray
    affine: np.ndarray
    spacing_mm: tuple[float, float, float]
    mask: np.ndarray | None = None
    trajectory: np.ndarray | None = None
    matrix: tuple[int, int] | None = None
    keep: tuple[int, int] | None = None
    noise: np.ndarray | None = None
    calibration: np.ndarray | None = None
    reference: np.ndarray | None = None
    phase_axis: str = "x"
    averages: int = 1
    warnings: tuple[str, ...] = ()

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Shape of the image."""
        rows, columns = self.matrix if self.trajectory is not None else self.array.shape[2:]
        return self.array.shape[0], rows, columns


def axial_affine(spacing_mm: tuple[float, float, float], shape_zyx: tuple[int, int, int]) -> np.ndarray:
    """Where nothing is known: an axial volume about the origin with columns to the left and rows to the back."""
    dz, dy, dx = spacing_mm
    affine = np.diag([-dx, -dy, dz, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ [(size - 1) / 2 for size in shape_zyx[::-1]]
    return affine


def affine_of(
    centre: np.ndarray, axes_xyz: np.ndarray, spacing_xyz_mm: np.ndarray, matrix_xy: tuple[int, int], slices: int
) -> np.ndarray:
    """Affine (RAS) of an image whose index (columns // 2, rows // 2, `slices`) lies at `centre` (LPS mm).

    axes_xyz: unit vectors as columns, LPS. The discrete Fourier transform puts index n // 2 at the centre.
    """
    affine = np.eye(4)
    affine[:3, :3] = axes_xyz * spacing_xyz_mm
    affine[:3, 3] = centre - affine[:3, :3] @ [matrix_xy[0] // 2, matrix_xy[1] // 2, slices]
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def spacing_of_notes(path: Path, notes: dict) -> tuple[float, float, float]:
    """spacing_mm (z y x) of the JSON beside PATH, which has the key. Raises InputError: json."""
    try:
        z, y, x = (float(value) for value in notes["spacing_mm"])
    except (TypeError, ValueError) as error:
        raise InputError(f"{path.with_suffix('.json')} needs spacing_mm as [z, y, x]: correct it.", "json") from error
    if not all(0 < value < 1000 for value in (z, y, x)):
        raise InputError(f"{path.with_suffix('.json')} has a spacing_mm that is not a length: correct it.", "json")
    return z, y, x


def check_size(path: Path, count: int) -> None:
    """InputError ("too-large") for no samples or more than this program reads."""
    if not 0 < count <= MAX_SAMPLES:
        raise InputError(f"{path} holds no samples or more than {MAX_SAMPLES}: cut it up.", "too-large")


def beside(path: Path, name: str) -> Path | None:
    """The file of that name in PATH's folder; None where there is none, or a link that leaves the folder."""
    other = path.with_name(name)
    inside = not other.is_symlink() or other.resolve().parent == path.parent.resolve()
    return other if inside and other.is_file() else None


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Whatever goes wrong while reading becomes one sentence ("truncated"); InputError and MemoryError stay."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f"{path} ends too early or cannot be read: copy it again.", "truncated") from error


def own_dataset(group: h5py.Group, name: str) -> h5py.Dataset | None:
    """A data set of the file itself; None for links to other files, external and virtual storage, and what is none."""
    link = group.get(name, getlink=True) if isinstance(name, str) and name else None
    source = group[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(source, h5py.Dataset) or source.external or source.is_virtual:
        return None
    return source


def own_group(group: h5py.Group, name: str) -> h5py.Group | None:
    """A group of the file itself, or None."""
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        return None
    found = group[name]
    return found if isinstance(found, h5py.Group) else None


def look_into(path: Path, look: Callable[[h5py.File], Read], otherwise: Read) -> Read:
    """What `look` finds in an HDF5 file, or `otherwise` for a file that is none or is damaged; never raises."""
    try:
        with h5py.File(path, "r") as handle:
            return look(handle)
    except Exception:  # h5py raises OSError, KeyError, RuntimeError and more for damaged files
        return otherwise


def slab_of_kspace(kspace: KSpace, first: int, last: int) -> KSpace:
    """Slices [first, last) of a volume, with its place in the patient."""
    affine = kspace.affine.copy()
    affine[:3, 3] += affine[:3, 2] * first
    pick = {"array": kspace.array[first:last], "affine": affine}
    if kspace.mask is not None and kspace.mask.ndim == 3:
        pick["mask"] = kspace.mask[first:last]
    if kspace.trajectory is not None and kspace.trajectory.ndim == 4:
        pick["trajectory"] = kspace.trajectory[first:last]
    for name in ("calibration", "reference"):
        if getattr(kspace, name) is not None:
            pick[name] = getattr(kspace, name)[first:last]
    return replace(kspace, **pick)
