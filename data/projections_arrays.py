"""One array of numbers from .npy, .h5, TIFF or .mat: shapes and types are looked at before anything is read.

No pickles, no object arrays, no links to other files. Errors carry a reason: truncated, not-scalar, too-large, json.
"""

import logging
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import tifffile
from PIL import Image

from data.errors import InputError
from data.geometry_json import Source
from data.hdf5 import MAX_GROWTH, check_stored
from data.isolated import read_isolated
from data.projections_mat import read_mat

MAX_SAMPLES = 2**31
TIFF = (".tif", ".tiff")
DEFLATED = (8, 32946)
# tifffile would print what it finds odd about a file; the reader says it, or refuses the file.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)
ISOLATED = (".h5", ".hdf5", ".mat")
SUFFIXES = (".npy", ".h5", ".hdf5", ".mat", *TIFF)


def read_array(source: Source) -> np.ndarray:
    """The array, real and of any numeric type. Raises InputError with a sentence that names the file, for HDF5 and .mat
    also as data.isolated does."""
    path = source.path
    if path.is_dir():
        return _guarded(_tiff_folder, path, source.dataset)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path} is none of {', '.join(SUFFIXES)}: save the projections in one of these.", "json")
    if path.suffix.lower() in ISOLATED:
        return read_isolated("data.projections_arrays:read_alone", path, source.dataset)
    return _guarded(reader, path, source.dataset)


def read_alone(path: Path, dataset: str | None) -> np.ndarray:
    """The array of one file, for data.isolated."""
    return _guarded(_READERS[path.suffix.lower()], path, dataset)


def tiff_files(folder: Path) -> list[Path]:
    """The TIFF files of a folder in their natural order: view2 before view10."""
    found = [path for path in folder.iterdir() if path.suffix.lower() in TIFF and not path.name.startswith(".")]
    return sorted(found, key=lambda path: [(int(w), "") if w.isdigit() else (-1, w) for w in _words(path.name)])


def check_array(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """InputError unless this is an array of real numbers of a size that is read."""
    if dtype.kind not in "fiub":
        raise InputError(f"{path} holds {dtype} and not real numbers: save them as float32 or uint16.", "not-scalar")
    samples = int(np.prod(shape, dtype=object))
    if not 0 < samples <= MAX_SAMPLES:
        raise InputError(f"{path} holds no numbers or more than {MAX_SAMPLES}: cut it up.", "too-large")


def _guarded(reader: Callable[[Path, str | None], np.ndarray], path: Path, dataset: str | None) -> np.ndarray:
    try:
        return reader(path, dataset)
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f"{path} ends too early or cannot be read: copy it again.", "truncated") from error


def _npy(path: Path, _dataset: str | None) -> np.ndarray:
    source = np.load(path, mmap_mode="r", allow_pickle=False)
    check_array(path, source.shape, source.dtype)
    return np.array(source)


def _h5(path: Path, dataset: str | None) -> np.ndarray:
    with h5py.File(path, "r") as handle:
        source = _own_dataset(path, handle, dataset or _only_dataset(path, handle))
        check_array(path, source.shape, source.dtype)
        check_stored(path, source)
        return source[()]


def _only_dataset(path: Path, handle: h5py.File) -> str:
    """The name of the file's one array of two or three axes."""
    found: list[str] = []

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim in (2, 3) and item.dtype.kind in "fiu":
            found.append(name)

    handle.visititems(visit)
    if len(found) != 1:
        names = f"has {', '.join(found[:5])}" if found else "has no array of two or three axes"
        raise InputError(f"{path} {names}: name the projections' data set in geometry.json as dataset.", "json")
    return found[0]


def _own_dataset(path: Path, handle: h5py.File, name: str) -> h5py.Dataset:
    """The data set itself: links to other files on the way, external and virtual storage are refused."""
    item: h5py.Group | h5py.Dataset = handle
    for part in name.strip("/").split("/"):
        link = item.get(part, getlink=True) if isinstance(item, h5py.Group) else None
        item = item[part] if isinstance(link, h5py.HardLink) else None
    if not isinstance(item, h5py.Dataset) or item.external or item.is_virtual:
        raise InputError(f"{path} has no data set {name!r} of its own: correct the name in geometry.json.", "json")
    return item


