"""Derived single-frame DICOM series on the working grid, beside their source in one study and frame of reference.

Attributes are put in one by one (data.dicom_deidentify, data.dicom_technique and below); nothing is copied whole.
Positions, spacing and matrix are those of the volume given, not of the source. A slice that lies in the plane of a
source image names it as its source; a slice that was interpolated or resampled names none and says so.
"""

from copy import copy, deepcopy
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sr.coding import Code
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from tqdm import tqdm

from data.dicom_deidentify import Identity, coded, may_show_face
from data.dicom_frames import Frame, OtherObject, quiet, read_dataset, read_frames
from data.dicom_technique import body_part, decimal, describe_loss, describe_technique
from data.errors import InputError
from data.volume import LPS_TO_RAS, Volume, spacing_of

RESEARCH_ONLY = "RESEARCH ONLY - not for diagnosis"
LARGEST = 2**15 - 1
# Positions are written with a decimal or two: a slice within this of a source plane is that plane.
SAME_PLANE_MM, SAME_PLANE_OF_SPACING, PARALLEL_COSINE = 0.06, 0.1, 0.9999
# Series below this size are written in no time, without a progress bar.
SILENT_BYTES = 2**24
NO_SOURCE_PLANE = "No source image lies in this plane: it was interpolated or resampled from its neighbours."


@dataclass(frozen=True)
class SeriesText:
    """kind: last value of ImageType. window: centre and width in the volume's units, or None. exact: a CT whose values
    are kept to half a HU where they fit."""

    kind: str
    description: str
    derivation: str
    number: int
    window: tuple[float, float] | None = None
    exact: bool = False


@dataclass(frozen=True)
class Maker:
    """What the equipment modules say. versions: of software, the first is ours. contribution: how the series came to
    be, at most 1,024 characters. comment: goes on every image."""

    versions: tuple[str, ...] = ("sliceweave",)
    contribution: str = RESEARCH_ONLY
    comment: str = RESEARCH_ONLY


@dataclass(frozen=True)
class Source:
    """The source series: header of its first plane, and the planes that are slices of the volume, none resampled."""

    header: Dataset
    first: Frame
    frames: tuple[Frame, ...]

    @property
    def modality(self) -> str:
        return self.first.modality


def read_source(files: list[tuple[Path, int]], planes: list[tuple[Path, int]]) -> Source:
    """Headers of a series. files: (file, frame) that hold exactly one slice each. planes: further ones, for what the
    series is, where slices were interpolated or resampled. Raises InputError when a file has gone or changed.
    """
    if not files and not planes:
        raise InputError("The source names no DICOM file: ingest the study again.", "missing")
    frames = _read_planes(files or planes[:1])
    first = frames[0]
    header = read_dataset(first.path, pixels=False)
    if not header.get("StudyInstanceUID"):
        raise InputError(f"{first.path} names no study (StudyInstanceUID): set export.dicom to false.", "undecodable")
    return Source(header, first, frames if files else ())


def _read_planes(places: list[tuple[Path, int]]) -> tuple[Frame, ...]:
    known: dict[Path, list[Frame]] = {}
    frames = []
    for path, index in places:
        if not path.is_file():
            raise InputError(f"{path} is no longer there: put it back or ingest the study again.", "missing")
        if path not in known:
            described = read_frames(path)
            known[path] = [] if isinstance(described, OtherObject) else described
        if index >= len(known[path]) or known[path][index].position is None:
            raise InputError(f"{path} has changed since it was read: ingest the study again.", "missing")
        frames.append(known[path][index])
    return tuple(frames)


