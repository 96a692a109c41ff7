"""Gaps, tilt, repeats and mixtures: what is split, filled, straightened or refused, against closed-form volumes."""

from dataclasses import replace

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from data.dicom_series import Policies, build_stack, group_frames
from data.dicom_stack import cut_at_gaps
from data.dicom_volume import read_stack
from data.errors import InputError
from data.study import find_series
from tests.data import dicom_builder as build

TRUTH = build.Series().stored * build.SLOPE + build.INTERCEPT


def findings(folder, **policies):
    return find_series(folder, Policies(**policies))


def volumes(folder, **policies):
    found = findings(folder, **policies)
    for finding in found:
        if finding.error is not None:
            raise finding.error
    kept = replace(Policies(**policies), on_gap="fail") if policies.get("on_gap") == "split" else Policies(**policies)
    stacks = [build_stack(finding.frames, kept) for finding in found]
    return [read_stack(stack, 0, len(stack.blend)) for stack in stacks]


def reason(folder, **policies):
    with pytest.raises(InputError) as caught:
        volumes(folder, **policies)
    return caught.value.reason


def without(folder, series, *missing):
    for z, path in enumerate(build.write(series, folder)):
        if z in missing:
            path.unlink()


def test_gap_is_interpolated_between_its_neighbours(tmp_path):
    series = build.Series(orientation=build.OBLIQUE)
    without(tmp_path, series, 3)
    (volume,) = volumes(tmp_path, on_gap="interpolate")
    expected = TRUTH.astype(np.float32)
    expected[3] = (expected[2] + expected[4]) / 2
    np.testing.assert_allclose(volume.array_zyx, expected, atol=1e-3)
    np.testing.assert_allclose(volume.affine, series.affine_ras, atol=1e-5)
    (finding,) = findings(tmp_path)
    assert build_stack(finding.frames, Policies(on_gap="interpolate")).interpolated == [3]


def test_two_missing_slices_are_weighted_by_their_distance(tmp_path):
    without(tmp_path, build.Series(), 2, 3)
    (volume,) = volumes(tmp_path, on_gap="interpolate")
    np.testing.assert_allclose(volume.array_zyx[2], (2 * TRUTH[1] + TRUTH[4]) / 3, atol=1e-3)
    np.testing.assert_allclose(volume.array_zyx[3], (TRUTH[1] + 2 * TRUTH[4]) / 3, atol=1e-3)


@pytest.mark.parametrize("missing", [range(4, 8), (1, 2, 3, 6, 7, 9, 10, 11)], ids=["four in a row", "most"])
def test_too_much_is_not_made_up(tmp_path, missing):
    without(tmp_path, build.Series(slices=13), *missing)
    assert reason(tmp_path, on_gap="interpolate") == "gap"


def test_gap_splits(tmp_path):
    series = build.Series(slices=13)
    without(tmp_path, series, 5)
    lower, upper = volumes(tmp_path, on_gap="split")
    truth = series.stored * build.SLOPE + build.INTERCEPT
    np.testing.assert_array_equal(lower.array_zyx, truth[:5])
    np.testing.assert_array_equal(upper.array_zyx, truth[6:])
    np.testing.assert_allclose(upper.affine[2, 3] - lower.affine[2, 3], 6 * series.spacing_mm)
    names = [finding.name for finding in findings(tmp_path, on_gap="split")]
    assert len(set(names)) == 2
    assert all("cut at gaps into 2 parts" in finding.notes for finding in findings(tmp_path, on_gap="split"))


@pytest.mark.parametrize("missing", [(1,), (5,), (2, 3), (1, 5), (4,)])
def test_runs_keep_every_slice(tmp_path, missing):
    without(tmp_path, build.Series(slices=10), *missing)
    (finding,) = findings(tmp_path)
    runs = cut_at_gaps(finding.frames)
    expected, run = [], 0
    for z in range(11):
        if z in missing or z == 10:
            expected += [run] if run else []
            run = 0
        else:
            run += 1
    assert [len(run) for run in runs] == expected


def test_short_runs_are_left_out_by_name(tmp_path):
    without(tmp_path, build.Series(slices=10), 2)
    errors = [finding.error.reason if finding.error else "" for finding in findings(tmp_path, on_gap="split")]
    assert sorted(errors) == ["", "too-few-slices"]


def test_gap_says_where_and_how_wide(tmp_path):
    without(tmp_path, build.Series(), 3)
    with pytest.raises(InputError, match=r"5\.00 mm after slice 3 of 6, usually 2\.50 mm"):
        volumes(tmp_path)


def plane_of(series, z, anatomy):
    """Values of an anatomy, a function of LPS places, on the pixels of slice z."""
    rows, columns = np.indices((series.rows, series.columns))
    row, column = np.array(series.orientation[:3]), np.array(series.orientation[3:])
    places = series.position(z) + columns[..., None] * series.pixel_mm[1] * row
    return anatomy(places + rows[..., None] * series.pixel_mm[0] * column)


def ramp(places):
    """A linear anatomy, so that linear interpolation is exact."""
    return 200 + 3 * places[..., 0] - 2 * places[..., 1] + places[..., 2]