def _tiff(path: Path, _dataset: str | None) -> np.ndarray:
    """One page (y x) or all pages (pages y x)."""
    with tifffile.TiffFile(path) as handle:
        _refuse_circle(path, handle)
        if not handle.series:
            raise ValueError("no image")
        first = handle.series[0]
        check_array(path, first.shape, first.dtype)
        if len(handle.series) > 1 or len(first.shape) not in (2, 3) or first.keyframe.samplesperpixel != 1:
            raise InputError(f"{path} is no stack of grey images of one size: save it as one.", "not-scalar")
        _refuse_bomb(path, handle, first)
        try:
            return first.asarray()
        except ValueError:
            if first.keyframe.compression in (1, *DEFLATED):
                raise
    return _pillow(path)


def _refuse_circle(path: Path, handle: tifffile.TiffFile) -> None:
    """InputError where a page names an earlier one as the next: tifffile would list pages for ever."""
    layout, file, seen = handle.tiff, handle.filehandle, set()

    def number(at: int, form: str, size: int) -> int:
        file.seek(at)
        found = file.read(size)
        return struct.unpack(form, found)[0] if len(found) == size else 0

    offset = number(8 if layout.is_bigtiff else 4, layout.offsetformat, layout.offsetsize)
    while 0 < offset < file.size:
        if offset in seen:
            raise InputError(f"{path} names its own pages in a circle: save it again.", "truncated")
        seen.add(offset)
        tags = number(offset, layout.tagnoformat, layout.tagnosize)
        end = offset + layout.tagnosize + tags * layout.tagsize
        offset = number(end, layout.offsetformat, layout.offsetsize) if end < file.size else 0


def _refuse_bomb(path: Path, handle: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> None:
    """InputError where a strip holds or inflates to more than the whole page: tifffile inflates without a limit; and
    where the pages claim more than the file can hold, or samples of odd bits, which take tifffile minutes."""
    held = handle.filehandle.size * (1 if series.keyframe.compression == 1 else MAX_GROWTH)
    if series.nbytes > held or series.keyframe.bitspersample not in (8, 16, 32, 64):
        raise InputError(f"{path} claims more than it holds, or odd bits a sample: save it again.", "truncated")
    for page in series.pages:
        most = page.nbytes + 2**16
        for offset, size in zip(page.dataoffsets, page.databytecounts):
            handle.filehandle.seek(offset)
            packed, grown = handle.filehandle.read(min(size, most + 1)), 0
            if size <= most and page.compression in DEFLATED:
                unpacker = zlib.decompressobj()
                while packed and grown <= most:
                    grown += len(unpacker.decompress(packed, 2**20))
                    packed = unpacker.unconsumed_tail
            if max(size, grown) > most:
                raise InputError(f"{path} unpacks to far more than its size: save it again.", "too-large")


def _pillow(path: Path) -> np.ndarray:
    """For compressions that tifffile needs another package for."""
    pages = []
    with Image.open(path) as image:
        for page in range(getattr(image, "n_frames", 1)):
            image.seek(page)
            pages.append(np.array(image))
    return pages[0] if len(pages) == 1 else np.stack(pages)


def _tiff_folder(folder: Path, _dataset: str | None) -> np.ndarray:
    """The files as a stack (files y x)."""
    files = tiff_files(folder)
    if not files:
        raise InputError(f"{folder} holds no TIFF files: name the folder with the projections.", "json")
    first = _guarded(_tiff, files[0], None)
    if first.ndim != 2:
        raise InputError(f"{files[0]} holds several images: keep one a file, or all in one file.", "shape")
    check_array(folder, (len(files), *first.shape), first.dtype)
    stack = np.empty((len(files), *first.shape), first.dtype)
    for place, path in enumerate(files):
        page = _guarded(_tiff, path, None)
        if page.shape != first.shape or page.dtype != first.dtype:
            raise InputError(f"{path} has another size or type than {files[0].name}: take it out.", "shape")
        stack[place] = page
    return stack


def _mat(path: Path, dataset: str | None) -> np.ndarray:
    if dataset is None:
        raise InputError(f"{path} needs the name of its array: give it in geometry.json as dataset.", "json")
    value = read_mat(path, dataset)
    check_array(path, value.shape, value.dtype)
    return value


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"(\d+)", name) if word]


_READERS: dict[str, Callable[[Path, str | None], np.ndarray]] = {
    ".npy": _npy,
    ".h5": _h5,
    ".hdf5": _h5,
    ".mat": _mat,
    ".tif": _tiff,
    ".tiff": _tiff,
}
