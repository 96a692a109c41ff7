"""Derived DICOM against dciodvfy, dcentvfy, dcm2niix and highdicom, for every kind of source."""

import json

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest

from data.nifti import read_volume, write_volume
from data.volume import Volume
from pipeline.export_dicom import source_of
from tests.data import dicom_builder as build
from tests.pipeline.dicom_oracles import agree_with_dcm2niix, validate
from tests.pipeline.export_builder import MR_TAGS, export, make, slices, write_results

CHEST = {"BodyPartExamined": "CHEST", "PatientPosition": "FFS"}
KNEE = {"BodyPartExamined": "KNEE", "PatientPosition": "HFS"}
ALL_SERIES = ["std", "parametric_map", "point", "lower", "upper", "baseline"]
FOLDERS = ("pam_reconstruction", "pam_std", "pam_std_map", "pam_point", "pam_lower90", "pam_upper90", "zero_filled")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """An oblique CT series, exported with everything there is."""
    folder = tmp_path_factory.mktemp("export")
    results, ingested, mean = make(folder, build.Series(orientation=build.OBLIQUE))
    assert export(results, ingested, results / "export", dicom_series=ALL_SERIES, deidentify="keep") == 0
    return results, ingested, mean


def test_dicom_lies_where_the_source_does(done):
    results, ingested, mean = done
    source = json.loads((ingested / "source.json").read_text(encoding="utf-8"))
    originals = [pydicom.dcmread(entry["path"]) for entry in source["files"]]
    derived_slices = slices(results / "export" / "dicom" / "pam_reconstruction")
    assert len(derived_slices) == mean.shape[0] == len(originals)
    for z, (derived, original) in enumerate(zip(derived_slices, originals, strict=True)):
        assert derived.StudyInstanceUID == original.StudyInstanceUID
        assert derived.FrameOfReferenceUID == original.FrameOfReferenceUID
        assert derived.SeriesInstanceUID != original.SeriesInstanceUID
        assert derived.SourceImageSequence[0].ReferencedSOPInstanceUID == original.SOPInstanceUID
        half = sum(
            np.array(original.ImageOrientationPatient[3 * axis : 3 * axis + 3]) * original.PixelSpacing[1 - axis] / 2
            for axis in (0, 1)
        )
        corner = np.array(original.ImagePositionPatient) + half
        np.testing.assert_allclose(derived.ImagePositionPatient, corner, atol=1e-4)
        np.testing.assert_allclose(derived.ImageOrientationPatient, original.ImageOrientationPatient, atol=1e-6)
        np.testing.assert_allclose(derived.PixelSpacing, np.array(original.PixelSpacing) * 2, atol=1e-5)
        assert (derived.Rows, derived.Columns) == mean.shape[1:]
        values = derived.pixel_array * float(derived.RescaleSlope) + float(derived.RescaleIntercept)
        np.testing.assert_allclose(values, mean.array_zyx[z], atol=0.5)


def test_series_are_those_asked_for_and_say_what_they_are(tmp_path, done):
    results, ingested, _ = done
    folder = results / "export" / "dicom"
    assert {path.name for path in folder.iterdir()} == set(FOLDERS)
    numbers, uids, instances = set(), set(), []
    for name in FOLDERS:
        for dataset in slices(folder / name):
            assert dataset.SeriesDescription.startswith("RESEARCH ONLY")
            assert "RESEARCH ONLY" in dataset.ImageComments
            assert "RESEARCH ONLY" in dataset.DerivationDescription
            assert dataset.ContentQualification == "RESEARCH"
            assert dataset.ImageType[0] == "DERIVED"
            assert dataset.BurnedInAnnotation == "NO"
            numbers.add(dataset.SeriesNumber)
            uids.add(dataset.SeriesInstanceUID)
            instances.append(dataset.SOPInstanceUID)
    assert len(numbers) == len(uids) == len(FOLDERS)
    assert len(set(instances)) == len(instances)
    assert numbers == {900301, 900302, 900303, 900304, 900305, 900306, 900311}
    assert export(results, ingested, tmp_path / "few", dicom_series=[]) == 0
    assert {path.name for path in (tmp_path / "few" / "dicom").iterdir()} == {"pam_reconstruction"}


@pytest.mark.parametrize(("modality", "unit"), [("CT", "[hnsf'U]"), ("MR", "[arb'U]")])
@pytest.mark.interop("write", "DICOM Parametric Map, float32", "highdicom")
def test_parametric_map_is_the_map_itself(tmp_path, record_property, modality, unit):
    results, ingested, _ = make(tmp_path, build.Series(modality, build.OBLIQUE))
    assert export(results, ingested, results / "export", modality=modality.lower()) == 0
    image = highdicom.imread(results / "export" / "dicom" / "pam_std_map" / "PM0001.dcm")
    volume = image.get_volume(apply_real_world_transform=True)
    ours = read_volume(results / "uncertainty" / "pam" / "std.nii.gz")
    written = nibabel.as_closest_canonical(nibabel.Nifti1Image(volume.array, _ras(volume.affine)))
    expected = nibabel.as_closest_canonical(nibabel.Nifti1Image(ours.array_zyx.transpose(2, 1, 0), ours.affine))
    np.testing.assert_array_equal(written.get_fdata(), expected.get_fdata())
    np.testing.assert_allclose(written.affine, expected.affine, atol=1e-4)
    groups = image.SharedFunctionalGroupsSequence[0]
    mapping = groups.RealWorldValueMappingSequence[0]
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == unit
    assert image.FloatPixelData
    shift = np.abs(written.affine - expected.affine).max()
    record_property("measured", f"largest difference 0, affine {shift:.0e} mm")