def write_anatomy(series, folder, anatomy):
    for z, path in enumerate(build.write(series, folder)):
        ds = pydicom.dcmread(path)
        ds.RescaleSlope, ds.RescaleIntercept = "0.01", "-300"
        ds.PixelData = np.rint((plane_of(series, z, anatomy) + 300) / 0.01).astype("<u2").tobytes()
        ds.save_as(path)


@pytest.mark.parametrize("orientation", [build.AXIAL, build.OBLIQUE], ids=["axial", "oblique"])
@pytest.mark.parametrize("shift_mm", [0.6, -0.85])
def test_tilt_is_straightened(tmp_path, orientation, shift_mm):
    series = build.Series(orientation=orientation, shift_mm=shift_mm, rows=16, columns=24)
    write_anatomy(series, tmp_path, ramp)
    assert reason(tmp_path) == "tilt"
    (volume,) = volumes(tmp_path, on_tilt="resample")
    axes = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    z, y, x = np.indices(volume.shape)
    ras = np.stack([x, y, z, np.ones_like(x)], axis=-1) @ volume.affine.T
    expected = ramp(ras[..., :3] * [-1, -1, 1])
    measured = volume.array_zyx > -900
    assert measured.sum(axis=(1, 2)).min() >= 16 * 23
    edge = _next_to_air(measured)
    np.testing.assert_allclose(volume.array_zyx[measured & ~edge], expected[measured & ~edge], atol=0.02)


def _next_to_air(measured):
    """Columns at the ends of the measured part, where a pixel is mixed with air."""
    edge = np.zeros_like(measured)
    for step in (1, -1):
        edge |= measured & ~np.roll(measured, step, axis=2)
    edge[..., 0] = edge[..., -1] = True
    return edge


def test_tilt_grows_the_matrix_and_loses_nothing(tmp_path):
    series = build.Series(shift_mm=0.5)
    build.write(series, tmp_path)
    (volume,) = volumes(tmp_path, on_tilt="resample")
    assert volume.shape == (7, 12, 16 + 6)
    for z in range(7):
        np.testing.assert_array_equal(volume.array_zyx[z, :, z : z + 16], TRUTH[z])
        assert (np.delete(volume.array_zyx[z], range(z, z + 16), axis=1) == -1000).all()


def test_tilt_and_gap_together(tmp_path):
    series = build.Series(shift_mm=0.5)
    without(tmp_path, series, 3)
    (volume,) = volumes(tmp_path, on_tilt="resample", on_gap="interpolate")
    assert volume.shape == (7, 12, 22)
    np.testing.assert_allclose(volume.array_zyx[3, :, 4:18], (TRUTH[2][:, 2:] + TRUTH[4][:, :-2]) / 2, atol=1e-3)


def test_scattered_planes_have_a_name(tmp_path):
    for z, path in enumerate(build.write(build.Series(), tmp_path)):
        place = build.Series().position(z) + (np.array([4.0, 0, 0]) if z == 3 else 0)
        build.edit(path, {"ImagePositionPatient": [f"{value:.3f}" for value in place]})
    assert reason(tmp_path, on_tilt="resample", on_gap="interpolate") == "scattered"


def repeats(folder, count, modality="MR", **tags):
    """COUNT volumes in one series, told apart by tags given as functions of the number."""
    uids = build.new_uids()
    for number in range(count):
        own = {key: value(number) for key, value in tags.items()}
        build.write(build.Series(modality, seed=number, tags=own), folder, uids, f"N{number}_")


MARKS = {
    "echo": {"EchoNumbers": lambda n: n + 1, "EchoTime": lambda n: f"{10 * (n + 1)}"},
    "echo time": {"EchoTime": lambda n: f"{10 * (n + 1)}"},
    "time point": {"TemporalPositionIdentifier": lambda n: n + 1},
    "acquisition": {"AcquisitionNumber": lambda n: n + 1},
    "trigger time": {"TriggerTime": lambda n: f"{100 * n}"},
    "diffusion weighting": {"DiffusionBValue": lambda n: 500.0 * n},
    "diffusion direction": {"DiffusionGradientOrientation": lambda n: [float(n == 1), float(n == 0), 0.0]},
    "inversion time": {"InversionTime": lambda n: f"{100 * n + 50}"},
    "flip angle": {"FlipAngle": lambda n: f"{5 * n + 2}"},
    "coil": {"ReceiveCoilName": lambda n: f"H{n}"},
    "image type": {"ImageType": lambda n: ["ORIGINAL", "PRIMARY", "M", f"TYPE{n}"]},
    "kernel": {"ConvolutionKernel": lambda n: f"B{n}0f"},
    "tube voltage": {"KVP": lambda n: f"{80 + 60 * n}"},
    "acquisition time": {"AcquisitionTime": lambda n: f"12000{n}"},
}


@pytest.mark.parametrize("name", MARKS)
def test_repeats_are_told_apart(tmp_path, name):
    repeats(tmp_path, 2, **MARKS[name])
    first, second = volumes(tmp_path)
    for number, volume in enumerate((first, second)):
        truth = build.Series(seed=number).stored * build.SLOPE + build.INTERCEPT
        np.testing.assert_array_equal(volume.array_zyx, truth)


