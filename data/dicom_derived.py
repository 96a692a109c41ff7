"""Derived single-frame DICOM series on the working grid, beside their source in its study and frame of reference.

Only attributes on the lists below leave the source (PS3.15 annex E, basic profile with the option to retain UIDs);
free text and names never do. Positions, spacing and matrix are those of the volume given, not of the source.
"""

import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.coding import Code
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from data.dicom_frames import Frame, OtherObject, quiet, read_dataset, read_frames
from data.errors import InputError
from data.volume import spacing_of

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
RESEARCH_ONLY = "RESEARCH ONLY - not for diagnosis"
LARGEST = 2**15 - 1
UNPAIRED = (
    "ABDOMEN", "ABDOMENPELVIS", "BRAIN", "CHEST", "CHESTABDOMEN", "CHESTABDPELVIS", "CSPINE", "HEAD", "HEADNECK",
    "HEART", "LIVER", "LSPINE", "NECK", "PELVIS", "SKULL", "SPINE", "TSPINE", "WHOLEBODY",
)  # fmt: skip
NUMERIC = {"ct": ("KVP",), "mr": ("RepetitionTime", "EchoTime", "InversionTime", "FlipAngle", "MagneticFieldStrength")}
COPIED = {"ct": (), "mr": ("ScanningSequence", "SequenceVariant", "ScanOptions", "MRAcquisitionType")}
IDENTITY = (
    "SpecificCharacterSet", "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex",
    "PatientIdentityRemoved", "DeidentificationMethod", "StudyDate", "StudyTime", "AccessionNumber", "StudyID",
    "ReferringPhysicianName",
)  # fmt: skip
EMPTY = (
    "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber", "StudyID",
    "ReferringPhysicianName",
)  # fmt: skip
DEIDENTIFIED = (
    Code("113100", "DCM", "Basic Application Confidentiality Profile"),
    Code("113110", "DCM", "Retain UIDs Option"),
)


@dataclass(frozen=True)
class SeriesText:
    """kind: last value of ImageType. window: centre and width in the volume's units, or None."""

    kind: str
    description: str
    derivation: str
    number: int
    window: tuple[float, float] | None = None


@dataclass(frozen=True)
class Source:
    """The source series: header of its first slice, and its planes in order."""

    header: Dataset
    frames: tuple[Frame, ...]

    @property
    def modality(self) -> str:
        return self.frames[0].modality


def read_source(files: list[tuple[Path, int]]) -> Source:
    """Headers of (file, frame) in slice order. Raises InputError when a file has gone or changed."""
    known: dict[Path, list[Frame]] = {}
    frames = []
    for path, index in files:
        if not path.is_file():
            raise InputError(f"{path} is no longer there: put it back or ingest the study again.", "missing")
        if path not in known:
            described = read_frames(path)
            known[path] = [] if isinstance(described, OtherObject) else described
        if index >= len(known[path]) or known[path][index].position is None:
            raise InputError(f"{path} has changed since it was read: ingest the study again.", "missing")
        frames.append(known[path][index])
    return Source(read_dataset(files[0][0], pixels=False), tuple(frames))


