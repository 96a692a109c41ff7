"""DICOM headers as plain records, one for each image plane of a single-frame or an enhanced multiframe file."""

import math
import struct
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from pydicom.datadict import dictionary_has_tag, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import UID

from data.dicom_file import looks_like_dicom, quiet, read_dataset
from data.errors import InputError

__all__ = ["Frame", "OtherObject", "looks_like_dicom", "quiet", "read_dataset", "read_frames"]

CT_CLASSES = {f"1.2.840.10008.5.1.4.1.1.2{suffix}" for suffix in ("", ".1", ".2")}
MR_CLASSES = {f"1.2.840.10008.5.1.4.1.1.4{suffix}" for suffix in ("", ".1", ".4")}
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
MAX_FRAMES = 2**17
MIN_PIXEL_MM = 1e-6


@dataclass(frozen=True)
class Frame:
    """One image plane. Positions and spacings in mm and in DICOM's LPS; pixel_mm is (between rows, between columns).

    mapping: (slope, intercept, unit) of a linear real-world value mapping, or None; stored values times slope plus
    intercept are in that unit. lookup: values go through a table instead. component: magnitude, phase, real,
    imaginary or "", whatever attribute says so. marks: what may tell repeated planes apart, by the names in MARKS.
    philips_slope: the private scale slope, kept for the record and never applied.
    """

    path: Path
    index: int
    frames_in_file: int
    series_uid: str
    sop_uid: str
    modality: str
    rows: int
    columns: int
    samples: int
    photometric: str
    frame_of_reference: str
    image_type: tuple[str, ...]
    component: str
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_mm: tuple[float, ...] | None
    slope: float | None
    intercept: float | None
    rescale_type: str
    mapping: tuple[float, float, str] | None
    lookup: bool
    padding: tuple[float, float] | None
    philips_slope: float | None
    marks: dict[str, str]

    @property
    def instance(self) -> str:
        """Digits that tell this file's SOP instance from every other one, and not which it is."""
        return sha256(self.sop_uid.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class OtherObject:
    """A DICOM file that holds no CT or MR image. reason: a code of data.reasons. what: its SOP class in words."""

    path: Path
    series_uid: str
    reason: str
    what: str = ""


MARKS = {
    "echo": ("EchoNumbers",),
    "echo time": ("EffectiveEchoTime", "EchoTime"),
    "frame of reference": ("FrameOfReferenceUID",),
    "acquisition": ("FrameAcquisitionNumber", "AcquisitionNumber"),
    "time point": ("TemporalPositionIndex", "TemporalPositionIdentifier", "TemporalPositionTimeOffset"),
    "stack": ("StackID",),
    "trigger time": ("NominalCardiacTriggerDelayTime", "TriggerTime"),
    "diffusion weighting": ("DiffusionBValue",),
    "diffusion direction": ("DiffusionGradientOrientation", "DiffusionDirectionality"),
    "inversion time": ("InversionTimes", "InversionTime"),
    "flip angle": ("FlipAngle",),
    "repetition time": ("RepetitionTime",),
    "velocity direction": ("VelocityEncodingDirection",),
    "coil": ("ReceiveCoilName",),
    "tube voltage": ("KVP",),
    "energy": ("MonoenergeticEnergyEquivalent",),
    "kernel": ("ConvolutionKernel",),
    "slice thickness": ("SliceThickness",),
    "contrast agent": ("ContrastBolusAgent",),
    "image comment": ("FrameComments",),
    "acquisition time": ("FrameAcquisitionDateTime", "AcquisitionDateTime", "AcquisitionTime"),
}
PHILIPS_SCALE_SLOPE = 0x2005100E
GE_COMPONENT = 0x0043102F
KEYWORDS = (
    "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "ImageType", "Rows", "Columns",
    "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PixelRepresentation", "BitsAllocated",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept",
    "RescaleType", "PixelPaddingValue", "PixelPaddingRangeLimit", "ModalityLUTSequence", "ComplexImageComponent",
    "RealWorldValueMappingSequence", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
MARKING = tuple(keyword for keywords in MARKS.values() for keyword in keywords)
TAGS = (*map(tag_for_keyword, (*KEYWORDS, *MARKING)), PHILIPS_SCALE_SLOPE, GE_COMPONENT)
NEEDED = ("SOPInstanceUID", "SeriesInstanceUID", "Rows", "Columns")


def read_frames(path: Path) -> list[Frame] | OtherObject:
    """Describe a DICOM file without reading its pixels. Raises InputError as `read_dataset` does, or "geometry"."""
    dataset = read_dataset(path, pixels=False, tags=TAGS)
    try:
        with quiet():
            sop_class = _sop_class(dataset)
            if sop_class in CT_CLASSES | MR_CLASSES:
                _require(path, dataset)
                return _frames(path, dataset, "ct" if sop_class in CT_CLASSES else "mr")
            if not sop_class and ("Rows" in dataset or not _has_known_element(path)):
                raise InputError(f"{path} has a damaged DICOM header: copy it again or remove it.", "undecodable")
            return _other(path, dataset, sop_class)
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f"{path} has a damaged DICOM header: copy it again or remove it.", "undecodable") from error


def _require(path: Path, dataset: Dataset) -> None:
    missing = [keyword for keyword in NEEDED if not dataset.get(keyword)]
    if missing:
        raise InputError(f"{path} is an image without {missing[0]}: copy it again or remove it.", "undecodable")


def _sop_class(dataset: Dataset) -> str:
    meta = getattr(dataset, "file_meta", Dataset())
    return str(dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or "")


def _has_known_element(path: Path) -> bool:
    return any(dictionary_has_tag(element.tag) for element in read_dataset(path, pixels=False))


def _other(path: Path, dataset: Dataset, sop_class: str) -> OtherObject:
    what = UID(sop_class).name if UID(sop_class).type == "SOP Class" else ""
    reason = "unsupported-class" if "Rows" in dataset else "non-image"
    if sop_class == SECONDARY_CAPTURE or sop_class.startswith(SECONDARY_CAPTURE + "."):
        reason = "secondary-capture"
    elif int(dataset.get("SamplesPerPixel") or 1) != 1:
        reason = "colour"
    return OtherObject(path, str(dataset.get("SeriesInstanceUID", "")), reason, what.removesuffix(" Storage"))


def _frames(path: Path, dataset: Dataset, modality: str) -> list[Frame]:
    count = int(dataset.get("NumberOfFrames", 1) or 1)
    shared = _first(dataset, "SharedFunctionalGroupsSequence")
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence")
    if not 0 < count <= MAX_FRAMES:
        raise InputError(f"{path} claims {count} frames: export it again.", "too-large")
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


def _numbers(path: Path, levels: list[Dataset], keyword: str, count: int) -> tuple[float, ...] | None:
    """COUNT numbers, or None where the attribute is absent or empty. Raises InputError "geometry"."""
    value = _find(levels, keyword)
    if value is None or len(value) == 0:
        return None
    numbers = tuple(float(number) for number in value)
    if len(numbers) != count or not all(math.isfinite(number) and abs(number) < 1e6 for number in numbers):
        raise InputError(f"{path} has no {count} sensible numbers as {keyword}: export it again.", "geometry")
    if keyword == "PixelSpacing" and min(numbers) < MIN_PIXEL_MM:
        raise InputError(f"{path} has a PixelSpacing that is no length: export it again.", "geometry")
    return numbers


def _number(path: Path, value) -> float | None:
    if value is None or value == "":
        return None
    if not math.isfinite(float(value)):
        raise InputError(f"{path} scales its values by a number that is not finite: export it again.", "nan")
    return float(value)


def _frame(path: Path, dataset: Dataset, modality: str, index: int, count: int, levels: list[Dataset]) -> Frame:
    kind = _find(levels, "FrameType", "ImageType") or ()
    kind = (kind,) if isinstance(kind, str) else tuple(str(part).upper() for part in kind)
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
        photometric=str(dataset.get("PhotometricInterpretation", "")),
        frame_of_reference=str(dataset.get("FrameOfReferenceUID", "")),
        image_type=kind,
        component=_component(dataset, levels, kind),
        position=_numbers(path, levels, "ImagePositionPatient", 3),
        orientation=_numbers(path, levels, "ImageOrientationPatient", 6),
        pixel_mm=_numbers(path, levels, "PixelSpacing", 2),
        slope=_number(path, _find(levels, "RescaleSlope")),
        intercept=_number(path, _find(levels, "RescaleIntercept")),
        rescale_type=str(_find(levels, "RescaleType") or ""),
        mapping=_mapping(path, dataset, levels),
        lookup="ModalityLUTSequence" in dataset,
        padding=_padding(path, dataset),
        philips_slope=_philips_slope(levels),
        marks={name: str(_find(levels, *keywords)) for name, keywords in MARKS.items()},
    )


