"""Exports sent to a real Orthanc, found there and fetched back: the same attributes, the same pixels."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from pipeline import ingest
from tests.data import dicom_builder as build
from tests.pipeline import orthanc
from tests.pipeline.export_builder import MR_TAGS, export, halved, make, read_volume, write_results

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.oracle,
    pytest.mark.skipif(
        orthanc.program() is None or not shutil.which("storescu"),
        reason="Orthanc and dcmtk are needed: apt-get install orthanc orthanc-dicomweb dcmtk",
    ),
]
FOLDERS = ("pam_reconstruction", "pam_std", "pam_std_map")


def demo_ct(folder):
    """Twelve slices of the demo chest, compressed as published, with results on a working grid."""
    settings = json.dumps({"modality": "ct", "slices": [18, 30]})
    study = ROOT / "data" / "demo" / "ct" / "lidc0314"
    assert ingest.main(["--study", str(study), "--out", str(folder / "ingest"), "--settings", settings]) == 0
    (ingested,) = (path for path in (folder / "ingest").iterdir() if path.is_dir())
    results = folder / "results" / "cohort" / "study" / ingested.name
    write_results(results, halved(read_volume(ingested / "volume.nii.gz")))
    return results, ingested, study


def small_mr(folder):
    """A sagittal MR study as a builder writes it."""
    tags = MR_TAGS | {"BodyPartExamined": "HEAD", "PatientName": "Müller^Jörg", "SpecificCharacterSet": "ISO_IR 100"}
    results, ingested, _ = make(folder, build.Series("MR", build.SAGITTAL, tags=tags))
    return results, ingested, folder / "study"


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    with orthanc.running(tmp_path_factory.mktemp("orthanc")) as server:
        yield server


@pytest.fixture(scope="module", params=["ct", "mr"])
def sent(request, archive, tmp_path_factory):
    """(results, files sent, folder of the source): the source study and its derived series, all in Orthanc."""
    folder = tmp_path_factory.mktemp(request.param)
    results, ingested, study = (demo_ct if request.param == "ct" else small_mr)(folder)
    assert export(results, ingested, results / "export", modality=request.param, deidentify="keep") == 0
    published = ["-xv"] if request.param == "ct" else []  # JPEG 2000
    archive.scu("storescu", "-R", *published, "+sd", "+r", *archive.address, str(study))
    archive.scu("storescu", "-R", "+sd", "+r", *archive.address, str(results / "export" / "dicom"))
    files = {name: sorted((results / "export" / "dicom" / name).iterdir()) for name in FOLDERS}
    return results, files, study


def same(path: Path, fetched: pydicom.Dataset) -> None:
    """Equal attributes, byte-equal pixels, and the file meta's class and instance."""
    own = pydicom.dcmread(path)
    assert list(own.keys()) == list(fetched.keys())
    for element in own:
        assert element.value == fetched[element.tag].value, element.keyword
        assert element.VR == fetched[element.tag].VR
    keyword = "PixelData" if "PixelData" in own else "FloatPixelData"
    assert own[keyword].value == fetched[keyword].value
    assert own.file_meta.MediaStorageSOPInstanceUID == fetched.file_meta.MediaStorageSOPInstanceUID


def test_derived_series_stand_beside_their_source(archive, sent):
    _, files, study = sent
    original = pydicom.dcmread(next(path for path in study.iterdir() if path.is_file()), stop_before_pixels=True)
    query = ["-S", "-k", "QueryRetrieveLevel=SERIES", "-k", f"StudyInstanceUID={original.StudyInstanceUID}"]
    answers = archive.scu(
        "findscu", "-v", *query, "-k", "SeriesInstanceUID", "-k", "SeriesDescription", "-k", "Modality",
        *archive.address,
    )  # fmt: skip
    assert str(original.SeriesInstanceUID) in answers
    for name in FOLDERS:
        derived = pydicom.dcmread(files[name][0], stop_before_pixels=True)
        assert str(derived.SeriesInstanceUID) in answers
        assert str(derived.SeriesDescription) in answers
    (found,) = [
        study for study in archive.json("/studies?expand")
        if study["MainDicomTags"]["StudyInstanceUID"] == original.StudyInstanceUID
    ]  # fmt: skip
    assert len(found["Series"]) == 1 + len(FOLDERS)
    assert found["PatientMainDicomTags"]["PatientID"] == str(original.PatientID)


@pytest.mark.interop("write", "DICOM to an archive: C-STORE, C-FIND, REST", "Orthanc 1.10, dcmtk")
def test_what_comes_back_by_rest_is_what_was_sent(archive, sent, record_property):
    results, files, _ = sent
    known = {}
    for instance in archive.json("/instances?expand"):
        known[instance["MainDicomTags"]["SOPInstanceUID"]] = instance["ID"]
    count = 0
    for path in (path for name in FOLDERS for path in files[name]):
        identifier = known[pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID]
        fetched = archive.get(f"/instances/{identifier}/file", "application/dicom")
        back = results.parent / "back.dcm"
        back.write_bytes(fetched)
        same(path, pydicom.dcmread(back))
        count += 1
    record_property("measured", f"{count} objects, attributes equal, pixels byte-equal")


