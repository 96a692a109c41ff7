"""One volume as a DICOM Parametric Map: float32 as computed, with units, on the grid of a derived series."""

from copy import deepcopy
from pathlib import Path
from warnings import catch_warnings, simplefilter

import highdicom
import numpy as np
from highdicom.pm import DerivedPixelContrastValues, ParametricMap, RealWorldValueMapping
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from data.dicom_deidentify import KEPT
from data.dicom_derived import SeriesText, corner_lps, digest, save
from data.volume import spacing_of

HOUNSFIELD = Code("[hnsf'U]", "UCUM", "Hounsfield unit")
ARBITRARY = Code("[arb'U]", "UCUM", "arbitrary unit")
STANDARD_DEVIATION = Code("386136009", "SCT", "Standard deviation")
# The content's date, which must not be empty, where the study says none.
NO_DATE, NO_TIME = "19000101", "000000"
FROM_SERIES = (
    "StudyInstanceUID", "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "AccessionNumber", "StudyID", "ReferringPhysicianName", "ImageComments", "BurnedInAnnotation",
    "RecognizableVisualFeatures", "ContributingEquipmentSequence", "SoftwareVersions", "LossyImageCompression",
    "LossyImageCompressionRatio", "LossyImageCompressionMethod", "PatientPosition", "BodyPartExamined", "Laterality",
    "DerivationDescription", "PositionReferenceIndicator", *KEPT,
)  # fmt: skip


def write_parametric_map(
    path: Path, array_zyx: np.ndarray, affine: np.ndarray, series: list[Dataset], text: SeriesText
) -> None:
    """Write a standard deviation (z y x) in HU or scanner units; affine (x y z) to RAS mm.

    series: headers of the derived series on the same grid, as `data.dicom_derived.write_series` returns them. They are
    the map's source images, and the map has their patient, study and frame of reference.
    """
    values = np.ascontiguousarray(array_zyx, np.float32)
    uids = [series[0].SeriesInstanceUID, digest(values, (affine.tolist(), text))]
    dataset = _map(values, affine, [_bare(header) for header in series], text, uids)
    first = series[0]
    for keyword in FROM_SERIES:
        if keyword in first:
            dataset[keyword] = deepcopy(first[keyword])
    dataset.SeriesDescription = text.description[:64]
    dataset.DerivationDescription = text.derivation[:1024]
    dataset.ContentDate = dataset.InstanceCreationDate = str(first.StudyDate or "") or NO_DATE
    dataset.ContentTime = dataset.InstanceCreationTime = str(first.StudyTime or "") or NO_TIME
    organization = generate_uid(entropy_srcs=[*uids, "dimensions"])
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    save(dataset, path)


def _map(values: np.ndarray, affine: np.ndarray, sources: list[Dataset], text: SeriesText, uids: list[str]):
    units = HOUNSFIELD if sources[0].Modality == "CT" else ARBITRARY
    slice_mm, row_mm, column_mm = spacing_of(affine)
    mapping = RealWorldValueMapping(
        lut_label="STD", lut_explanation="Standard deviation", unit=units, slope=1.0, intercept=0.0,
        value_range=(0.0, float(values.max())), quantity_definition=STANDARD_DEVIATION,
    )  # fmt: skip
    centre, width = text.window or (float(values.max()) / 2, float(values.max()))
    shown = highdicom.VOILUTTransformation(float(centre), max(float(width), 1e-6), None, "LINEAR_EXACT")
    with catch_warnings():
        simplefilter("ignore")
        return ParametricMap(
            source_images=sources,
            pixel_array=values,
            series_instance_uid=generate_uid(entropy_srcs=uids),
            series_number=text.number,
            sop_instance_uid=generate_uid(entropy_srcs=[*uids, "instance"]),
            instance_number=1,
            manufacturer=sources[0].Manufacturer,
            manufacturer_model_name=sources[0].ManufacturerModelName,
            software_versions="sliceweave",
            device_serial_number="none",
            contains_recognizable_visual_features=False,
            real_world_value_mappings=[mapping],
            voi_lut_transformations=[shown],
            content_label="UNCERTAINTY",
            content_description="Standard deviation, research only",
            derived_pixel_contrast=DerivedPixelContrastValues.STD_DEVIATION,
            pixel_measures=highdicom.PixelMeasuresSequence((row_mm, column_mm), slice_mm, slice_mm),
            plane_positions=[
                highdicom.PlanePositionSequence("PATIENT", tuple(corner_lps(affine, z))) for z in range(len(values))
            ],
            transfer_syntax_uid=ExplicitVRLittleEndian,
        )


def _bare(header: Dataset) -> Dataset:
    """A slice's header as highdicom needs it: patient and study without values, which it would check."""
    dataset = deepcopy(header)
    for keyword in KEPT:
        if keyword in dataset:
            del dataset[keyword]
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
        setattr(dataset, keyword, "")
    dataset.StudyDate = dataset.StudyTime = dataset.ReferringPhysicianName = ""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset
