"""DICOM in every transfer syntax that is decoded, and pydicom's own test files, against dcm2niix and highdicom.

Where dcm2niix does otherwise, DIFFERENT says how and which of the two is right.
"""

import shutil
import subprocess
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
    generate_uid,
)

from data.dicom_frames import OtherObject, looks_like_dicom, read_frames
from data.dicom_pixels import read_pixels
from data.errors import InputError
from data.volume import to_closest_ras
from tests.data import dicom_builder as build
from tests.data.test_dicom import DEMO, ORIENTATIONS, dcm2niix, read_only_series

TEST_FILES = Path(pydicom.data.__file__).parent / "test_files"
# What dcm2niix does otherwise on pydicom's files, and why ours is kept.
DIFFERENT = {
    "J2K_pixelrep_mismatch.dcm": "signed header, unsigned codestream: dcm2niix adds 2^13 to negatives, -2000 is right",
    "693_J2KI.dcm": "dcm2niix keeps the padding at -3040; here it is air",
    "examples_overlay.dcm": "dcm2niix writes the overlay as a second volume, which is not read here",
}
# MR files of one plane that are no whole image on purpose.
BROKEN = {"MR_truncated.dcm": "truncated", "UN_sequence.dcm": "undecodable", "priv_SQ.dcm": "undecodable"}


def resave(path, syntax):
    """Write a data set in another transfer syntax without compression."""
    ds = pydicom.dcmread(path)
    if syntax == ExplicitVRBigEndian:
        ds.PixelData = ds.pixel_array.astype(">u2").tobytes()
    clean = pydicom.Dataset()
    clean.update(ds)
    clean.file_meta = ds.file_meta
    clean.file_meta.TransferSyntaxUID = syntax
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    clean.save_as(path, implicit_vr=implicit, little_endian=little, enforce_file_format=True)


def compress(path, syntax, **options):
    ds = pydicom.dcmread(path)
    ds.compress(syntax, **options)
    ds.save_as(path)


def by_dcmtk(path, option):
    if shutil.which("dcmcjpeg") is None:
        pytest.skip("dcmcjpeg, which makes the JPEG copies, is not installed: apt-get install dcmtk")
    packed = path.with_name("packed")
    subprocess.run(["dcmcjpeg", option, path, packed], check=True, capture_output=True)
    packed.replace(path)


