"""The export stage: names, sidecars, and derived DICOM against dciodvfy, dcentvfy and dcm2niix."""

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from data.nifti import read_volume, write_volume
from data.volume import Volume
from pipeline import export as stage
from pipeline import ingest
from tests.data import dicom_builder as build

PLANTED = "ZZPLANTEDZZ"
TEXTS = (
    "PatientName", "PatientID", "AccessionNumber", "StudyDescription", "SeriesDescription", "InstitutionName",
    "ReferringPhysicianName", "ProtocolName", "ImageComments", "StationName", "StudyID", "OperatorsName",
)  # fmt: skip
MR_TAGS = {"ScanningSequence": "GR", "SequenceVariant": "SP", "MRAcquisitionType": "3D", "EchoTime": 4.2}


def halved(volume):
    """The working grid: half the rows and columns, every voxel the mean of four."""
    z, y, x = volume.shape
    array = volume.array_zyx.reshape(z, y // 2, 2, x // 2, 2).mean((2, 4))
    affine = volume.affine.copy()
    affine[:3, 3] += (affine[:3, 0] + affine[:3, 1]) / 2
    affine[:3, :2] *= 2
    return Volume.from_affine(array, affine)


def make(folder, series, kind="dicom"):
    """(series folder with results, ingested series, working-grid mean) of a small study."""
    study = folder / "study"
    if kind == "dicom":
        build.write(series, study)
    elif kind == "enhanced":
        build.write_enhanced(series, study / "enhanced.dcm")
    else:
        write_volume(study / "v.nii.gz", series.stored, series.affine_ras)
    modality = {"modality": series.modality.lower(), "slices": [1, series.slices - 1]}
    arguments = ["--study", str(study), "--out", str(folder / "ingest"), "--settings", json.dumps(modality)]
    assert ingest.main(arguments) == 0
    (ingested,) = (path for path in (folder / "ingest").iterdir() if path.is_dir())
    results = folder / "results" / "cohort" / "study" / ingested.name
    mean = halved(read_volume(ingested / "volume.nii.gz"))
    write_results(results, mean)
    return results, ingested, mean


def write_results(results, mean):
    std = np.random.default_rng(0).gamma(2, 10, mean.shape)
    volumes = {
        "uncertainty/pam/mean": mean.array_zyx,
        "uncertainty/pam/std": std,
        "uncertainty/pam/lower90": mean.array_zyx - 2 * std,
        "uncertainty/pam/upper90": mean.array_zyx + 2 * std,
        "reconstruct/pam/point": mean.array_zyx + 1,
        "baseline/zero_filled": mean.array_zyx + 2,
    }
    for name, array in volumes.items():
        write_volume(results / f"{name}.nii.gz", array, mean.affine)
    run = {"solver": "pam", "seed": 3, "prior": f"/home/{PLANTED}/ct", "patient": PLANTED, "network_calls": 60}
    (results / "reconstruct" / "pam" / "run.json").write_text(json.dumps(run), encoding="utf-8")


def export(results, ingested, out, **settings):
    settings = {"modality": "ct", "study": "study", "series": ingested.name, "cohort": "cohort"} | settings
    arguments = ["--series-dir", results, "--ingest", ingested, "--out", out, "--settings", json.dumps(settings)]
    return stage.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """An oblique CT series, exported."""
    folder = tmp_path_factory.mktemp("export")
    series = build.Series(orientation=build.OBLIQUE, tags=dict.fromkeys(TEXTS, PLANTED))
    results, ingested, mean = make(folder, series)
    assert export(results, ingested, results / "export") == 0
    return results, ingested, mean


def test_names_and_sidecars(done):
    results, ingested, mean = done
    stem = f"sub-study_acq-{ingested.name}"
    folder = results / "export" / "sub-study" / "ct"
    names = {
        f"{stem}_rec-pam_desc-recon_ct": "uncertainty/pam/mean",
        f"{stem}_rec-pam_desc-point_ct": "reconstruct/pam/point",
        f"{stem}_rec-pam_stat-std_desc-uncertainty_ct": "uncertainty/pam/std",
        f"{stem}_rec-pam_stat-lower90_desc-uncertainty_ct": "uncertainty/pam/lower90",
        f"{stem}_rec-pam_stat-upper90_desc-uncertainty_ct": "uncertainty/pam/upper90",
        f"{stem}_rec-zerofilled_desc-baseline_ct": "baseline/zero_filled",
    }
    assert {path.name for path in folder.iterdir()} == {name + end for name in names for end in (".nii.gz", ".json")}
    for name, source in names.items():
        exported, own = nibabel.load(folder / f"{name}.nii.gz"), nibabel.load(results / f"{source}.nii.gz")
        np.testing.assert_array_equal(exported.get_fdata(), own.get_fdata())
        np.testing.assert_array_equal(exported.affine, own.affine)
        sidecar = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        assert sidecar["Units"] == "HU"
        assert sidecar["Shape"] == list(mean.shape[::-1])
    description = json.loads((results / "export" / "dataset_description.json").read_text(encoding="utf-8"))
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "sliceweave"


def test_provenance_keeps_what_is_known_and_no_path(done):
    results, ingested, _ = done
    name = f"sub-study_acq-{ingested.name}_rec-pam_desc-recon_ct.json"
    sidecar = json.loads((results / "export" / "sub-study" / "ct" / name).read_text(encoding="utf-8"))
    assert sidecar["Provenance"]["run"] == {"solver": "pam", "seed": 3, "prior": "ct", "network_calls": 60}


def test_nothing_about_the_patient_is_exported(done):
    results, _, _ = done
    for path in (results / "export").rglob("*"):
        assert PLANTED not in str(path.relative_to(results))
        if path.is_file():
            content = path.read_bytes()
            content = gzip.decompress(content) if path.suffix == ".gz" else content
            assert PLANTED.encode() not in content, path
            assert b"/home/" not in content, path


def _slices(folder):
    return [pydicom.dcmread(path) for path in sorted(folder.iterdir())]


def test_dicom_lies_where_the_source_does(done):
    results, ingested, mean = done
    source = json.loads((ingested / "source.json").read_text(encoding="utf-8"))
    originals = [pydicom.dcmread(entry["path"]) for entry in source["files"]]
    slices = _slices(results / "export" / "dicom" / "pam_reconstruction")
    assert len(slices) == mean.shape[0] == len(originals)
    for z, (derived, original) in enumerate(zip(slices, originals, strict=True)):
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


def test_dicom_says_what_it_is(done):
    results, _, _ = done
    seen = set()
    for kind in ("reconstruction", "std"):
        for ds in _slices(results / "export" / "dicom" / f"pam_{kind}"):
            assert ds.SeriesDescription.startswith("RESEARCH ONLY")
            assert "RESEARCH ONLY" in ds.ImageComments
            assert list(ds.ImageType[:2]) == ["DERIVED", "SECONDARY"]
            assert ds.PatientIdentityRemoved == "YES"
            assert ds.BurnedInAnnotation == "NO"
            assert str(ds.PatientName) == ds.StudyDate == ""
            seen.add(ds.SOPInstanceUID)
    assert len(seen) == 2 * 5


CHEST = {"BodyPartExamined": "CHEST", "PatientPosition": "FFS"}
KNEE = {"BodyPartExamined": "KNEE", "PatientPosition": "HFS"}


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize(
    ("kind", "part"),
    [("dicom", {}), ("dicom", CHEST), ("dicom", KNEE), ("dicom", KNEE | {"Laterality": "L"}), ("enhanced", CHEST)],
    ids=["nothing", "chest", "knee", "left-knee", "enhanced"],
)
@pytest.mark.oracle
def test_validators_find_no_error(tmp_path, modality, kind, part):
    if not shutil.which("dciodvfy"):
        pytest.skip("dciodvfy, the validator, is not installed: apt-get install dicom3tools")
    series = build.Series(modality, tags=part | (MR_TAGS if modality == "MR" else {}))
    results, ingested, _ = make(tmp_path, series, kind)
    assert export(results, ingested, results / "export", modality=modality.lower()) == 0
    files = sorted((results / "export" / "dicom").rglob("*.dcm"))
    assert len(files) == 10
    for path in files:
        done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        assert f"{modality}Image" in done.stderr
        assert "Error" not in done.stdout + done.stderr
    done = subprocess.run(["dcentvfy", *files], capture_output=True, text=True, check=False)
    assert "Error" not in done.stdout + done.stderr


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize(
    "orientation", [build.AXIAL, build.SAGITTAL, build.OBLIQUE], ids=["axial", "sagittal", "oblique"]
)
@pytest.mark.oracle
def test_dcm2niix_reads_our_nifti_from_our_dicom(tmp_path, modality, orientation):
    binary = Path(sys.executable).with_name("dcm2niix")
    if not binary.is_file():
        pytest.skip("dcm2niix, the oracle, is not installed: pip install dcm2niix")
    results, ingested, _ = make(tmp_path, build.Series(modality, orientation))
    assert export(results, ingested, results / "export", modality=modality.lower()) == 0
    for kind, name in (("reconstruction", "mean"), ("std", "std")):
        folder, out = results / "export" / "dicom" / f"pam_{kind}", tmp_path / kind
        out.mkdir()
        subprocess.run([binary, "-z", "n", "-b", "n", "-f", "o", "-o", out, folder], check=True, capture_output=True)
        (path,) = out.glob("*.nii")
        oracle = nibabel.as_closest_canonical(nibabel.load(path))
        ours = nibabel.as_closest_canonical(nibabel.load(results / "uncertainty" / "pam" / f"{name}.nii.gz"))
        slope = float(_slices(folder)[0].RescaleSlope)
        assert slope <= max(1, np.abs(ours.get_fdata()).max() / 32000)
        np.testing.assert_allclose(oracle.get_fdata(), ours.get_fdata(), atol=0.501 * slope)
        np.testing.assert_allclose(oracle.affine, ours.affine, atol=1e-4)


def test_the_same_export_twice_is_the_same(tmp_path, done):
    results, ingested, _ = done
    assert export(results, ingested, tmp_path / "again") == 0
    for path in (results / "export").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "again" / path.relative_to(results / "export")).read_bytes()


