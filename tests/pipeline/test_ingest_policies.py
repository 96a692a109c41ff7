"""What ingest writes down about what it did: gaps, tilt, repeats, slice direction, and forms beside DICOM."""

import json

import nibabel
import numpy as np
import pytest

from data.nifti import read_volume, write_volume
from tests.data import dicom_builder as build
from tests.pipeline.test_ingest import accepted, ingest, manifest

SERIES = build.Series()
TRUTH = SERIES.stored * build.SLOPE + build.INTERCEPT


def source(out, row):
    return json.loads((out / row["series"] / "source.json").read_text(encoding="utf-8"))


def volume(out, row):
    return read_volume(out / row["series"] / "volume.nii.gz")


def take(tmp_path, **settings):
    out = tmp_path / "out"
    assert ingest(tmp_path / "study", out, modality="ct", **settings) == 0
    return out, accepted(out)


def test_interpolated_slice_is_named_in_manifest_and_source(tmp_path):
    build.write(SERIES, tmp_path / "study")[3].unlink()
    out, (row,) = take(tmp_path, on_gap="interpolate")
    told = source(out, row)
    assert row["interpolated"] == told["interpolated"] == [3]
    assert [entry is None for entry in told["files"]] == [z == 3 for z in range(7)]
    assert len(told["planes"]) == 6
    assert any("interpolated" in warning for warning in row["warnings"])
    np.testing.assert_allclose(volume(out, row).array_zyx[3], (TRUTH[2] + TRUTH[4]) / 2, atol=0.01)


def test_slab_counts_interpolated_slices_from_its_own_start(tmp_path):
    build.write(SERIES, tmp_path / "study")[3].unlink()
    out, (row,) = take(tmp_path, on_gap="interpolate", slices=[2, 6])
    assert row["interpolated"] == [1]
    assert [entry is None for entry in source(out, row)["files"]] == [False, True, False, False]
    np.testing.assert_array_equal(volume(out, row).array_zyx[[0, 2, 3]], TRUTH[[2, 4, 5]])
    assert volume(out, row).affine[2, 3] == pytest.approx(SERIES.position(2)[2], abs=1e-4)


def test_parts_of_a_split_series_are_series(tmp_path):
    series = build.Series(slices=13)
    build.write(series, tmp_path / "study")[6].unlink()
    out, rows = take(tmp_path, on_gap="split")
    assert [row["slices"] for row in rows] == [6, 6]
    assert len({row["series"] for row in rows}) == 2
    assert all("cut at gaps into 2 parts" in row["warnings"] for row in rows)
    assert all(None not in source(out, row)["files"] for row in rows)


def test_resampled_volume_names_no_slice_as_a_file(tmp_path):
    build.write(build.Series(shift_mm=0.6), tmp_path / "study")
    out, (row,) = take(tmp_path, on_tilt="resample")
    told = source(out, row)
    assert row["resampled"] is told["resampled"] is True
    assert told["files"] == [None] * 7
    assert len(told["planes"]) == 7
    affine = volume(out, row).affine
    np.testing.assert_allclose(affine[:3, :3].T @ affine[:3, :3], np.diag([0.25, 0.5625, 6.25]), atol=1e-5)


@pytest.mark.parametrize(("direction", "slices"), [("axial", 7), ("coronal", 12), ("sagittal", 16)])
def test_slice_direction_is_chosen_and_recorded(tmp_path, direction, slices):
    build.write(SERIES, tmp_path / "study")
    out, (row,) = take(tmp_path, slice_direction=direction)
    told = source(out, row)
    assert (row["slice_direction"], row["slices"], told["slice_direction"]) == (direction, slices, direction)
    turned = volume(out, row)
    ras = np.linalg.inv(SERIES.affine_ras) @ turned.affine @ [3, 2, 1, 1]
    x, y, z = np.rint(ras[:3]).astype(int)
    assert turned.array_zyx[1, 2, 3] == TRUTH[z, y, x]
    if direction == "axial":
        assert None not in told["files"]
        assert row["warnings"] == []
    else:
        assert told["files"] == [None] * slices
        assert len(told["planes"]) == 7
        assert "set ingest.slice_direction to axial" in row["warnings"][0]


def test_slab_is_taken_in_the_chosen_direction(tmp_path):
    build.write(SERIES, tmp_path / "study")
    _, (row,) = take(tmp_path, slice_direction="coronal", slices=[2, 5])
    assert row["shape_zyx"] == [3, 7, 16]


@pytest.mark.parametrize("orientation", [build.SAGITTAL, build.CORONAL], ids=["sagittal", "coronal"])
def test_ct_that_is_not_axial_is_warned_of_and_can_be_turned(tmp_path, orientation):
    build.write(build.Series(orientation=orientation), tmp_path / "study")
    _, (row,) = take(tmp_path)
    assert "CT scanners measure axial" in row["warnings"][0]
    out, (row,) = take(tmp_path, slice_direction="axial")
    assert row["slice_direction"] == "axial"
    assert row["warnings"] == []
    series = build.Series(orientation=orientation)
    turned = volume(out, row)
    x, y, z = np.rint((np.linalg.inv(series.affine_ras) @ turned.affine @ [1, 2, 3, 1])[:3]).astype(int)
    assert turned.array_zyx[3, 2, 1] == series.stored[z, y, x] * build.SLOPE + build.INTERCEPT


