"""Pixels of ordered image planes as one float32 volume in physical units."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from tqdm import tqdm

from data.dicom_codestream import coded_matrix
from data.dicom_decode import PIXEL_TAGS, ChildDecoder, plugin_of
from data.dicom_file import quiet, read_dataset
from data.dicom_frames import Frame
from data.errors import InputError
from data.nifti import MAX_VOXELS
from data.reasons import REASONS

AIR_HU = -1000.0
# No tissue and no streak is that low: scanners fill the corners with it, declared as padding or not, lossy or not.
OUTSIDE_HU = -2000.0
HOUNSFIELD_UNIT = "[hnsf'U]"
# A file may be this much longer than twice its pixels: headers, icons, private data.
MAX_EXTRA_BYTES = 2**28
A_BAR_FROM = 300
# By (implicit, little endian), for data sets without meta information.
BARE = {
    (True, True): ImplicitVRLittleEndian,
    (False, True): ExplicitVRLittleEndian,
    (False, False): ExplicitVRBigEndian,
}


def read_pixels(frames: tuple[Frame, ...], max_voxels: int = MAX_VOXELS) -> np.ndarray:
    """Stack planes in the order given, (z y x) float32: stored value times slope plus intercept, HU for CT.

    MONOCHROME1 is a way of showing values and changes none. CT padding below air, and all up to -2000 HU, becomes air.
    Each file is read and each plane decoded once. Raises InputError: "too-large" before anything is decoded,
    "truncated", "undecodable", "compression".
    """
    rows, columns = frames[0].rows, frames[0].columns
    voxels = rows * columns * max(len(frames), frames[0].frames_in_file)
    if voxels > max_voxels:
        raise InputError(f"{REASONS['too-large'].text} ({voxels * 4 / 1e9:.3g} GB)", "too-large")
    volume = np.empty((len(frames), rows, columns), np.float32)
    by_file: dict[Path, list[int]] = {}
    for z, frame in enumerate(frames):
        by_file.setdefault(frame.path, []).append(z)
    bar = tqdm(total=len(frames), desc="pixels", unit="slice", mininterval=1, disable=len(frames) < A_BAR_FROM)
    with bar, ChildDecoder() as decoder:
        for members in by_file.values():
            for z, stored in zip(members, _decode([frames[z] for z in members], decoder), strict=True):
                volume[z] = _physical(stored, frames[z])
                bar.update()
    return volume


def same_pixels(paths: list[Path]) -> bool:
    """True where all files hold the same encoded pixels."""
    encoded = {bytes(read_dataset(path, pixels=True, tags=PIXEL_TAGS).get("PixelData") or b"") for path in paths}
    return len(encoded) == 1


def scaling(frame: Frame) -> tuple[float, float]:
    """(slope, intercept) from stored to physical values: the rescale, else a real-world mapping, else none."""
    if frame.slope is not None:
        return frame.slope, frame.intercept or 0.0
    if frame.mapping is not None and (frame.modality != "ct" or frame.mapping[2] == HOUNSFIELD_UNIT):
        return frame.mapping[:2]
    return 1.0, frame.intercept or 0.0


def _physical(stored: np.ndarray, frame: Frame) -> np.ndarray:
    slope, intercept = scaling(frame)
    values = stored.astype(np.float64) * slope + intercept
    if frame.modality != "ct":
        return values
    outside = values <= OUTSIDE_HU
    if frame.padding is not None:
        low, high = sorted(frame.padding)
        outside |= (stored >= low) & (stored <= high) & (values < AIR_HU)
    values[outside] = AIR_HU
    return values


def _decode(frames: list[Frame], decoder: ChildDecoder) -> Iterator[np.ndarray]:
    """Stored values (rows columns) of planes of one file, one at a time."""
    first = frames[0]
    shape = (first.frames_in_file, first.rows, first.columns)
    _check_file_size(first.path, shape)
    dataset = read_dataset(first.path, pixels=True, tags=PIXEL_TAGS)
    try:
        with quiet():
            _check_pixels(first.path, dataset, shape)
            for frame in frames:
                plane = decoder.plane(first.path, dataset, frame.index)
                if plane.shape != shape[1:]:
                    raise InputError(f"{first.path} holds another matrix than it says: export it again.", "undecodable")
                yield plane
    except (InputError, MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # decoders in Rust panic with an exception that is no Exception
        syntax = UID(dataset.file_meta.get("TransferSyntaxUID", ""))
        packed = syntax.is_transfer_syntax and syntax.is_compressed
        how, advice = (f" ({syntax.name})", ", or export it uncompressed") if packed else ("", "")
        raise InputError(
            f"{first.path} holds pixels that cannot be decoded{how}: copy it again{advice}.", "undecodable"
        ) from error


def _check_file_size(path: Path, shape: tuple[int, int, int]) -> None:
    if path.stat().st_size > MAX_EXTRA_BYTES + 8 * int(np.prod(shape, dtype=np.int64)):
        raise InputError(f"{path} is far longer than the image it holds: export it again.", "too-large")


def _check_pixels(path: Path, dataset: Dataset, shape: tuple[int, int, int]) -> None:
    """Compare what the header claims with what is there, before memory is asked for."""
    pixels = dataset.get("PixelData")
    syntax = UID(dataset.file_meta.get("TransferSyntaxUID", ""))
    if not syntax:
        dataset.file_meta.TransferSyntaxUID = syntax = UID(BARE[dataset.original_encoding])
    if not pixels:
        raise InputError(f"{path} ends before its pixels do: copy it again from its source.", "truncated")
    if not syntax.is_transfer_syntax:
        raise InputError(f"{path} is written in a transfer syntax that nobody knows: export it again.", "compression")
    if not syntax.is_compressed or syntax.is_deflated:
        claimed = int(np.prod(shape, dtype=np.int64)) * int(dataset.BitsAllocated) // 8
        if len(pixels) < claimed:
            raise InputError(f"{path} ends before its pixels do: copy it again from its source.", "truncated")
        return
    _check_decoder(path, syntax)
    count = 0
    for code in generate_frames(pixels, number_of_frames=shape[0]):
        count += 1
        said = coded_matrix(code)
        if said is not None and said != (*shape[1:], 1):
            raise InputError(f"{path} holds another matrix than it says: export it again.", "undecodable")
    if count < shape[0]:
        raise InputError(f"{path} ends before its pixels do: copy it again from its source.", "truncated")


def _check_decoder(path: Path, syntax: UID) -> None:
    try:
        available = plugin_of(syntax) != ""
    except NotImplementedError:
        available = False
    if not available:
        raise InputError(
            f"{path} is compressed as {syntax.name}, which cannot be read here: export it uncompressed.", "compression"
        )