def test_identity_is_kept_only_when_asked(tmp_path, done):
    results, ingested, _ = done
    assert export(results, ingested, tmp_path / "kept", deidentify=False) == 0
    ds = _slices(tmp_path / "kept" / "dicom" / "pam_std")[0]
    assert (str(ds.PatientName), ds.PatientID) == (PLANTED, PLANTED)
    assert "PatientIdentityRemoved" not in ds
    assert "InstitutionName" not in ds


def test_nifti_input_and_dicom_off_give_no_dicom(tmp_path, done):
    results, ingested, _ = make(tmp_path, build.Series("MR"), "nifti")
    assert export(results, ingested, tmp_path / "out", modality="mr") == 0
    assert not (tmp_path / "out" / "dicom").exists()
    assert list((tmp_path / "out" / "sub-study" / "anat").glob("*_desc-recon_MR.nii.gz"))
    results, ingested, _ = done
    assert export(results, ingested, tmp_path / "off", dicom=False) == 0
    assert not (tmp_path / "off" / "dicom").exists()


@pytest.mark.parametrize("name", ["uncertainty", "nan", "source", "key", "nothing"])
def test_bad_input(tmp_path, capfd, name):
    results, ingested, mean = make(tmp_path, build.Series())
    settings = {}
    if name == "uncertainty":
        (results / "uncertainty" / "pam" / "std.nii.gz").unlink()
    elif name == "nan":
        write_volume(results / "baseline" / "zero_filled.nii.gz", mean.array_zyx * np.nan, mean.affine)
    elif name == "source":
        shutil.rmtree(tmp_path / "study")
    elif name == "key":
        settings = {"dicoms": True}
    else:
        shutil.rmtree(results)
    capfd.readouterr()
    assert export(results, ingested, tmp_path / "out" / "export", **settings) == 1
    captured = capfd.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.rstrip().endswith(".")
    assert not list((tmp_path / "out").glob("*"))
