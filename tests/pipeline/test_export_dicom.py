"""Derived DICOM against dciodvfy, dcentvfy, dcm2niix and highdicom, for every kind of source."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000, JPEG2000Lossless, JPEGLSNearLossless

from data.nifti import read_volume, write_volume
from data.volume import Volume
from pipeline.export_dicom import source_of
from tests.data import dicom_builder as build
from tests.pipeline.export_builder import MR_TAGS, export, make, slices, write_results

CHEST = {"BodyPartExamined": "CHEST", "PatientPosition": "FFS"}
KNEE = {"BodyPartExamined": "KNEE", "PatientPosition": "HFS"}
ALL_SERIES = ["std", "parametric_map", "point", "lower", "upper", "baseline"]
FOLDERS = ("pam_reconstruction", "pam_std", "pam_std_map", "pam_point", "pam_lower90", "pam_upper90", "zero_filled")


def dcm2niix(folder, out):
    """dcm2niix's NIfTI of a folder, turned to closest RAS."""
    binary = Path(sys.executable).with_name("dcm2niix")
    if not binary.is_file():
        pytest.skip("dcm2niix, the oracle, is not installed: pip install dcm2niix")
    out.mkdir()
    subprocess.run([binary, "-z", "n", "-b", "n", "-f", "o", "-o", out, folder], check=True, capture_output=True)
    (path,) = out.glob("*.nii")
    return nibabel.as_closest_canonical(nibabel.load(path))


def validate(files, also=()):
    """No error from dciodvfy in any file, none from dcentvfy over all of them and what lies beside them."""
    if not shutil.which("dciodvfy"):
        pytest.skip("dciodvfy, the validator, is not installed: apt-get install dicom3tools")
    kinds = set()
    for path in files:
        done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        kinds |= {word for word in ("CTImage", "MRImage", "ParametricMap") if word in done.stderr}
        assert "Error" not in done.stdout + done.stderr, f"{path}: {done.stderr}"
    done = subprocess.run(["dcentvfy", *files, *also], capture_output=True, text=True, check=False)
    assert "Error" not in done.stdout + done.stderr, done.stderr
    return kinds


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


def agree_with_dcm2niix(results, folder, names=(("reconstruction", "mean"), ("std", "std"))):
    """(largest difference in stored steps, largest difference of affines in mm) over the 16-bit series."""
    largest, shift = 0.0, 0.0
    for kind, name in names:
        dicom = results / "export" / "dicom" / f"pam_{kind}"
        oracle = dcm2niix(dicom, folder / kind)
        ours = nibabel.as_closest_canonical(nibabel.load(results / "uncertainty" / "pam" / f"{name}.nii.gz"))
        slope = float(slices(dicom)[0].RescaleSlope)
        assert slope <= max(1, np.abs(ours.get_fdata()).max() / 32000)
        np.testing.assert_allclose(oracle.affine, ours.affine, atol=1e-4)
        steps = np.abs(oracle.get_fdata() - ours.get_fdata()).max() / slope
        assert steps <= 0.501
        largest, shift = max(largest, steps), max(shift, np.abs(oracle.affine - ours.affine).max())
    return largest, shift


def compressed(syntax):
    def prepare(study):
        for path in study.iterdir():
            dataset = pydicom.dcmread(path)
            if syntax == JPEGLSNearLossless:
                # The bits are those of a lossless stream; only what the header claims counts here.
                dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
                dataset.LossyImageCompression, dataset.LossyImageCompressionRatio = "01", 7.5
                dataset.LossyImageCompressionMethod = "ISO_14495_1"
            elif syntax == JPEG2000:
                dataset.compress(syntax, encoding_plugin="pylibjpeg", j2k_cr=[5])
                for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
                    if keyword in dataset:
                        delattr(dataset, keyword)
            else:
                dataset.compress(syntax, encoding_plugin="pylibjpeg")
            dataset.save_as(path)

    return prepare


@pytest.mark.parametrize(
    "syntax", [JPEG2000Lossless, JPEG2000, JPEGLSNearLossless], ids=["lossless", "lossy-not-said", "was-lossy"]
)
@pytest.mark.oracle
@pytest.mark.interop("write", "DICOM derived series from compressed sources", "dcm2niix, dciodvfy")
def test_compressed_sources(tmp_path, syntax):
    results, ingested, _ = make(tmp_path, build.Series(rows=64, columns=64), prepare=compressed(syntax))
    assert export(results, ingested, results / "export") == 0
    agree_with_dcm2niix(results, tmp_path)
    files = sorted((results / "export" / "dicom").rglob("*.dcm"))
    validate(files)
    for dataset in map(pydicom.dcmread, files):
        lossy = dataset.get("LossyImageCompression")
        assert (lossy == "01") is (syntax != JPEG2000Lossless)
        if syntax == JPEG2000:
            assert dataset.LossyImageCompressionMethod == "ISO_15444_1"
            assert 4 < dataset.LossyImageCompressionRatio < 7