@pytest.mark.parametrize("program", ["getscu", "movescu"])
@pytest.mark.interop("write", "DICOM back from an archive: C-GET, C-MOVE", "Orthanc 1.10, dcmtk, dcm2niix")
def test_what_is_retrieved_is_what_was_sent(archive, sent, tmp_path, program):
    results, files, _ = sent
    # dcmtk 3.6.7's getscu does not ask for Parametric Maps; movescu and REST bring them back.
    for name in FOLDERS[: 2 if program == "getscu" else 3]:
        first = pydicom.dcmread(files[name][0], stop_before_pixels=True)
        out = tmp_path / name
        out.mkdir()
        back = ["-aem", "MOVESCU", "-aet", "MOVESCU", "+P", str(archive.move)] if program == "movescu" else []
        keys = ["-k", "QueryRetrieveLevel=SERIES", "-k", f"StudyInstanceUID={first.StudyInstanceUID}"]
        keys += ["-k", f"SeriesInstanceUID={first.SeriesInstanceUID}"]
        archive.scu(program, "-S", *back, "-od", str(out), *keys, *archive.address)
        fetched = {dataset.SOPInstanceUID: dataset for dataset in map(pydicom.dcmread, out.iterdir())}
        assert len(fetched) == len(files[name])
        for path in files[name]:
            same(path, fetched[pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID])
    _agrees_with_nifti(tmp_path / "pam_reconstruction", results)


def _agrees_with_nifti(folder: Path, results: Path) -> None:
    """dcm2niix of what the archive gave back is our NIfTI, to the step that 16 bits allow."""
    binary = Path(sys.executable).with_name("dcm2niix")
    if not binary.is_file():
        pytest.skip("dcm2niix, the oracle, is not installed: pip install dcm2niix")
    slope = float(pydicom.dcmread(next(folder.iterdir()), stop_before_pixels=True).RescaleSlope)
    out = folder.parent / "nifti"
    out.mkdir()
    subprocess.run([binary, "-z", "n", "-b", "n", "-f", "o", "-o", out, folder], check=True, capture_output=True)
    (path,) = out.glob("*.nii")
    oracle = nibabel.as_closest_canonical(nibabel.load(path))
    ours = nibabel.as_closest_canonical(nibabel.load(results / "uncertainty" / "pam" / "mean.nii.gz"))
    np.testing.assert_allclose(oracle.get_fdata(), ours.get_fdata(), atol=0.501 * slope)
    np.testing.assert_allclose(oracle.affine, ours.affine, atol=1e-4)


@pytest.mark.skipif(not orthanc.PLUGIN.exists(), reason="no DICOMweb plugin: apt-get install orthanc-dicomweb")
@pytest.mark.interop("write", "DICOMweb: QIDO-RS, WADO-RS, what OHIF asks for", "Orthanc 1.10, orthanc-dicomweb 1.7")
def test_dicomweb_serves_what_ohif_asks_for(archive, sent, record_property):
    _, files, _ = sent
    first = pydicom.dcmread(files["pam_reconstruction"][0])
    study = f"/dicom-web/studies/{first.StudyInstanceUID}"
    found = archive.json(f"/dicom-web/studies?StudyInstanceUID={first.StudyInstanceUID}")
    assert len(found) == 1
    series = archive.json(f"{study}/series?SeriesInstanceUID={first.SeriesInstanceUID}")
    assert series[0]["0008103E"]["Value"] == [first.SeriesDescription]
    metadata = archive.json(f"{study}/series/{first.SeriesInstanceUID}/metadata")
    assert len(metadata) == len(files["pam_reconstruction"])
    by_instance = {item["00080018"]["Value"][0]: item for item in metadata}
    plane = by_instance[first.SOPInstanceUID]
    assert plane["00200032"]["Value"] == [float(value) for value in first.ImagePositionPatient]
    instance = f"{study}/series/{first.SeriesInstanceUID}/instances/{first.SOPInstanceUID}"
    answer = archive.get(f"{instance}/frames/1", 'multipart/related; type="application/octet-stream"')
    assert first.PixelData in answer
    record_property("measured", "study, series, metadata and frames served; pixels byte-equal")


@pytest.mark.skipif(not shutil.which("dcentvfy"), reason="no validators: apt-get install dicom3tools")
@pytest.mark.interop("write", "DICOM series kept for re-import, beside the source", "dciodvfy, dcentvfy")
def test_kept_series_agree_with_their_source(sent, record_property):
    """No error from dciodvfy; from dcentvfy not a word but on an attribute that the small MR source should have."""
    _, files, study = sent
    derived = [path for name in FOLDERS for path in files[name]]
    for name in FOLDERS:
        done = subprocess.run(["dciodvfy", files[name][0]], capture_output=True, text=True, check=False)
        assert "Error" not in done.stdout + done.stderr
    source = [path for path in study.iterdir() if path.is_file()]
    done = subprocess.run(["dcentvfy", *derived, *source], capture_output=True, text=True, check=False)
    missing = {"ReferringPhysicianName"} - set(pydicom.dcmread(source[0], stop_before_pixels=True).dir())
    told = [line for line in (done.stdout + done.stderr).splitlines() if not any(name in line for name in missing)]
    assert told == []
    record_property("measured", f"0 errors over {len(derived)} derived and {len(source)} source files")