def write_series(
    folder: Path, array_zyx: np.ndarray, affine: np.ndarray, source: Source, text: SeriesText, deidentify: bool = True
) -> None:
    """Write FOLDER/IM0001.dcm... one file a slice of (z y x), HU or scanner units; affine (x y z) to RAS mm.

    UIDs follow from the source's UIDs and the values: the same export twice gives the same files. Values are kept to
    half a HU for signed volumes of CT, otherwise to a 65,000th of the largest.
    """
    stored, slope = quantise(array_zyx, whole=source.modality == "ct" and text.kind == "RECONSTRUCTION")
    digest = sha256(np.ascontiguousarray(stored).tobytes() + repr((slope, affine.tolist(), text)).encode()).hexdigest()
    uid = [source.frames[0].series_uid, digest]
    common = _common(source, affine, stored, slope, text, deidentify)
    common.SeriesInstanceUID = generate_uid(entropy_srcs=uid)
    heights = _heights(source)
    folder.mkdir(parents=True)
    for z, plane in enumerate(stored):
        dataset = Dataset()
        dataset.update(common)
        corner = LPS_TO_RAS @ affine @ [0, 0, z, 1]
        nearest = source.frames[int(np.abs(heights[1] - heights[0] @ corner[:3]).argmin())]
        dataset.SOPInstanceUID = generate_uid(entropy_srcs=[*uid, str(z)])
        dataset.InstanceNumber = z + 1
        dataset.ImagePositionPatient = [_decimal(value) for value in corner[:3]]
        dataset.SourceImageSequence = [_reference(nearest, source.header)]
        dataset.PixelData = np.ascontiguousarray(plane).tobytes()
        _save(dataset, folder / f"IM{z + 1:04d}.dcm")


def quantise(array: np.ndarray, whole: bool) -> tuple[np.ndarray, float]:
    """(int16, slope): slope 1 if whole numbers are asked for and fit, otherwise the largest value fills the range."""
    largest = float(np.abs(array).max())
    slope = 1.0 if whole and largest <= LARGEST else max(float(_decimal(largest / LARGEST * (1 + 1e-7))), 1e-12)
    return np.rint(np.asarray(array, np.float64) / slope).clip(-LARGEST, LARGEST).astype("<i2"), slope


def _decimal(value: float) -> str:
    """A DICOM decimal string: at most 16 characters."""
    for digits in range(15, 5, -1):
        text = f"{float(value):.{digits}g}"
        if len(text) <= 16:
            return "0" if float(text) == 0 else text
    raise ValueError(f"{value} does not fit a decimal string")


def _heights(source: Source) -> tuple[np.ndarray, np.ndarray]:
    """(normal, heights of the source planes along it), LPS mm."""
    orientation = np.array(source.frames[0].orientation)
    normal = np.cross(orientation[:3], orientation[3:])
    return normal, np.array([frame.position for frame in source.frames]) @ normal


