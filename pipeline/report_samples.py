"""The posterior samples of a solver, for the page's "what else could it be"; read slice by slice from the disk."""

import json
from pathlib import Path

import numpy as np

from pipeline.measurement import read_metadata

TENSOR = "samples"


def open_samples(path: Path, shape_zyx: tuple[int, int, int], affine: np.ndarray, most: int) -> list[np.ndarray]:
    """The first `most` samples of a samples.safetensors, (z y x) each, as memory maps that cost no memory till read.

    Empty where there is no such file, or where its samples lie on another grid or are not float32. Raises InputError
    for a damaged file.
    """
    if most < 1 or not path.is_file():
        return []
    metadata = read_metadata(path)
    entry, start = _entry(path)
    shape = tuple(entry.get("shape", ()))
    same_grid = shape[1:] == tuple(shape_zyx) and np.allclose(metadata.get("affine", affine), affine, atol=1e-3)
    if entry.get("dtype") != "F32" or len(shape) != 4 or not same_grid:
        return []
    volumes = np.memmap(path, np.dtype("<f4"), "r", start + entry["data_offsets"][0], shape)
    return [volumes[index] for index in range(min(most, shape[0]))]


def _entry(path: Path) -> tuple[dict, int]:
    """The tensor's row in the file's header, and where the data begin (safetensors: length, JSON header, data)."""
    with path.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        header = json.loads(handle.read(length))
    return header.get(TENSOR, {}), 8 + length
