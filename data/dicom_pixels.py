"""Pixels of ordered image planes as one float32 volume in physical units."""

import struct
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID, JPEG2000TransferSyntaxes

from data.dicom_frames import Frame, quiet, read_dataset
from data.errors import InputError
from data.nifti import MAX_VOXELS
from data.reasons import REASONS

AIR_HU = -1000.0
J2K_START = b"\xff\x4f\xff\x51"


def read_pixels(frames: tuple[Frame, ...]) -> np.ndarray:
    """Stack planes in the order given, (z y x) float32: stored value times slope plus intercept, HU for CT.

    MONOCHROME1 is a way of showing values and changes none. CT padding below air becomes air. Raises InputError:
    "too-large" before anything is decoded, "truncated", "undecodable".
    """
    rows, columns = frames[0].rows, frames[0].columns
    if rows * columns * max(len(frames), frames[0].frames_in_file) > MAX_VOXELS:
        raise InputError(REASONS["too-large"].text, "too-large")
    volume = np.empty((len(frames), rows, columns), np.float32)
    path, stored = None, None
    for z, frame in enumerate(frames):
        if frame.path != path:
            path, stored = frame.path, _decode(frame)
        volume[z] = _physical(stored[frame.index], frame)
    return volume


def same_pixels(paths: list[Path]) -> bool:
    """True where all files hold the same encoded pixels."""
    encoded = {bytes(read_dataset(path, pixels=True).get("PixelData") or b"") for path in paths}
    return len(encoded) == 1


def _physical(stored: np.ndarray, frame: Frame) -> np.ndarray:
    slope = 1.0 if frame.slope is None else frame.slope
    values = stored.astype(np.float64) * slope + (frame.intercept or 0.0)
    if frame.modality == "ct" and frame.padding is not None:
        low, high = sorted(frame.padding)
        values[(stored >= low) & (stored <= high) & (values < AIR_HU)] = AIR_HU
    return values


def _decode(frame: Frame) -> np.ndarray:
    """Stored values of all frames of a file (frames rows columns)."""
    dataset = read_dataset(frame.path, pixels=True)
    shape = (frame.frames_in_file, frame.rows, frame.columns)
    try:
        with quiet():
            _check_encoded_size(frame.path, dataset, shape)
            stored = dataset.pixel_array
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise InputError(
            f"{frame.path} holds pixels that cannot be decoded: copy it again from its source.", "undecodable"
        ) from error
    if stored.size != np.prod(shape):
        raise InputError(f"{frame.path} holds another matrix than it says: export it again.", "undecodable")
    return stored.reshape(shape)


def _check_encoded_size(path: Path, dataset: Dataset, shape: tuple[int, int, int]) -> None:
    """Compare what the header claims with what is there, before memory is asked for."""
    pixels = dataset.get("PixelData")
    syntax = UID(dataset.file_meta.get("TransferSyntaxUID", "")) if hasattr(dataset, "file_meta") else UID("")
    if not syntax:
        dataset.file_meta.TransferSyntaxUID = syntax = UID("1.2.840.10008.1.2")
    claimed = int(np.prod(shape, dtype=np.int64)) * int(dataset.BitsAllocated) // 8
    if not pixels or (not syntax.is_compressed and len(pixels) < claimed):
        raise InputError(f"{path} ends before its pixels do: copy it again from its source.", "truncated")
    if syntax in JPEG2000TransferSyntaxes and (start := pixels.find(J2K_START)) >= 0:
        width, height, left, top = struct.unpack(">IIII", pixels[start + 8 : start + 24])
        if (height - top, width - left) != shape[1:]:
            raise InputError(f"{path} holds another matrix than it says: export it again.", "undecodable")