def as_if_resampled(ingested, results, mean, files, affine):
    """Results on another grid, and a source.json whose slices have no file of their own where `files` has None."""
    source = json.loads((ingested / "source.json").read_text(encoding="utf-8"))
    own = source["files"]
    source |= {"files": [None if number is None else own[number] for number in files], "resampled": True}
    source |= {"planes": own}
    (ingested / "source.json").write_text(json.dumps(source), encoding="utf-8")
    write_results(results, Volume.from_affine(mean.array_zyx, affine))


@pytest.mark.oracle
def test_interpolated_slices_name_no_source(tmp_path):
    results, ingested, mean = make(tmp_path, build.Series(orientation=build.OBLIQUE))
    as_if_resampled(ingested, results, mean, [0, 1, None, 3, 4], mean.affine)
    source = json.loads((ingested / "source.json").read_text(encoding="utf-8"))
    assert export(results, ingested, results / "export", deidentify="keep") == 0
    derived = slices(results / "export" / "dicom" / "pam_reconstruction")
    named = ["SourceImageSequence" in dataset for dataset in derived]
    assert named == [True, True, False, True, True]
    assert ["interpolated" in dataset.DerivationDescription for dataset in derived] == [not name for name in named]
    originals = [pydicom.dcmread(entry["path"]).SOPInstanceUID for entry in source["files"] if entry]
    referenced = [dataset for dataset in derived if "SourceImageSequence" in dataset]
    assert [dataset.SourceImageSequence[0].ReferencedSOPInstanceUID for dataset in referenced] == originals
    agree_with_dcm2niix(results, tmp_path)
    validate(sorted((results / "export" / "dicom").rglob("*.dcm")))


@pytest.mark.oracle
def test_turned_volumes_are_shown_as_archives_show_them(tmp_path):
    """Coronal slices, x to the right and y up as the reconstruction keeps them, of an axial source."""
    results, ingested, mean = make(tmp_path, build.Series(slices=10))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[2.0, 0, 0], [0, 0, 1.5], [0, 2.5, 0]])
    affine[:3, 3] = (-20, 10, -40)
    as_if_resampled(ingested, results, mean, [None] * 10, affine)
    assert export(results, ingested, results / "export") == 0
    for dataset in slices(results / "export" / "dicom" / "pam_std"):
        assert list(dataset.ImageOrientationPatient) == [1, 0, 0, 0, 0, -1]
        assert "SourceImageSequence" not in dataset
    agree_with_dcm2niix(results, tmp_path)
    volume = highdicom.imread(results / "export" / "dicom" / "pam_std_map" / "PM0001.dcm").get_volume()
    assert list(np.round(volume.direction[:, 2], 6)) == [1, 0, 0]
    validate(sorted((results / "export" / "dicom").rglob("*.dcm")))


def lose_a_slice(study):
    series = {float(pydicom.dcmread(path).ImagePositionPatient[2]): path for path in study.iterdir()}
    series[sorted(series)[4]].unlink()


GAP = {"on_gap": "interpolate"}
TILT = {"on_tilt": "resample"}


@pytest.mark.parametrize(
    ("series", "prepare", "policy", "named"),
    [
        (build.Series(slices=10), lose_a_slice, GAP, [True] * 3 + [False] + [True] * 4),
        (build.Series(slices=10, shift_mm=0.4), None, TILT, [False] * 8),
        (build.Series(slices=10), None, {"slice_direction": "coronal"}, [False] * 8),
        (build.Series("MR", build.SAGITTAL, slices=10), None, {"slice_direction": "axial"}, [False] * 8),
    ],
    ids=["gap-interpolated", "tilt-resampled", "coronal-of-axial", "axial-of-sagittal"],
)
@pytest.mark.oracle
@pytest.mark.interop("write", "DICOM of interpolated, resampled and turned volumes", "dcm2niix, dciodvfy")
def test_policies_of_ingest(tmp_path, record_property, series, prepare, policy, named):
    policy = policy | {"slices": [1, 9]}
    results, ingested, _ = make(tmp_path, series, prepare=prepare, ingest_settings=policy)
    assert export(results, ingested, results / "export", modality=series.modality.lower()) == 0
    derived = slices(results / "export" / "dicom" / "pam_reconstruction")
    assert ["SourceImageSequence" in dataset for dataset in derived] == named
    largest, shift = agree_with_dcm2niix(results, tmp_path)
    validate(sorted((results / "export" / "dicom").rglob("*.dcm")))
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
