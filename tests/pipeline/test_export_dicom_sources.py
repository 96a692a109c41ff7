"""Exported DICOM of sources that were compressed, interpolated, resampled, turned or lacked slices."""

import json

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000, JPEG2000Lossless, JPEGLSNearLossless

from data.volume import Volume
from tests.data import dicom_builder as build
from tests.pipeline.dicom_oracles import agree_with_dcm2niix, validate
from tests.pipeline.export_builder import export, make, slices, write_results


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
