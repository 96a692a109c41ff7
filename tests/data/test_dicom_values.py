"""From stored numbers to physical values: rescale, mappings, padding, signs, spare bits; colour and others by name."""

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from data.dicom_frames import OtherObject, read_frames
from data.dicom_pixels import read_pixels
from data.dicom_series import arrange
from data.study import find_series
from data.volume import to_closest_ras
from tests.data import dicom_builder as build
from tests.data.test_dicom import dcm2niix, read_only_series

TRUTH = build.Series().stored * build.SLOPE + build.INTERCEPT


def change(folder, series, edit):
    """Write a series and let EDIT(data set, stored plane, z) change each slice."""
    for z, path in enumerate(build.write(series, folder)):
        ds = pydicom.dcmread(path)
        edit(ds, series.stored[z], z)
        ds.save_as(path)


def mapping(slope, intercept, unit):
    code, item = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = unit, "UCUM", unit
    item.RealWorldValueSlope, item.RealWorldValueIntercept = slope, intercept
    item.MeasurementUnitsCodeSequence = [code]
    return item


def without_rescale(ds):
    del ds.RescaleSlope, ds.RescaleIntercept


@pytest.mark.parametrize(("unit", "reason"), [("[hnsf'U]", ""), ("1", "not-hu")])
def test_real_world_mapping_stands_in_for_a_missing_rescale(tmp_path, unit, reason):
    def edit(ds, stored, z):
        without_rescale(ds)
        ds.RealWorldValueMappingSequence = [mapping(2.0, -1024.0, unit)]

    change(tmp_path, build.Series(), edit)
    (finding,) = find_series(tmp_path)
    assert (finding.error.reason if finding.error else "") == reason
    if not reason:
        np.testing.assert_array_equal(read_only_series(tmp_path).array_zyx, TRUTH)