def test_magnitude_is_taken_and_phase_is_left_out(tmp_path):
    kinds = (["ORIGINAL", "PRIMARY", "M", "FFE"], ["ORIGINAL", "PRIMARY", "P", "FFE"])
    repeats(tmp_path, 2, ImageType=lambda n: kinds[n])
    errors = {finding.error.reason if finding.error else "" for finding in findings(tmp_path)}
    assert errors == {"", "not-magnitude"}


@pytest.mark.parametrize("tag", ["ComplexImageComponent", "GE"])
def test_phase_that_only_one_attribute_names(tmp_path, tag):
    for path in build.write(build.Series("MR"), tmp_path):
        ds = pydicom.dcmread(path)
        if tag == "GE":
            ds.add_new(0x00430010, "LO", "GEMS_PARM_01")
            ds.add_new(0x0043102F, "SS", 1)
        else:
            ds.ComplexImageComponent = "PHASE"
        ds.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
        ds.save_as(path)
    (finding,) = findings(tmp_path)
    assert finding.error.reason == "not-magnitude"


def test_two_attributes_together(tmp_path):
    tags = {"TemporalPositionIdentifier": lambda n: n % 2 + 1, "FlipAngle": lambda n: f"{n // 2 + 1}"}
    repeats(tmp_path, 4, **tags)
    found = findings(tmp_path)
    assert [len(finding.frames) for finding in found] == [7, 7, 7, 7]
    assert found[0].notes == ("told apart by time point and flip angle",)


def test_series_in_time_is_left_out_until_it_is_asked_for(tmp_path):
    repeats(tmp_path, 6, TemporalPositionIdentifier=lambda n: n + 1)
    assert reason(tmp_path) == "time-series"
    parts = volumes(tmp_path, max_repeats=6)
    truths = [build.Series(seed=n).stored * build.SLOPE + build.INTERCEPT for n in range(6)]
    for truth, part in zip(truths, parts, strict=True):
        np.testing.assert_array_equal(part.array_zyx, truth)


def test_repeats_can_be_refused(tmp_path):
    repeats(tmp_path, 2, AcquisitionNumber=lambda n: n + 1)
    assert reason(tmp_path, on_repeat="fail") == "repeat"


def test_echo_times_that_jitter_split_nothing(tmp_path):
    for z, path in enumerate(build.write(build.Series("MR"), tmp_path)):
        build.edit(path, {"EchoTime": f"{9.12 + 0.01 * (z % 3):.2f}"})
    (finding,) = findings(tmp_path)
    assert (finding.error, len(finding.frames), finding.notes) == (None, 7, ())


def test_many_echoes_are_no_series_in_time(tmp_path):
    repeats(tmp_path, 6, EchoNumbers=lambda n: n + 1, EchoTime=lambda n: f"{3 * n + 2}")
    found = findings(tmp_path)
    assert [len(finding.frames) for finding in found] == [7] * 6
    assert {finding.notes for finding in found} == {("told apart by echo",)}


def test_mosaics_are_left_out_by_name(tmp_path):
    build.write(build.Series("MR", tags={"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}), tmp_path)
    (finding,) = findings(tmp_path)
    assert finding.error.reason == "mosaic"


def test_copies_are_told(tmp_path):
    paths = build.write(build.Series(), tmp_path)
    (tmp_path / "copy").write_bytes(paths[2].read_bytes())
    build.edit(tmp_path / "copy", {"SOPInstanceUID": generate_uid()})
    (finding,) = findings(tmp_path)
    assert finding.notes == ("copies of other slices left out: 1",)
    assert len(finding.frames) == 7


def test_time_points_with_a_gap_in_one(tmp_path):
    uids = build.new_uids()
    for number in range(2):
        series = build.Series("MR", seed=number, slices=10, tags={"TemporalPositionIdentifier": number + 1})
        paths = build.write(series, tmp_path, uids, f"T{number}")
        if number:
            paths[4].unlink()
    found = findings(tmp_path)
    assert [len(finding.frames) for finding in found] == [10, 9]
    assert reason(tmp_path) == "gap"


def test_stacks_apart_from_one_another_are_split_by_acquisition(tmp_path):
    uids = build.new_uids()
    chest, legs = build.Series(), build.Series(first_mm=(-30, 12.5, -400), seed=1, tags={"AcquisitionNumber": 2})
    build.write(chest, tmp_path, uids, "A")
    build.write(legs, tmp_path, uids, "B")
    assert [volume.shape[0] for volume in volumes(tmp_path)] == [7, 7]


def test_grouping_does_not_depend_on_file_order(tmp_path):
    repeats(tmp_path, 3, TemporalPositionIdentifier=lambda n: n + 1)
    frames = [frame for finding in findings(tmp_path) for frame in finding.frames]
    names = [[frame.sop_uid for frame in group.frames] for group in group_frames(frames)]
    again = [[frame.sop_uid for frame in group.frames] for group in group_frames(frames[::-1])]
    assert names == again