def write_series(
    folder: Path, array_zyx: np.ndarray, affine: np.ndarray, source: Source, text: SeriesText, identity: Identity,
    maker: Maker,
) -> list[Dataset]:  # fmt: skip
    """Write FOLDER/IM0001.dcm... one file a slice of (z y x), HU or scanner units; affine (x y z) to RAS mm.

    UIDs follow from the source's UIDs and from what is written: the same export twice gives the same files. Values are
    kept to half a HU for an exact CT whose values fit, otherwise to a 65,000th of the largest. Returns the headers.
    """
    stored, slope = quantise(array_zyx, whole=source.modality == "ct" and text.exact)
    common = series_header(source, affine, stored.shape, text, identity, maker)
    _values(common, source, slope, text)
    uids = [identity.uid(source.first.series_uid), digest(stored, (_encoded(common), affine.tolist()))]
    common.SeriesInstanceUID = generate_uid(entropy_srcs=uids)
    folder.mkdir(parents=True)
    headers = []
    for z in tqdm(range(len(stored)), desc=folder.name, unit="slice", disable=stored.nbytes < SILENT_BYTES):
        dataset = deepcopy(common)
        dataset.SOPInstanceUID = generate_uid(entropy_srcs=[*uids, str(z)])
        dataset.InstanceNumber = z + 1
        dataset.ImagePositionPatient = [decimal(value) for value in corner_lps(affine, z)]
        _name_source(dataset, frame_in_plane(source, affine, stored.shape, z), source, identity)
        headers.append(dataset)
        image = copy(dataset)
        image.PixelData = stored[z].tobytes()
        save(image, folder / f"IM{z + 1:04d}.dcm")
    return headers


def series_header(
    source: Source, affine: np.ndarray, shape_zyx: tuple[int, ...], text: SeriesText, identity: Identity, maker: Maker
) -> Dataset:
    """All attributes that the slices of a series share, but for the coding of values and the series' UID."""
    dataset = Dataset()
    identity.describe(dataset, source.header)
    describe_technique(dataset, source.header, source.modality)
    describe_loss(dataset, source.header, source.first.path)
    _series(dataset, source, text, identity)
    _equipment(dataset, maker)
    _geometry(dataset, affine, shape_zyx)
    return dataset


def frame_in_plane(source: Source, affine: np.ndarray, shape_zyx: tuple[int, ...], z: int) -> Frame | None:
    """The source image in whose plane slice z lies, or None."""
    if not source.frames:
        return None
    axes = (LPS_TO_RAS @ affine)[:3, :3]
    normal = np.cross(axes[:, 0], axes[:, 1])
    normal /= np.linalg.norm(normal)
    orientation = np.array(source.first.orientation)
    if abs(normal @ np.cross(orientation[:3], orientation[3:])) < PARALLEL_COSINE:
        return None
    centre = corner_lps(affine, z) + axes[:, 0] * (shape_zyx[2] - 1) / 2 + axes[:, 1] * (shape_zyx[1] - 1) / 2
    distances = np.abs((np.array([frame.position for frame in source.frames]) - centre) @ normal)
    nearest = int(distances.argmin())
    allowed = max(SAME_PLANE_MM, SAME_PLANE_OF_SPACING * spacing_of(affine)[0])
    return source.frames[nearest] if distances[nearest] <= allowed else None


