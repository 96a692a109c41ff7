"""DICOM headers as plain records, one for each image plane of a single-frame or an enhanced multiframe file."""

import logging
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from data.errors import InputError

CT_CLASSES = {f"1.2.840.10008.5.1.4.1.1.2{suffix}" for suffix in ("", ".1", ".2")}
MR_CLASSES = {f"1.2.840.10008.5.1.4.1.1.4{suffix}" for suffix in ("", ".1", ".4")}
MAX_INFLATED_BYTES = 2**31


@dataclass(frozen=True)
class Frame:
    """One image plane. Positions and spacings in mm and in DICOM's LPS; pixel_mm is (between rows, between columns)."""

    path: Path
    index: int
    frames_in_file: int
    series_uid: str
    sop_uid: str
    modality: str
    rows: int
    columns: int
    samples: int
    frame_of_reference: str
    image_type: tuple[str, ...]
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_mm: tuple[float, ...] | None
    slope: float | None
    intercept: float | None
    rescale_type: str
    padding: tuple[float, float] | None
    echo: tuple
    temporal: tuple
    acquisition: str
    trigger: str
    diffusion: str


@dataclass(frozen=True)
class OtherObject:
    """A DICOM file that holds no CT or MR image. reason: a code of data.reasons."""

    path: Path
    series_uid: str
    reason: str


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom from printing values of attributes, which may name the patient."""
    logger = logging.getLogger("pydicom")
    level, logger_disabled = logger.level, logger.disabled
    mode = pydicom.config.settings.reading_validation_mode
    logger.disabled = True
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        logger.disabled = logger_disabled
        pydicom.config.settings.reading_validation_mode = mode


def looks_like_dicom(path: Path) -> bool:
    """True for a DICM preamble, or for a data set that starts with group 0002 or 0008 without one."""
    with path.open("rb") as handle:
        head = handle.read(132)
    if head[128:132] == b"DICM":
        return True
    known = head[:2] in (b"\x02\x00", b"\x08\x00") and head[3:4] == b"\x00"
    explicit = head[4:6] in (b"UI", b"UL", b"CS", b"DA", b"TM", b"OB", b"SH", b"LO", b"PN")
    implicit = len(head) > 12 and int.from_bytes(head[4:8], "little") <= 1024
    return known and (explicit or implicit)


def read_dataset(path: Path, pixels: bool) -> Dataset:
    """The data set, with its pixels still encoded. Raises InputError "undecodable", "truncated" or "too-large"."""
    try:
        with quiet():
            _check_inflated_size(path)
            return pydicom.dcmread(path, stop_before_pixels=not pixels, force=True)
    except (InputError, MemoryError):
        raise
    except EOFError as error:
        raise InputError(f"{path} ends too early: copy it again from its source.", "truncated") from error
    except Exception as error:
        raise InputError(f"{path} cannot be read as DICOM: copy it again or remove it.", "undecodable") from error


def read_frames(path: Path) -> list[Frame] | OtherObject:
    """Describe a DICOM file without decoding its pixels. Raises InputError as `read_dataset` does."""
    dataset = read_dataset(path, pixels=False)
    try:
        with quiet():
            sop_class = str(dataset.SOPClassUID)
            series_uid = str(dataset.get("SeriesInstanceUID", ""))
            if sop_class in CT_CLASSES | MR_CLASSES:
                return _frames(path, dataset, "ct" if sop_class in CT_CLASSES else "mr")
            return OtherObject(path, series_uid, "unsupported-class" if "Rows" in dataset else "non-image")
    except (InputError, MemoryError):
        raise
    except Exception as error:
        if path.name.upper() == "DICOMDIR":
            return OtherObject(path, "", "non-image")
        raise InputError(f"{path} has a damaged DICOM header: copy it again or remove it.", "undecodable") from error


def _check_inflated_size(path: Path) -> None:
    with path.open("rb") as handle:
        if handle.read(132)[128:] != b"DICM":
            return
        handle.seek(0)
        meta = pydicom.filereader.read_file_meta_info(path)
        if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
            return
        handle.seek(132 + 12 + int(meta.FileMetaInformationGroupLength))
        inflate, left = zlib.decompressobj(-zlib.MAX_WBITS), MAX_INFLATED_BYTES
        while left > 0 and not inflate.eof:
            chunk = inflate.unconsumed_tail or handle.read(1 << 20)
            if not chunk:
                return
            left -= len(inflate.decompress(chunk, 1 << 22))
    if left <= 0:
        raise InputError(f"{path} inflates to more than {MAX_INFLATED_BYTES} bytes: check its source.", "too-large")


def _frames(path: Path, dataset: Dataset, modality: str) -> list[Frame]:
    count = int(dataset.get("NumberOfFrames", 1) or 1)
    shared = _first(dataset, "SharedFunctionalGroupsSequence")
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence")
    if per_frame is None:
        if count != 1:
            raise InputError(f"{path} has frames without a place each: export it again.", "no-geometry")
        return [_frame(path, dataset, modality, 0, 1, [dataset])]
    if len(per_frame) != count:
        raise InputError(f"{path} describes {len(per_frame)} frames and claims {count}: export it again.", "truncated")
    return [_frame(path, dataset, modality, i, count, _levels(dataset, shared, per_frame[i])) for i in range(count)]


def _levels(dataset: Dataset, shared: Dataset | None, own: Dataset) -> list[Dataset]:
    """The data sets to look an attribute up in: the frame's macros, the shared ones, the top level."""
    levels = []
    for group in (own, shared):
        for element in group or ():
            if element.VR == "SQ" and len(element.value) == 1:
                levels.append(element.value[0])
    return [*levels, dataset]


def _first(dataset: Dataset, keyword: str) -> Dataset | None:
    sequence = dataset.get(keyword)
    return sequence[0] if sequence else None


def _find(levels: list[Dataset], *keywords: str):
    for keyword in keywords:
        for level in levels:
            value = level.get(keyword)
            if value is not None and value != "":
                return value
    return None


def _numbers(value, count: int) -> tuple[float, ...] | None:
    if value is None or len(value) != count:
        return None
    return tuple(float(number) for number in value)


def _number(value) -> float | None:
    return None if value is None else float(value)


def _frame(path: Path, dataset: Dataset, modality: str, index: int, count: int, levels: list[Dataset]) -> Frame:
    kind = _find(levels, "FrameType", "ImageType") or ()
    kind = (kind,) if isinstance(kind, str) else tuple(str(part) for part in kind)
    padding = _number(dataset.get("PixelPaddingValue"))
    limit = _number(dataset.get("PixelPaddingRangeLimit"))
    text = {key: str(_find(levels, *keywords)) for key, keywords in _TEXTS.items()}
    return Frame(
        path=path,
        index=index,
        frames_in_file=count,
        series_uid=str(dataset.SeriesInstanceUID),
        sop_uid=str(dataset.SOPInstanceUID),
        modality=modality,
        rows=int(dataset.Rows),
        columns=int(dataset.Columns),
        samples=int(dataset.get("SamplesPerPixel", 1)),
        frame_of_reference=str(dataset.get("FrameOfReferenceUID", "")),
        image_type=kind,
        position=_numbers(_find(levels, "ImagePositionPatient"), 3),
        orientation=_numbers(_find(levels, "ImageOrientationPatient"), 6),
        pixel_mm=_numbers(_find(levels, "PixelSpacing"), 2),
        slope=_number(_find(levels, "RescaleSlope")),
        intercept=_number(_find(levels, "RescaleIntercept")),
        rescale_type=str(_find(levels, "RescaleType") or ""),
        padding=None if padding is None else (padding, padding if limit is None else limit),
        echo=(text["echo"], text["echo_time"]),
        temporal=(text["temporal"], text["stack"]),
        acquisition=text["acquisition"],
        trigger=text["trigger"],
        diffusion=text["diffusion"],
    )


_TEXTS = {
    "echo": ("EchoNumbers",),
    "echo_time": ("EffectiveEchoTime", "EchoTime"),
    "temporal": ("TemporalPositionIndex", "TemporalPositionIdentifier"),
    "stack": ("StackID",),
    "acquisition": ("FrameAcquisitionNumber", "AcquisitionNumber"),
    "trigger": ("NominalCardiacTriggerDelayTime", "TriggerTime"),
    "diffusion": ("DiffusionBValue",),
}