@pytest.mark.parametrize("group", ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"])
def test_real_world_mapping_of_enhanced_frames(tmp_path, group):
    build.write_enhanced(build.Series(), tmp_path / "enhanced.dcm")
    ds = pydicom.dcmread(tmp_path / "enhanced.dcm")
    for frame in ds.PerFrameFunctionalGroupsSequence:
        del frame.PixelValueTransformationSequence
    for item in ds[group].value:
        item.RealWorldValueMappingSequence = [mapping(2.0, -1024.0, "[hnsf'U]")]
    ds.save_as(tmp_path / "enhanced.dcm")
    np.testing.assert_array_equal(read_only_series(tmp_path).array_zyx, TRUTH)


def test_rescale_wins_over_a_mapping(tmp_path):
    def edit(ds, stored, z):
        ds.RealWorldValueMappingSequence = [mapping(7.0, 3.0, "[hnsf'U]")]

    change(tmp_path, build.Series(), edit)
    np.testing.assert_array_equal(read_only_series(tmp_path).array_zyx, TRUTH)


def test_slope_of_each_slice_is_its_own(tmp_path):
    def edit(ds, stored, z):
        ds.RescaleSlope, ds.RescaleIntercept = f"{z + 1}", f"{-z}"

    series = build.Series("MR")
    change(tmp_path, series, edit)
    slopes = np.arange(1, 8)[:, None, None]
    np.testing.assert_array_equal(read_only_series(tmp_path).array_zyx, series.stored * slopes - (slopes - 1))


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_no_rescale(tmp_path, modality):
    change(tmp_path, build.Series(modality), lambda ds, stored, z: without_rescale(ds))
    (finding,) = find_series(tmp_path)
    if modality == "CT":
        assert finding.error.reason == "not-hu"
    else:
        np.testing.assert_array_equal(read_only_series(tmp_path).array_zyx, build.Series().stored)


def test_philips_private_slope_is_recorded_and_not_applied(tmp_path):
    def edit(ds, stored, z):
        ds.add_new(0x20050010, "LO", "Philips MR Imaging DD 001")
        ds.add_new(0x2005100E, "FL", 0.0125)

    change(tmp_path, build.Series("MR"), edit)
    (finding,) = find_series(tmp_path)
    assert finding.frames[0].philips_slope == pytest.approx(0.0125)
    np.testing.assert_array_equal(read_only_series(tmp_path).array_zyx, TRUTH)


def test_table_of_values_is_left_out(tmp_path):
    change(tmp_path, build.Series(), lambda ds, stored, z: setattr(ds, "ModalityLUTSequence", [Dataset()]))
    (finding,) = find_series(tmp_path)
    assert finding.error.reason == "lookup-table"


def test_signed_values(tmp_path):
    def edit(ds, stored, z):
        ds.PixelRepresentation = 1
        ds.RescaleSlope, ds.RescaleIntercept = "1", "0"
        ds.PixelData = (stored.astype(np.int16) - 900).tobytes()

    series = build.Series()
    change(tmp_path, series, edit)
    np.testing.assert_array_equal(read_only_series(tmp_path).array_zyx, series.stored - 900.0)


@pytest.mark.oracle
@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.interop("read", "DICOM, 12 bits stored", "dcm2niix")
def test_twelve_bits(tmp_path, signed):
    def edit(ds, stored, z):
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 12, 11, signed
        ds.PixelData = (stored.astype(np.int16) - 400 * signed).tobytes()

    series = build.Series()
    change(tmp_path / "in", series, edit)
    volume = read_only_series(tmp_path / "in")
    np.testing.assert_array_equal(volume.array_zyx, (series.stored - 400.0 * signed) * 2 - 1024)
    oracle = dcm2niix(tmp_path / "in", tmp_path / "out")
    np.testing.assert_array_equal(to_closest_ras(volume).array_zyx.transpose(2, 1, 0), oracle.get_fdata())


def test_padding_is_air_in_ct_alone(tmp_path):
    def edit(ds, stored, z):
        stored = stored.copy()
        stored[:, :3] = 4
        ds.add_new("PixelPaddingValue", "US", 4)
        ds.PixelData = stored.tobytes()

    for modality, expected in (("CT", -1000), ("MR", -1016)):
        change(tmp_path / modality, build.Series(modality), edit)
        assert (read_only_series(tmp_path / modality).array_zyx[:, :, :3] == expected).all()


def test_padding_range_and_padding_within_tissue(tmp_path):
    def edit(ds, stored, z):
        stored = stored.copy()
        stored[0], stored[1], stored[2] = 3, 8, 600
        ds.add_new("PixelPaddingValue", "US", 2)
        ds.add_new("PixelPaddingRangeLimit", "US", 600)
        ds.PixelData = stored.tobytes()

    change(tmp_path, build.Series(), edit)
    volume = read_only_series(tmp_path).array_zyx
    assert (volume[:, :2] == -1000).all()
    assert (volume[:, 2] == 176).all()


def test_undeclared_corners_are_air(tmp_path):
    def edit(ds, stored, z):
        ds.PixelRepresentation = 1
        signed = stored.astype(np.int16)
        signed[:4, :4] = -1000
        ds.PixelData = signed.tobytes()

    change(tmp_path, build.Series(), edit)
    assert (read_only_series(tmp_path).array_zyx[:, :4, :4] == -1000).all()


@pytest.mark.parametrize("interpretation", ["PALETTE COLOR", "RGB"])
def test_colour_is_refused_by_name(tmp_path, interpretation):
    build.write(build.Series("MR", tags={"PhotometricInterpretation": interpretation}), tmp_path)
    (finding,) = find_series(tmp_path)
    assert finding.error.reason == "colour"


@pytest.mark.parametrize(
    ("sop_class", "reason", "word"),
    [
        ("1.2.840.10008.5.1.4.1.1.7", "secondary-capture", "Secondary Capture"),
        ("1.2.840.10008.5.1.4.1.1.7.2", "secondary-capture", "Grayscale Byte"),
        ("1.2.840.10008.5.1.4.1.1.128", "unsupported-class", "Positron Emission"),
        ("1.2.840.10008.5.1.4.1.1.20", "unsupported-class", "Nuclear Medicine"),
        ("1.2.840.10008.5.1.4.1.1.66.4", "unsupported-class", "Segmentation"),
        ("1.3.6.1.4.1.99999.1", "unsupported-class", ""),
    ],
)
def test_other_images_are_refused_by_name(tmp_path, sop_class, reason, word):
    for path in build.write(build.Series(), tmp_path):
        ds = pydicom.dcmread(path)
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = sop_class
        ds.save_as(path)
    (finding,) = find_series(tmp_path)
    assert finding.error.reason == reason
    assert word in str(finding.error)


def test_objects_without_an_image_are_named(tmp_path):
    for path in build.write(build.Series(), tmp_path):
        ds = pydicom.dcmread(path)
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.11.1"
        for keyword in ("Rows", "Columns", "PixelData"):
            delattr(ds, keyword)
        ds.save_as(path)
        described = read_frames(path)
        assert isinstance(described, OtherObject)
        assert (described.reason, described.what) == ("non-image", "Grayscale Softcopy Presentation State")


@pytest.mark.parametrize("kind", ["ADC", "FA", "MIP", "PROJECTION IMAGE"])
def test_maps_are_left_out_by_name(tmp_path, kind):
    build.write(build.Series("MR", tags={"ImageType": ["DERIVED", "PRIMARY", kind]}), tmp_path)
    (finding,) = find_series(tmp_path)
    assert finding.error.reason == "derived-map"
    assert kind in str(finding.error)


@pytest.mark.oracle
@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.interop("read", "DICOM, enhanced multiframe", "highdicom")
def test_enhanced_equals_highdicom(tmp_path, record_property, modality):
    build.write_enhanced(build.Series(modality, build.OBLIQUE), tmp_path / "enhanced.dcm")
    volume = to_closest_ras(read_only_series(tmp_path))
    theirs = highdicom.imread(tmp_path / "enhanced.dcm").get_volume(apply_presentation_lut=False).to_nibabel()
    oracle = nibabel.as_closest_canonical(theirs)
    apart_mm = np.abs(volume.affine - oracle.affine).max()
    record_property("measured", f"{modality}: affine {apart_mm:.0e} mm, same values")
    assert apart_mm < 1e-4
    np.testing.assert_array_equal(volume.array_zyx.transpose(2, 1, 0), np.asarray(oracle.dataobj))


@pytest.mark.oracle
@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.interop("read", "DICOM, enhanced multiframe", "dcm2niix")
def test_enhanced_equals_dcm2niix(tmp_path, record_property, modality):
    build.write_enhanced(build.Series(modality, build.SAGITTAL), tmp_path / "in" / "enhanced.dcm")
    volume = to_closest_ras(read_only_series(tmp_path / "in"))
    oracle = dcm2niix(tmp_path / "in", tmp_path / "out")
    apart_mm = np.abs(volume.affine - oracle.affine).max()
    record_property("measured", f"{modality}: affine {apart_mm:.0e} mm, same values")
    assert apart_mm < 1e-4
    np.testing.assert_array_equal(volume.array_zyx.transpose(2, 1, 0), oracle.get_fdata())


def test_echoes_in_one_enhanced_file_are_decoded_apart(tmp_path):
    series = build.Series("MR", slices=14)
    build.write_enhanced(series, tmp_path / "enhanced.dcm")
    ds = pydicom.dcmread(tmp_path / "enhanced.dcm")
    for number, groups in enumerate(ds.PerFrameFunctionalGroupsSequence):
        echo = Dataset()
        echo.EffectiveEchoTime = 10.0 + 10 * (number % 2)
        groups.MREchoSequence = [echo]
        half = build.Series("MR", slices=14).position(number // 2)
        groups.PlanePositionSequence[0].ImagePositionPatient = [f"{value:.6f}" for value in half]
    ds.save_as(tmp_path / "enhanced.dcm")
    frames_written = series.stored[::-1] * build.SLOPE + build.INTERCEPT
    found = find_series(tmp_path)
    assert [len(finding.frames) for finding in found] == [7, 7]
    for echo, finding in enumerate(found):
        np.testing.assert_array_equal(read_pixels(arrange(finding.frames)[0]), frames_written[echo::2])


def test_spare_bits_are_ignored(tmp_path):
    def edit(ds, stored, z):
        ds.BitsStored, ds.HighBit = 12, 11
        ds.PixelData = (stored | 0xA000).tobytes()

    change(tmp_path, build.Series(), edit)
    np.testing.assert_array_equal(read_only_series(tmp_path).array_zyx, TRUTH)