def as_displayed(volume: Volume, source: Source) -> Volume:
    """The volume in the source's own in-plane directions, or flipped to those that archives show.

    Viewers draw the first row on top and the first column on the left, so slices that were turned must run to the
    patient's left (sagittal: back) in x and to the back (coronal, sagittal: feet) in y. No resampling.
    """
    axes = (LPS_TO_RAS @ volume.affine)[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    orientation = np.array(source.first.orientation).reshape(2, 3)
    if axes[:, 0] @ orientation[0] > PARALLEL_COSINE and axes[:, 1] @ orientation[1] > PARALLEL_COSINE:
        return volume
    shown = np.array([1.0, 1.0, -1.0])
    array, affine = volume.array_zyx, volume.affine.copy()
    for axis, last in ((0, volume.shape[2] - 1), (1, volume.shape[1] - 1)):
        along = int(np.abs(axes[:, axis]).argmax())
        if axes[along, axis] * shown[along] < 0:
            affine[:3, 3] += affine[:3, axis] * last
            affine[:3, axis] *= -1
            array = np.flip(array, 2 - axis)
    return replace(volume, array_zyx=np.ascontiguousarray(array), affine=affine)


def corner_lps(affine: np.ndarray, z: int) -> np.ndarray:
    """Centre of the first voxel of slice z, LPS mm."""
    return (LPS_TO_RAS @ affine @ [0, 0, z, 1])[:3]


def quantise(array: np.ndarray, whole: bool) -> tuple[np.ndarray, float]:
    """(int16, slope): slope 1 if whole numbers are asked for and fit, otherwise the largest value fills the range."""
    largest = max(float(array.max()), -float(array.min()))
    slope = 1.0 if whole and largest <= LARGEST else max(float(decimal(largest / LARGEST * (1 + 1e-7))), 1e-12)
    stored = np.empty(array.shape, "<i2")
    for plane, written in zip(array, stored, strict=True):
        written[...] = np.rint(plane.astype(np.float64) / slope).clip(-LARGEST, LARGEST)
    return stored, slope


def digest(array: np.ndarray, rest: object) -> str:
    """SHA-256 of an array's bytes and of what goes with it."""
    hashed = sha256(memoryview(np.ascontiguousarray(array)).cast("B"))
    hashed.update(repr(rest).encode())
    return hashed.hexdigest()


def _encoded(dataset: Dataset) -> bytes:
    """A data set as it is written, without file meta."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    with quiet():
        write_dataset(buffer, dataset)
    return buffer.getvalue()


def save(dataset: Dataset, path: Path) -> None:
    """Write a data set as explicit VR little endian."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    with quiet():
        dataset.save_as(path, enforce_file_format=True)


def _name_source(dataset: Dataset, frame: Frame | None, source: Source, identity: Identity) -> None:
    if frame is None:
        dataset.DerivationDescription = f"{dataset.DerivationDescription} {NO_SOURCE_PLANE}"[:1024]
        return
    item = Dataset()
    item.ReferencedSOPClassUID = source.header.SOPClassUID
    item.ReferencedSOPInstanceUID = identity.uid(frame.sop_uid)
    if frame.frames_in_file > 1:
        item.ReferencedFrameNumber = frame.index + 1
    item.PurposeOfReferenceCodeSequence = [coded(Code("121322", "DCM", "Source image for image processing operation"))]
    dataset.SourceImageSequence = [item]


def _series(dataset: Dataset, source: Source, text: SeriesText, identity: Identity) -> None:
    dataset.SOPClassUID = CTImageStorage if source.modality == "ct" else MRImageStorage
    dataset.Modality = source.modality.upper()
    dataset.ImageType = ["DERIVED", "SECONDARY", "AXIAL" if source.modality == "ct" else "OTHER", text.kind]
    first = source.first
    dataset.FrameOfReferenceUID = identity.uid(
        first.frame_of_reference or generate_uid(entropy_srcs=[first.series_uid, "frame of reference"])
    )
    dataset.PositionReferenceIndicator = ""
    dataset.SeriesNumber = text.number
    dataset.AcquisitionNumber = None
    dataset.SeriesDescription = text.description[:64]
    dataset.DerivationDescription = text.derivation[:1024]
    dataset.ContentQualification = "RESEARCH"
    dataset.BurnedInAnnotation = "NO"
    dataset.RecognizableVisualFeatures = "YES" if may_show_face(body_part(source.header)) else "NO"


def _equipment(dataset: Dataset, maker: Maker) -> None:
    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = [coded(Code("109103", "DCM", "Modifying Equipment"))]
    for place in (dataset, equipment):
        place.Manufacturer = "sliceweave"
        place.ManufacturerModelName = "sliceweave (research software)"
        place.SoftwareVersions = [version[:64] for version in maker.versions]
    equipment.ContributionDescription = maker.contribution[:1024]
    dataset.ContributingEquipmentSequence = [equipment]
    dataset.ImageComments = maker.comment


def _geometry(dataset: Dataset, affine: np.ndarray, shape_zyx: tuple[int, ...]) -> None:
    slice_mm, row_mm, column_mm = spacing_of(affine)
    axes = (LPS_TO_RAS @ affine)[:3, :3]
    dataset.Rows, dataset.Columns = shape_zyx[1:]
    dataset.PixelSpacing = [decimal(row_mm), decimal(column_mm)]
    dataset.ImageOrientationPatient = [decimal(v) for v in (*(axes[:, 0] / column_mm), *(axes[:, 1] / row_mm))]
    dataset.SliceThickness = decimal(slice_mm)
    if dataset.SOPClassUID == MRImageStorage:
        dataset.SpacingBetweenSlices = decimal(slice_mm)


def _values(dataset: Dataset, source: Source, slope: float, text: SeriesText) -> None:
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.RescaleIntercept, dataset.RescaleSlope = "0", decimal(slope)
    dataset.RescaleType = "HU" if source.modality == "ct" else "US"
    if text.window is not None:
        centre, width = text.window
        dataset.WindowCenter, dataset.WindowWidth = f"{centre:.6g}", f"{max(width, 1e-6):.6g}"
        if width < 1:
            dataset.VOILUTFunction = "LINEAR_EXACT"