def test_repeats_make_series_of_their_own_or_fail(tmp_path, capsys):
    uids = build.new_uids()
    for number in range(2):
        tags = {"AcquisitionNumber": number + 1}
        build.write(build.Series(seed=number, tags=tags), tmp_path / "study", uids, f"A{number}")
    _, rows = take(tmp_path)
    assert [row["warnings"] for row in rows] == [["told apart by acquisition"]] * 2
    assert ingest(tmp_path / "study", tmp_path / "again", modality="ct", on_repeat="fail") == 1
    assert "set ingest.on_repeat to split" in capsys.readouterr().err


def test_series_in_time_is_left_out_beside_another(tmp_path):
    uids = build.new_uids()
    for number in range(6):
        tags = {"TemporalPositionIdentifier": number + 1}
        build.write(build.Series(seed=number, tags=tags), tmp_path / "study", uids, f"T{number}")
    build.write(build.Series(seed=9), tmp_path / "study" / "other")
    out, rows = take(tmp_path)
    assert len(rows) == 1
    (left,) = [row for row in manifest(out)["series"] if not row["accepted"]]
    assert left["reason"] == "time-series"
    assert "ingest.max_repeats is 4" in left["detail"]
    _, rows = take(tmp_path, max_repeats=10)
    assert len(rows) == 7


def test_other_series_names_its_kind(tmp_path):
    import pydicom

    build.write(SERIES, tmp_path / "study")
    for path in build.write(build.Series(seed=1), tmp_path / "study" / "sc"):
        ds = pydicom.dcmread(path)
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        ds.save_as(path)
    out, _ = take(tmp_path)
    (left,) = [row for row in manifest(out)["series"] if not row["accepted"]]
    assert (left["reason"], left["files"]) == ("secondary-capture", 7)
    assert "Secondary Capture Image" in left["detail"]


def test_largest_volume_is_a_setting(tmp_path, capsys):
    write_volume(tmp_path / "study" / "v.nii.gz", np.random.default_rng(0).normal(size=(70, 70, 70)), np.eye(4))
    assert ingest(tmp_path / "study", tmp_path / "out", modality="mr", max_volume_gb=0.001) == 1
    assert "raise ingest.max_volume_gb" in capsys.readouterr().err
    assert ingest(tmp_path / "study", tmp_path / "out", modality="mr", max_volume_gb=0.002) == 0


def test_a_bar_for_many_files(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("data.study.FILES_WORTH_A_BAR", 5)
    build.write(SERIES, tmp_path / "study")
    take(tmp_path)
    assert "headers: 100%" in capsys.readouterr().err


def test_pair_of_header_and_image_is_one_series(tmp_path):
    array = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    (tmp_path / "study").mkdir()
    pair = nibabel.Nifti1Pair(array.transpose(2, 1, 0), np.diag([1.0, 2, 3, 1]))
    nibabel.save(pair, tmp_path / "study" / "v.img")
    assert ingest(tmp_path / "study", tmp_path / "out", modality="mr") == 0
    (row,) = accepted(tmp_path / "out")
    assert row["files"] == 2
    np.testing.assert_array_equal(volume(tmp_path / "out", row).array_zyx, array)


@pytest.mark.parametrize("suffix", ["nrrd", "mha"])
def test_nrrd_and_metaimage_are_taken(tmp_path, suffix):
    sitk = pytest.importorskip("SimpleITK")
    array = np.random.default_rng(0).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)
    made = sitk.GetImageFromArray(array)
    made.SetSpacing((1, 2, 3))
    (tmp_path / "study").mkdir()
    sitk.WriteImage(made, str(tmp_path / "study" / f"v.{suffix}"))
    out, (row,) = take(tmp_path)
    assert (row["kind"], row["slice_direction"], row["spacing_mm"]) == ("volume", "axial", [3, 2, 1])
    np.testing.assert_array_equal(volume(out, row).array_zyx, array[:, ::-1, ::-1])


def test_sagittal_nifti_stays_sagittal_unless_told(tmp_path):
    affine = np.array([[0.0, 0, 4, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    array = np.random.default_rng(0).normal(size=(5, 6, 7))
    write_volume(tmp_path / "study" / "v.nii", array, affine)
    assert ingest(tmp_path / "study", tmp_path / "out", modality="mr") == 0
    (row,) = accepted(tmp_path / "out")
    assert (row["slice_direction"], row["shape_zyx"]) == ("sagittal", [5, 6, 7])
    assert ingest(tmp_path / "study", tmp_path / "out", modality="mr", slice_direction="axial") == 0
    (row,) = accepted(tmp_path / "out")
    assert (row["slice_direction"], row["shape_zyx"]) == ("axial", [6, 7, 5])


def test_archives_are_named(tmp_path, capsys):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "export.zip").write_bytes(b"PK\3\4")
    assert ingest(tmp_path / "study", tmp_path / "out", modality="ct") == 1
    assert "archives such as export.zip: unpack them first" in capsys.readouterr().err
