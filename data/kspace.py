"""Raw MR data in any form that is read: which form a file has, by what is in it, and its volumes as `KSpace`."""

from pathlib import Path

import h5py

from data.bart import bart_files, is_bart_kspace, read_bart
from data.errors import InputError
from data.fastmri import is_fastmri, read_fastmri
from data.ismrmrd import is_ismrmrd, read_ismrmrd
from data.isolated import read_isolated
from data.kspace_array import companions, read_array
from data.kspace_common import KSpace, readable

SUFFIXES = (".npy", ".h5", ".hdf5", ".mrd", ".cfl")


def read_kspace(path: Path, part: str = "") -> KSpace:
    """Read PATH, of its volumes the one called PART (see kspace_parts). Raises InputError as the form's reader does.

    HDF5 is read by data.isolated, with its errors.
    """
    path = Path(path)
    if path.suffix.lower() == ".cfl":
        return read_bart(path)
    if path.suffix.lower() == ".npy":
        return read_array(path)
    values = read_isolated("data.kspace:read_hdf5", path, part)
    return KSpace(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def read_hdf5(path: Path, part: str) -> dict:
    """The attributes of a KSpace in an HDF5 file, for data.isolated."""
    if is_ismrmrd(path):
        return vars(read_ismrmrd(path, part))
    if is_fastmri(path) and not path.with_suffix(".json").is_file():
        return vars(read_fastmri(path))
    with readable(path):
        h5py.File(path, "r").close()
    return vars(read_array(path))


def is_kspace(path: Path) -> bool:
    """Whether a file with one of SUFFIXES can be k-space, from a cheap look; never raises."""
    return is_bart_kspace(path) if path.suffix.lower() == ".cfl" else True


def kspace_files(path: Path) -> tuple[Path, ...]:
    """Files that may belong to PATH, whether they are there or not; never raises."""
    return bart_files(path) if path.suffix.lower() == ".cfl" else companions(path)


def kspace_parts(path: Path) -> tuple[str, ...]:
    """Names of the volumes in a file: ("",) for one. Contrasts, repetitions, phases and sets are volumes; never raises.
    """
    if path.suffix.lower() not in (".h5", ".hdf5", ".mrd"):
        return ("",)
    try:
        return tuple(read_isolated("data.ismrmrd:ismrmrd_parts", path))
    except (InputError, OSError):
        return ("",)
