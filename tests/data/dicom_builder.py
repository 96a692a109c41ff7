"""Synthetic DICOM series with known values and places."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED = {"CT": CT_IMAGE + ".1", "MR": MR_IMAGE + ".1"}
SLOPE, INTERCEPT = 2.0, -1024.0

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
_TURN, _LEAN = np.deg2rad(20), np.deg2rad(35)
OBLIQUE = (
    float(np.cos(_TURN)), float(np.sin(_TURN)), 0.0,
    float(-np.sin(_TURN) * np.cos(_LEAN)), float(np.cos(_TURN) * np.cos(_LEAN)), float(np.sin(_LEAN)),
)  # fmt: skip


@dataclass
class Series:
    """What to write. shift_mm slides each slice sideways along the rows: a gantry tilt."""

    modality: str = "CT"
    orientation: tuple = AXIAL
    slices: int = 7
    rows: int = 12
    columns: int = 16
    pixel_mm: tuple = (0.75, 0.5)
    spacing_mm: float = 2.5
    first_mm: tuple = (-30.0, 12.5, -100.25)
    shift_mm: float = 0.0
    seed: int = 0
    tags: dict = field(default_factory=dict)

    @property
    def stored(self) -> np.ndarray:
        """(z y x) uint16, in order along the normal."""
        shape = (self.slices, self.rows, self.columns)
        return np.random.default_rng(self.seed).integers(0, 1500, shape).astype(np.uint16)

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.orientation[:3], self.orientation[3:])

    def position(self, z: int) -> np.ndarray:
        return (
            np.array(self.first_mm)
            + self.normal * self.spacing_mm * z
            + self.shift_mm * z * np.array(self.orientation[:3])
        )

    @property
    def affine_ras(self) -> np.ndarray:
        """PS3.3 equation C.7.6.2.1-1 with the slice step as third column, its x and y negated for RAS."""
        affine = np.eye(4)
        affine[:3, 0] = np.array(self.orientation[:3]) * self.pixel_mm[1]
        affine[:3, 1] = np.array(self.orientation[3:]) * self.pixel_mm[0]
        affine[:3, 2] = self.position(1) - self.position(0)
        affine[:3, 3] = self.position(0)
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def dataset(series: Series, z: int, uids: dict) -> Dataset:
    """One slice; InstanceNumber is in no spatial order."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = CT_IMAGE if series.modality == "CT" else MR_IMAGE
    ds.SOPInstanceUID = generate_uid()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"] if series.modality == "CT" else ["ORIGINAL", "PRIMARY", "M", "SE"]
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uids["study"], uids["series"]
    ds.FrameOfReferenceUID = uids["frame"]
    ds.Modality, ds.Manufacturer = series.modality, "Example"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "", "", "", ""
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20200101", "120000", "", ""
    ds.SeriesNumber, ds.InstanceNumber, ds.AcquisitionNumber = 3, (z * 5) % series.slices + 1, 1
    ds.KVP = "120"
    ds.ImagePositionPatient = [f"{value:.6f}" for value in series.position(z)]
    ds.ImageOrientationPatient = [f"{value:.9f}" for value in series.orientation]
    ds.PixelSpacing, ds.SliceThickness = list(series.pixel_mm), series.spacing_mm
    ds.RescaleSlope, ds.RescaleIntercept = SLOPE, INTERCEPT
    _pixels(ds, series.stored[z])
    for keyword, value in series.tags.items():
        setattr(ds, keyword, value)
    return ds


def _pixels(ds: Dataset, stored: np.ndarray) -> None:
    ds.Rows, ds.Columns = stored.shape[-2:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.PixelData = np.ascontiguousarray(stored).tobytes()


def new_uids() -> dict:
    return {"study": generate_uid(), "series": generate_uid(), "frame": generate_uid()}


def write(series: Series, folder: Path, uids: dict | None = None, prefix: str = "IM") -> list[Path]:
    """Write a series under names in no spatial order; the files in slice order are returned."""
    folder.mkdir(parents=True, exist_ok=True)
    uids = uids or new_uids()
    paths = []
    for z in range(series.slices):
        path = folder / f"{prefix}{(z * 3 + 2) % series.slices:03d}"
        dataset(series, z, uids).save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def edit(path: Path, tags: dict) -> None:
    ds = pydicom.dcmread(path)
    for keyword, value in tags.items():
        setattr(ds, keyword, value)
    ds.save_as(path)


def write_enhanced(series: Series, path: Path) -> None:
    """The series as one enhanced multiframe file, frames in reverse order, every macro per frame but the spacing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ds = dataset(series, 0, new_uids())
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(ds, keyword)
    del ds.RescaleSlope, ds.RescaleIntercept
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = ENHANCED[series.modality]
    ds.NumberOfFrames = series.slices
    measures, shared = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = list(series.pixel_mm), series.spacing_mm
    shared.PixelMeasuresSequence = [measures]
    ds.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for z in reversed(range(series.slices)):
        place, plane, values, own = Dataset(), Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [f"{value:.6f}" for value in series.position(z)]
        plane.ImageOrientationPatient = [f"{value:.9f}" for value in series.orientation]
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = SLOPE, INTERCEPT, "HU"
        own.PlanePositionSequence, own.PlaneOrientationSequence = [place], [plane]
        own.PixelValueTransformationSequence = [values]
        frames.append(own)
    ds.PerFrameFunctionalGroupsSequence = frames
    _pixels(ds, series.stored[::-1])
    ds.save_as(path, enforce_file_format=True)
