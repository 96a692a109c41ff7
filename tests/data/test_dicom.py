"""DICOM reading against dcm2niix (order, affine, values) and against closed-form geometry."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from data import dicom_file, dicom_frames
from data.dicom_pixels import read_pixels
from data.dicom_series import arrange
from data.errors import InputError
from data.study import find_series
from data.volume import Volume, to_closest_ras
from tests.data import dicom_builder as build
from tests.pipeline.dicom_oracles import dcm2niix

DEMO = Path(__file__).parents[2] / "data" / "demo" / "ct" / "lidc0314"
ORIENTATIONS = {"axial": build.AXIAL, "sagittal": build.SAGITTAL, "coronal": build.CORONAL, "oblique": build.OBLIQUE}


def read_only_series(folder):
    (finding,) = find_series(folder)
    if finding.error:
        raise finding.error
    frames, affine = arrange(finding.frames)
    return Volume.from_affine(read_pixels(frames), affine)


def assert_same(volume, oracle, value_tolerance=1e-3, place_tolerance=1e-4):
    turned = to_closest_ras(volume)
    np.testing.assert_allclose(turned.array_zyx.transpose(2, 1, 0), oracle.get_fdata(), atol=value_tolerance)
    np.testing.assert_allclose(turned.affine, oracle.affine, atol=place_tolerance)


@pytest.mark.oracle
@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("name", ORIENTATIONS)
def test_equals_dcm2niix(tmp_path, name, modality):
    build.write(build.Series(modality, ORIENTATIONS[name]), tmp_path / "in")
    assert_same(read_only_series(tmp_path / "in"), dcm2niix(tmp_path / "in", tmp_path / "out"))


@pytest.mark.oracle
def test_demo_equals_dcm2niix(tmp_path):
    volume = read_only_series(DEMO)
    assert volume.shape == (48, 512, 512)
    assert volume.spacing_mm == pytest.approx((1.0, 0.78125, 0.78125), abs=1e-6)
    assert_same(volume, dcm2niix(DEMO, tmp_path / "out"), value_tolerance=0)


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_closed_form(tmp_path, name):
    series = build.Series(orientation=ORIENTATIONS[name])
    build.write(series, tmp_path)
    volume = read_only_series(tmp_path)
    np.testing.assert_array_equal(volume.array_zyx, series.stored * build.SLOPE + build.INTERCEPT)
    np.testing.assert_allclose(volume.affine, series.affine_ras, atol=1e-5)
    assert volume.spacing_mm == pytest.approx((series.spacing_mm, *series.pixel_mm), abs=1e-5)


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_enhanced_multiframe(tmp_path, modality):
    series = build.Series(modality, build.OBLIQUE)
    build.write_enhanced(series, tmp_path / "enhanced.dcm")
    volume = read_only_series(tmp_path)
    np.testing.assert_array_equal(volume.array_zyx, series.stored * build.SLOPE + build.INTERCEPT)
    np.testing.assert_allclose(volume.affine, series.affine_ras, atol=1e-5)


def test_enhanced_equals_single_frame_file(tmp_path):
    series = build.Series(orientation=build.SAGITTAL)
    build.write_enhanced(series, tmp_path / "one" / "enhanced.dcm")
    build.write(series, tmp_path / "many")
    one, many = read_only_series(tmp_path / "one"), read_only_series(tmp_path / "many")
    np.testing.assert_array_equal(one.array_zyx, many.array_zyx)
    np.testing.assert_allclose(one.affine, many.affine)


def test_monochrome1_keeps_values(tmp_path):
    series = build.Series(tags={"PhotometricInterpretation": "MONOCHROME1"})
    build.write(series, tmp_path)
    np.testing.assert_array_equal(read_only_series(tmp_path).array_zyx, series.stored * build.SLOPE + build.INTERCEPT)


@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian])
def test_padding_below_air_becomes_air(tmp_path, syntax):
    series = build.Series()
    for path in build.write(series, tmp_path):
        ds = pydicom.dcmread(path)
        stored = ds.pixel_array.copy()
        stored[:2] = 5
        ds.add_new("PixelPaddingValue", "US", 5)
        ds.PixelData = stored.tobytes()
        ds.save_as(path)
        if syntax:
            _resave(path, syntax)
    volume = read_only_series(tmp_path).array_zyx
    assert (volume[:, :2] == -1000).all()
    expected = np.where(series.stored == 5, -1000, series.stored * build.SLOPE + build.INTERCEPT)
    np.testing.assert_array_equal(volume[:, 2:], expected[:, 2:])


def _resave(path, syntax):
    ds = pydicom.dcmread(path)
    if syntax == RLELossless:
        ds.compress(RLELossless)
    elif syntax == "no preamble":
        del ds.file_meta
        ds.preamble = None
        ds.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)
        return
    else:
        if syntax == ExplicitVRBigEndian:
            ds.PixelData = ds.pixel_array.astype(">u2").tobytes()
        ds.file_meta.TransferSyntaxUID = syntax
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    clean = pydicom.Dataset()
    clean.update(ds)
    clean.file_meta = ds.file_meta
    clean.save_as(path, implicit_vr=implicit, little_endian=little, enforce_file_format=True)


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless, "no preamble"],
    ids=["implicit", "big-endian", "deflated", "rle", "no-preamble"],
)
def test_transfer_syntaxes(tmp_path, syntax):
    series = build.Series()
    for path in build.write(series, tmp_path):
        _resave(path, syntax)
    np.testing.assert_array_equal(read_only_series(tmp_path).array_zyx, series.stored * build.SLOPE + build.INTERCEPT)


def test_deflated_bomb_is_refused(tmp_path, monkeypatch):
    path = build.write(build.Series(), tmp_path)[0]
    _resave(path, DeflatedExplicitVRLittleEndian)
    monkeypatch.setattr(dicom_file, "MAX_INFLATED_BYTES", 100)
    with pytest.raises(InputError) as caught:
        dicom_frames.read_frames(path)
    assert caught.value.reason == "too-large"


def test_claimed_matrix_is_checked_before_memory_is_asked_for(tmp_path):
    for path in build.write(build.Series(), tmp_path):
        build.edit(path, {"Rows": 65535, "Columns": 65535})
    with pytest.raises(InputError) as caught:
        read_only_series(tmp_path)
    assert caught.value.reason == "too-large"


def test_two_series_and_two_matrices_are_told_apart(tmp_path):
    uids = build.new_uids()
    build.write(build.Series(), tmp_path, uids, "A")
    build.write(build.Series(rows=14, seed=1), tmp_path, uids, "B")
    build.write(build.Series(seed=2), tmp_path, None, "C")
    findings = find_series(tmp_path)
    assert sorted(len(finding.frames) for finding in findings) == [7, 7, 7]
    assert len({finding.name for finding in findings}) == 3


def test_acquisitions_at_the_same_places_are_split(tmp_path):
    uids = build.new_uids()
    first, second = build.Series(), build.Series(seed=1, tags={"AcquisitionNumber": 2})
    build.write(first, tmp_path, uids, "A")
    build.write(second, tmp_path, uids, "B")
    findings = find_series(tmp_path)
    volumes = [read_pixels(arrange(finding.frames)[0]) for finding in findings]
    np.testing.assert_array_equal(volumes[0], first.stored * build.SLOPE + build.INTERCEPT)
    np.testing.assert_array_equal(volumes[1], second.stored * build.SLOPE + build.INTERCEPT)


def test_acquisition_number_alone_does_not_split(tmp_path):
    for z, path in enumerate(build.write(build.Series(), tmp_path)):
        build.edit(path, {"AcquisitionNumber": z + 1})
    assert read_only_series(tmp_path).shape[0] == 7


def test_copies_are_dropped(tmp_path):
    series = build.Series()
    paths = build.write(series, tmp_path)
    (tmp_path / "copy").write_bytes(paths[2].read_bytes())
    (tmp_path / "renamed").write_bytes(paths[3].read_bytes())
    build.edit(tmp_path / "renamed", {"SOPInstanceUID": pydicom.uid.generate_uid()})
    np.testing.assert_array_equal(read_only_series(tmp_path).array_zyx, series.stored * build.SLOPE + build.INTERCEPT)


def _reason(folder):
    with pytest.raises(InputError) as caught:
        read_only_series(folder)
    return caught.value.reason


def test_gap_tilt_and_mixture_have_names(tmp_path):
    build.write(build.Series(), tmp_path / "gap")[3].unlink()
    build.write(build.Series(shift_mm=0.6), tmp_path / "tilt")
    uids = build.new_uids()
    build.write(build.Series(), tmp_path / "mixed", uids, "A")
    build.write(build.Series(seed=1), tmp_path / "mixed", uids, "B")
    assert {name: _reason(tmp_path / name) for name in ("gap", "tilt", "mixed")} == {
        "gap": "gap", "tilt": "tilt", "mixed": "mixed",
    }  # fmt: skip


@pytest.mark.parametrize("thickness", [0.625, 3.0])
def test_rounded_positions_are_no_gap(tmp_path, thickness):
    series = build.Series(slices=20, spacing_mm=thickness)
    for z, path in enumerate(build.write(series, tmp_path)):
        build.edit(path, {"ImagePositionPatient": [f"{value:.1f}" for value in series.position(z)]})
    assert read_only_series(tmp_path).shape[0] == 20


def test_change_of_spacing_is_a_gap(tmp_path):
    series = build.Series(slices=20, spacing_mm=3.0)
    for z, path in enumerate(build.write(series, tmp_path)):
        moved = series.position(z) + (0.5 * max(0, z - 9)) * series.normal
        build.edit(path, {"ImagePositionPatient": [f"{value:.3f}" for value in moved]})
    assert _reason(tmp_path) == "gap"


@pytest.mark.parametrize(
    ("series", "reason"),
    [
        (build.Series(tags={"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}), "localizer"),
        (build.Series(slices=3), "too-few-slices"),
        (build.Series("MR", tags={"ImageType": ["ORIGINAL", "PRIMARY", "P", "SE"]}), "not-magnitude"),
        (build.Series(tags={"RescaleType": "US"}), "not-hu"),
        (build.Series(tags={"SamplesPerPixel": 3}), "colour"),
        (build.Series(tags={"ImagePositionPatient": None}), "no-geometry"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_volume_to_reconstruct(tmp_path, series, reason):
    build.write(series, tmp_path)
    (finding,) = find_series(tmp_path)
    assert finding.error.reason == reason


def test_repeats_in_time_are_no_damage(tmp_path):
    uids = build.new_uids()
    for time in range(6):
        series = replace(build.Series("MR", seed=time), tags={"TemporalPositionIdentifier": time + 1})
        build.write(series, tmp_path, uids, f"T{time}")
    assert _reason(tmp_path) == "time-series"


def test_links_out_of_the_study_are_not_followed(tmp_path):
    build.write(build.Series(), tmp_path / "elsewhere")
    study = tmp_path / "study"
    study.mkdir()
    (study / "folder").symlink_to(tmp_path / "elsewhere")
    (study / "file").symlink_to(tmp_path / "elsewhere" / "IM000")
    assert find_series(study) == []


def test_pydicom_settings_are_restored():
    before = pydicom.config.settings.reading_validation_mode
    with dicom_frames.quiet():
        assert pydicom.config.settings.reading_validation_mode == pydicom.config.IGNORE
    assert pydicom.config.settings.reading_validation_mode == before