def _reference(frame: Frame, header: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = frame.sop_uid
    if frame.frames_in_file > 1:
        item.ReferencedFrameNumber = frame.index + 1
    item.PurposeOfReferenceCodeSequence = [_code(Code("121322", "DCM", "Source image for image processing operation"))]
    return item


def _code(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return item


def _common(
    source: Source, affine: np.ndarray, stored: np.ndarray, slope: float, text: SeriesText, deidentify: bool
) -> Dataset:
    """All attributes that the slices of the series share."""
    dataset = Dataset()
    _patient_and_study(dataset, source, deidentify)
    _technique(dataset, source)
    _series(dataset, source, text)
    _geometry(dataset, affine, stored)
    _values(dataset, source, slope, text)
    return dataset


def _patient_and_study(dataset: Dataset, source: Source, deidentify: bool) -> None:
    header = source.header
    dataset.StudyInstanceUID = header.StudyInstanceUID
    for keyword in EMPTY:
        setattr(dataset, keyword, "")
    if not deidentify:
        for keyword in IDENTITY:
            if keyword in header:
                dataset[keyword] = header[keyword]
        return
    digest = sha256(str(header.StudyInstanceUID).encode()).hexdigest()
    dataset.PatientID = f"SW{digest[:12].upper()}"
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = "Attributes on an allow list only"
    dataset.DeidentificationMethodCodeSequence = [_code(code) for code in DEIDENTIFIED]
    dataset.LongitudinalTemporalInformationModified = "REMOVED"


def _technique(dataset: Dataset, source: Source) -> None:
    """Numbers and defined terms of the acquisition, looked at before they are copied."""
    header, modality = source.header, source.modality
    for keyword in ("PatientPosition", *COPIED[modality]):
        value = header.get(keyword)
        parts = [value] if isinstance(value, str) else list(value or ())
        if parts and all(re.fullmatch(r"[A-Z0-9_ ]{1,16}", str(part)) for part in parts):
            setattr(dataset, keyword, value)
    if "PatientPosition" not in dataset:
        dataset.PatientPosition = ""
    if header.get("BodyPartExamined") in UNPAIRED:
        dataset.BodyPartExamined = header.BodyPartExamined
    else:
        dataset.Laterality = header.get("Laterality") if header.get("Laterality") in ("L", "R") else ""
    for keyword in NUMERIC[modality]:
        value = header.get(keyword)
        if isinstance(value, int | float):
            setattr(dataset, keyword, _decimal(value))
    if modality == "ct":
        dataset.KVP = dataset.get("KVP", None)
        return
    dataset.ScanningSequence = dataset.get("ScanningSequence", "RM")
    dataset.SequenceVariant = dataset.get("SequenceVariant", "NONE")
    for keyword in ("ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTime", "EchoTrainLength"):
        if keyword not in dataset:
            setattr(dataset, keyword, None)


def _series(dataset: Dataset, source: Source, text: SeriesText) -> None:
    dataset.SOPClassUID = CTImageStorage if source.modality == "ct" else MRImageStorage
    dataset.Modality = source.modality.upper()
    dataset.ImageType = ["DERIVED", "SECONDARY", "AXIAL" if source.modality == "ct" else "OTHER", text.kind]
    dataset.FrameOfReferenceUID = source.frames[0].frame_of_reference or generate_uid(
        entropy_srcs=[source.frames[0].series_uid, "frame of reference"]
    )
    dataset.PositionReferenceIndicator = ""
    dataset.SeriesNumber = text.number
    dataset.AcquisitionNumber = None
    dataset.SeriesDescription = text.description[:64]
    dataset.ImageComments = RESEARCH_ONLY
    dataset.DerivationDescription = text.derivation[:1024]
    dataset.ContentQualification = "RESEARCH"
    dataset.BurnedInAnnotation = "NO"
    dataset.Manufacturer = "sliceweave"
    dataset.ManufacturerModelName = "sliceweave (research software)"
    dataset.SoftwareVersions = "sliceweave"
    equipment = Dataset()
    equipment.Manufacturer = "sliceweave"
    equipment.ContributionDescription = RESEARCH_ONLY
    equipment.PurposeOfReferenceCodeSequence = [_code(Code("109103", "DCM", "Modifying Equipment"))]
    dataset.ContributingEquipmentSequence = [equipment]
    if source.header.get("LossyImageCompression") == "01":
        for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            if keyword in source.header:
                dataset[keyword] = source.header[keyword]


def _geometry(dataset: Dataset, affine: np.ndarray, stored: np.ndarray) -> None:
    slice_mm, row_mm, column_mm = spacing_of(affine)
    axes = (LPS_TO_RAS @ affine)[:3, :3]
    dataset.Rows, dataset.Columns = stored.shape[1:]
    dataset.PixelSpacing = [_decimal(row_mm), _decimal(column_mm)]
    dataset.ImageOrientationPatient = [_decimal(v) for v in (*(axes[:, 0] / column_mm), *(axes[:, 1] / row_mm))]
    dataset.SliceThickness = _decimal(slice_mm)
    if dataset.SOPClassUID == MRImageStorage:
        dataset.SpacingBetweenSlices = _decimal(slice_mm)


def _values(dataset: Dataset, source: Source, slope: float, text: SeriesText) -> None:
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.RescaleIntercept, dataset.RescaleSlope = "0", _decimal(slope)
    dataset.RescaleType = "HU" if source.modality == "ct" else "US"
    if text.window is not None:
        centre, width = text.window
        dataset.WindowCenter, dataset.WindowWidth = _decimal(round(centre, 3)), _decimal(max(round(width, 3), 1.0))


def _save(dataset: Dataset, path: Path) -> None:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    with quiet():
        dataset.save_as(path, enforce_file_format=True)