def _ras(affine_lps):
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine_lps


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize(
    ("kind", "part"),
    [("dicom", {}), ("dicom", CHEST), ("dicom", KNEE), ("dicom", KNEE | {"Laterality": "L"}), ("enhanced", CHEST)],
    ids=["nothing", "chest", "knee", "left-knee", "enhanced"],
)
@pytest.mark.oracle
@pytest.mark.interop("write", "DICOM derived CT and MR series, Parametric Map", "dciodvfy, dcentvfy")
def test_validators_find_no_error(tmp_path, record_property, modality, kind, part):
    """Identity is kept for the chest and the enhanced one, and the source is compared with them."""
    deidentify = "keep" if part == CHEST else True
    series = build.Series(modality, tags=part | (MR_TAGS if modality == "MR" else {}))
    results, ingested, _ = make(tmp_path, series, kind)
    asked = {"modality": modality.lower(), "deidentify": deidentify}
    assert export(results, ingested, results / "export", **asked) == 0
    files = sorted((results / "export" / "dicom").rglob("*.dcm"))
    assert len(files) == 2 * 5 + 1
    kept = [path for path in (tmp_path / "study").iterdir() if path.is_file()] if deidentify == "keep" else []
    assert validate(files, kept) == {f"{modality}Image", "ParametricMap"}
    record_property("measured", f"0 errors in {len(files)} files")


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize(
    ("orientation", "kind"),
    [
        (build.AXIAL, "dicom"), (build.SAGITTAL, "dicom"), (build.CORONAL, "dicom"), (build.OBLIQUE, "dicom"),
        (build.OBLIQUE, "enhanced"),
    ],
    ids=["axial", "sagittal", "coronal", "oblique", "oblique-enhanced"],
)  # fmt: skip
@pytest.mark.oracle
@pytest.mark.interop("write", "DICOM derived series, classic and enhanced sources", "dcm2niix")
def test_dcm2niix_reads_our_nifti_from_our_dicom(tmp_path, record_property, modality, orientation, kind):
    results, ingested, _ = make(tmp_path, build.Series(modality, orientation), kind)
    assert export(results, ingested, results / "export", modality=modality.lower()) == 0
    largest, shift = agree_with_dcm2niix(results, tmp_path)
    record_property("measured", f"values within {largest:.2f} of a stored step, affine {shift:.0e} mm")


def test_values_on_other_places_are_other_instances(tmp_path, done):
    results, ingested, mean = done
    moved = mean.affine.copy()
    moved[:3, 3] += 1
    copy = tmp_path / "results" / "cohort" / "study" / results.name
    write_results(copy, Volume.from_affine(mean.array_zyx, moved))
    assert export(copy, ingested, tmp_path / "moved", deidentify="keep") == 0
    for name in ("pam_reconstruction", "pam_std_map"):
        here = {dataset.SOPInstanceUID for dataset in slices(results / "export" / "dicom" / name)}
        assert not here & {dataset.SOPInstanceUID for dataset in slices(tmp_path / "moved" / "dicom" / name)}


@pytest.mark.parametrize("scale", [0.0, 1e-5], ids=["zeros", "tiny"])
@pytest.mark.oracle
def test_maps_of_small_values_are_written(tmp_path, scale):
    """An MR whose magnitudes are far below one."""
    results, ingested, mean = make(tmp_path, build.Series("MR"))
    std = scale * np.random.default_rng(0).uniform(0, 1, mean.shape).astype(np.float32)
    write_volume(results / "uncertainty" / "pam" / "std.nii.gz", std, mean.affine)
    assert export(results, ingested, results / "export", modality="mr") == 0
    validate(sorted((results / "export" / "dicom").rglob("*.dcm")))
    (whole,) = slices(results / "export" / "dicom" / "pam_std_map")
    np.testing.assert_array_equal(whole.pixel_array[::-1], std)  # highdicom numbers frames against their normal
    for z, plane in enumerate(slices(results / "export" / "dicom" / "pam_std")):
        values = plane.pixel_array * float(plane.RescaleSlope)
        np.testing.assert_allclose(values, std[z], atol=scale / 60000)


def test_technique_of_an_enhanced_source_is_found(tmp_path):
    def prepare(study):
        dataset = pydicom.dcmread(study / "enhanced.dcm")
        timing, echo = pydicom.Dataset(), pydicom.Dataset()
        timing.RepetitionTime, timing.FlipAngle, echo.EffectiveEchoTime = 2300.0, 9.0, 3.1
        dataset.SharedFunctionalGroupsSequence[0].MRTimingAndRelatedParametersSequence = [timing]
        dataset.SharedFunctionalGroupsSequence[0].MREchoSequence = [echo]
        dataset.save_as(study / "enhanced.dcm")

    results, ingested, _ = make(tmp_path, build.Series("MR"), "enhanced", prepare)
    assert export(results, ingested, results / "export", modality="mr") == 0
    dataset = slices(results / "export" / "dicom" / "pam_reconstruction")[0]
    assert (dataset.RepetitionTime, dataset.FlipAngle, dataset.EchoTime) == (2300, 9, 3.1)
    assert dataset.SourceImageSequence[0].ReferencedFrameNumber >= 1


def test_other_input_has_no_dicom_source():
    assert source_of(None) is None
    assert source_of({"kind": "nifti", "files": [{"path": "v.nii.gz"}]}) is None