def _padding(path: Path, dataset: Dataset) -> tuple[float, float] | None:
    first = _number(path, dataset.get("PixelPaddingValue"))
    limit = _number(path, dataset.get("PixelPaddingRangeLimit"))
    return None if first is None else (first, first if limit is None else limit)


_COMPONENTS = {
    "magnitude": {"M", "MAGNITUDE", "M_FFE", "M_SE", "M_IR"},
    "phase": {"P", "PHASE", "PHASE MAP", "PHASE_MAP", "VELOCITY", "VELOCITY MAP", "P_FFE"},
    "real": {"R", "REAL", "R_FFE", "R_IR", "R_SE"},
    "imaginary": {"I", "IMAGINARY", "I_FFE", "I_IR", "I_SE"},
}
_GE_COMPONENTS = ("magnitude", "phase", "real", "imaginary")


def _component(dataset: Dataset, levels: list[Dataset], kind: tuple[str, ...]) -> str:
    """By ComplexImageComponent, GE's private image type (0043,102F), or the values of ImageType from the third on."""
    said = {str(_find(levels, "ComplexImageComponent") or "").upper()} - {""} or set(kind[2:])
    for name in ("phase", "real", "imaginary", "magnitude"):
        if said & _COMPONENTS[name]:
            return name
    private = dataset.get(GE_COMPONENT)
    value = private.value if private is not None else None
    if isinstance(value, bytes) and len(value) == 2:
        value = struct.unpack("<h", value)[0]
    return _GE_COMPONENTS[value] if isinstance(value, int) and 0 <= value < 4 else ""


def _mapping(path: Path, dataset: Dataset, levels: list[Dataset]) -> tuple[float, float, str] | None:
    """The first linear real-world value mapping (PS3.3 C.7.6.16.2.11) of a frame or of the file."""
    items = [level for level in levels if "RealWorldValueSlope" in level]
    items += list(dataset.get("RealWorldValueMappingSequence") or ())
    for item in items:
        slope, intercept = _number(path, item.get("RealWorldValueSlope")), item.get("RealWorldValueIntercept")
        units = item.get("MeasurementUnitsCodeSequence")
        if slope:
            unit = str(units[0].get("CodeValue", "")) if units else ""
            return slope, _number(path, intercept) or 0.0, unit
    return None


def _philips_slope(levels: list[Dataset]) -> float | None:
    for level in levels:
        element = level.get(PHILIPS_SCALE_SLOPE)
        value = element.value if element is not None else None
        if isinstance(value, bytes) and len(value) == 4:
            value = struct.unpack("<f", value)[0]
        if isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    return None