def eight_bits(path):
    ds = pydicom.dcmread(path)
    ds.PixelData = (ds.pixel_array // 8).astype(np.uint8).tobytes()
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.save_as(path)


def as_jpeg_baseline(path):
    eight_bits(path)
    by_dcmtk(path, "+eb")


SYNTAXES = {
    "explicit": (lambda path: resave(path, ExplicitVRLittleEndian), 0),
    "implicit": (lambda path: resave(path, ImplicitVRLittleEndian), 0),
    "big endian": (lambda path: resave(path, ExplicitVRBigEndian), 0),
    "RLE": (lambda path: compress(path, RLELossless), 0),
    "JPEG lossless, process 14": (lambda path: by_dcmtk(path, "+el"), 0),
    "JPEG lossless, first order": (lambda path: by_dcmtk(path, "+e1"), 0),
    "JPEG baseline, 8 bits": (as_jpeg_baseline, 1.01 * build.SLOPE),
    "JPEG-LS lossless": (lambda path: compress(path, JPEGLSLossless), 0),
    "JPEG-LS near lossless": (lambda path: compress(path, JPEGLSNearLossless, jls_error=3), 0),
    "JPEG 2000 lossless": (lambda path: compress(path, JPEG2000Lossless), 0),
}


@pytest.mark.oracle
@pytest.mark.parametrize("name", SYNTAXES)
@pytest.mark.interop("read", "DICOM, transfer syntaxes", "dcm2niix")
def test_transfer_syntax_equals_dcm2niix(tmp_path, record_property, name):
    change, tolerance = SYNTAXES[name]
    series = build.Series(rows=32, columns=40, orientation=build.OBLIQUE)
    for path in build.write(series, tmp_path / "in"):
        change(path)
    volume, oracle = to_closest_ras(read_only_series(tmp_path / "in")), dcm2niix(tmp_path / "in", tmp_path / "out")
    apart = np.abs(volume.array_zyx.transpose(2, 1, 0) - oracle.get_fdata()).max()
    apart_mm = np.abs(volume.affine - oracle.affine).max()
    record_property("measured", f"{name}: largest difference {apart:g} HU, affine {apart_mm:.0e} mm")
    assert apart <= tolerance
    assert apart_mm < 1e-4
    if name not in ("JPEG baseline, 8 bits", "JPEG-LS near lossless"):
        truth = series.stored * build.SLOPE + build.INTERCEPT
        np.testing.assert_array_equal(read_only_series(tmp_path / "in").array_zyx, truth)


@pytest.mark.interop("read", "DICOM, deflated", "closed form (dcm2niix reads none)")
def test_deflated(tmp_path):
    series = build.Series()
    for path in build.write(series, tmp_path):
        resave(path, DeflatedExplicitVRLittleEndian)
    np.testing.assert_array_equal(read_only_series(tmp_path).array_zyx, series.stored * build.SLOPE + build.INTERCEPT)


def test_video_is_refused_by_name(tmp_path):
    for path in build.write(build.Series(), tmp_path):
        ds = pydicom.dcmread(path)
        ds.PixelData = pydicom.encaps.encapsulate([bytes(100)])
        ds["PixelData"].VR = "OB"
        ds.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML
        ds.save_as(path)
    with pytest.raises(InputError, match="MPEG2") as caught:
        read_only_series(tmp_path)
    assert caught.value.reason == "compression"


def image_files():
    """pydicom's test files that hold a CT or MR plane with a place, outside its DICOMDIR folders."""
    for path in sorted(TEST_FILES.glob("*")):
        if path.is_file() and path.name not in BROKEN and looks_like_dicom(path):
            try:
                described = read_frames(path)
            except InputError:
                continue
            if not isinstance(described, OtherObject):
                yield path


def stack_of(path, folder, slices=5, spacing_mm=3.0):
    """A series of a single plane: its file again and again, pixels untouched, each copy with a place of its own."""
    folder.mkdir()
    for z in range(slices):
        ds = pydicom.dcmread(path)
        row, column = np.reshape([float(value) for value in ds.ImageOrientationPatient], (2, 3))
        row, column = row / np.linalg.norm(row), column / np.linalg.norm(column)
        place = np.array(ds.ImagePositionPatient, float) + np.cross(row, column) * spacing_mm * z
        ds.ImagePositionPatient = [f"{value:.6f}"[:16] for value in place]
        ds.ImageOrientationPatient = [f"{value:.12f}" for value in (*row, *column)]
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.InstanceNumber = z + 1
        if "GantryDetectorTilt" in ds:
            ds.GantryDetectorTilt = 0
        ds.save_as(folder / f"{(z * 3) % slices}")


@pytest.mark.oracle
@pytest.mark.parametrize("path", list(image_files()), ids=lambda path: path.name)
@pytest.mark.interop("read", "DICOM, pydicom's test files", "dcm2niix")
def test_pydicoms_files_equal_dcm2niix(tmp_path, record_property, path):
    stack_of(path, tmp_path / "in")
    volume, oracle = to_closest_ras(read_only_series(tmp_path / "in")), dcm2niix(tmp_path / "in", tmp_path / "out")
    values = volume.array_zyx.transpose(2, 1, 0)
    apart_mm = np.abs(volume.affine - oracle.affine).max()
    note = DIFFERENT.get(path.name, "")
    record_property("measured", f"{path.name}: affine {apart_mm:.0e} mm" + (f"; {note}" if note else ", same values"))
    assert apart_mm < 1e-4
    theirs = oracle.get_fdata()
    if path.name == "J2K_pixelrep_mismatch.dcm":
        theirs = np.where(theirs >= 2**12, theirs - 2**13, theirs)
    if path.name == "693_J2KI.dcm" or path.name == "J2K_pixelrep_mismatch.dcm":
        theirs = np.where(theirs <= -2000, -1000, theirs)
    np.testing.assert_array_equal(values, theirs)


@pytest.mark.parametrize("name", BROKEN)
def test_pydicoms_broken_files_are_named(name):
    with pytest.raises(InputError, match=name) as caught:
        read_pixels(tuple(read_frames(TEST_FILES / name)))
    assert caught.value.reason == BROKEN[name]


@pytest.mark.oracle
@pytest.mark.interop("read", "DICOM, a scanner's series of five slices", "dcm2niix")
def test_pydicoms_series_equals_dcm2niix(tmp_path):
    folder = TEST_FILES / "dicomdirtests" / "98892001" / "CT5N"
    volume, oracle = to_closest_ras(read_only_series(folder)), dcm2niix(folder, tmp_path / "out")
    np.testing.assert_array_equal(volume.array_zyx.transpose(2, 1, 0), oracle.get_fdata())
    np.testing.assert_allclose(volume.affine, oracle.affine, atol=1e-4)


@pytest.mark.oracle
@pytest.mark.parametrize("name", [*ORIENTATIONS, "demo"])
@pytest.mark.interop("read", "DICOM geometry", "highdicom")
def test_geometry_equals_highdicom(tmp_path, record_property, name):
    folder = DEMO
    if name != "demo":
        folder = tmp_path
        build.write(build.Series(orientation=ORIENTATIONS[name]), folder)
    datasets = [pydicom.dcmread(path) for path in folder.iterdir()]
    for ds in datasets:
        ds.FrameOfReferenceUID = datasets[0].FrameOfReferenceUID  # the demo's de-identifier gave each slice its own
    theirs = highdicom.get_volume_from_series(datasets, apply_presentation_lut=False).to_nibabel()
    ours, oracle = to_closest_ras(read_only_series(folder)), nibabel.as_closest_canonical(theirs)
    apart_mm = np.abs(ours.affine - oracle.affine).max()
    record_property("measured", f"{name}: affine {apart_mm:.0e} mm, same values")
    assert apart_mm < 1e-4
    np.testing.assert_array_equal(ours.array_zyx.transpose(2, 1, 0), np.asarray(oracle.dataobj))


@pytest.mark.parametrize(
    ("implicit", "little"), [(True, True), (False, True), (False, False)], ids=["implicit", "explicit", "big endian"]
)
@pytest.mark.interop("read", "DICOM without preamble and meta information", "closed form")
def test_bare_data_sets(tmp_path, implicit, little):
    series = build.Series()
    for path in build.write(series, tmp_path):
        ds = pydicom.dcmread(path)
        if not little:
            ds.PixelData = ds.pixel_array.astype(">u2").tobytes()
        bare = pydicom.Dataset()
        bare.update(ds)
        bare.save_as(path, implicit_vr=implicit, little_endian=little, enforce_file_format=False)
        assert path.read_bytes()[128:132] != b"DICM"
    np.testing.assert_array_equal(read_only_series(tmp_path).array_zyx, series.stored * build.SLOPE + build.INTERCEPT)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless], ids=lambda syntax: syntax.name)
@pytest.mark.interop("read", "DICOM, enhanced multiframe, compressed", "closed form")
def test_compressed_multiframe(tmp_path, syntax):
    series = build.Series(rows=32, columns=40)
    build.write_enhanced(series, tmp_path / "enhanced.dcm")
    compress(tmp_path / "enhanced.dcm", syntax)
    np.testing.assert_array_equal(read_only_series(tmp_path).array_zyx, series.stored * build.SLOPE + build.INTERCEPT)


def test_frames_missing_from_a_compressed_file(tmp_path):
    build.write_enhanced(build.Series(), tmp_path / "enhanced.dcm")
    compress(tmp_path / "enhanced.dcm", RLELossless)
    ds = pydicom.dcmread(tmp_path / "enhanced.dcm")
    frames = list(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=7))
    ds.PixelData = pydicom.encaps.encapsulate(frames[:5])
    ds.save_as(tmp_path / "enhanced.dcm")
    with pytest.raises(InputError) as caught:
        read_only_series(tmp_path)
    assert caught.value.reason in ("truncated", "undecodable")
