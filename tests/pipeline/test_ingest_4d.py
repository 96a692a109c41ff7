"""4D NIfTI through ingest: one series a volume, under the policies that DICOM series in time have."""

import gzip
import json

import nibabel
import numpy as np
import pydicom
import pytest

from data.errors import InputError
from data.nifti import read_volume, volumes_in
from data.volume import to_closest_ras
from tests.data import dicom_builder as build
from tests.data.test_dicom import dcm2niix
from tests.pipeline.test_ingest import accepted, ingest, manifest

AFFINE = np.array([[0.0, -2.0, 0, 5], [1.5, 0, 0, -7], [0, 0, 3.0, 11], [0, 0, 0, 1.0]])


def some_4d(path, volumes=3, kind=nibabel.Nifti1Image, dtype=np.int16, shape=(6, 5, 4)):
    """Writes (x y z t) with scale factors; the array is also returned."""
    array = np.random.default_rng(0).integers(0, 900, (*shape, volumes)).astype(dtype)
    image = kind(array, AFFINE)
    if dtype is np.int16:
        image.header.set_slope_inter(0.5, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return array


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz", "v.img"])
@pytest.mark.interop("read", "NIfTI, 4D", "nibabel")
def test_each_volume_is_a_series(tmp_path, name):
    kind = nibabel.Nifti1Pair if name.endswith(".img") else nibabel.Nifti1Image
    some_4d(tmp_path / "study" / name, kind=kind)
    assert ingest(tmp_path / "study", tmp_path / "out", modality="mr") == 0
    rows = accepted(tmp_path / "out")
    assert [row["series"][:3] for row in rows] == ["vv1", "vv2", "vv3"]
    truth = nibabel.load(tmp_path / "study" / name)
    for number, row in enumerate(rows):
        volume = read_volume(tmp_path / "out" / row["series"] / "volume.nii.gz")
        oracle = nibabel.as_closest_canonical(truth.slicer[..., number])
        np.testing.assert_array_equal(to_closest_ras(volume).array_zyx.transpose(2, 1, 0), oracle.get_fdata())
        np.testing.assert_allclose(to_closest_ras(volume).affine, oracle.affine, atol=1e-5)
        assert row["warnings"][0] == f"volume {number + 1} of the 3 in the file"


@pytest.mark.oracle
@pytest.mark.interop("read", "NIfTI, 4D, made from DICOM", "dcm2niix")
def test_time_points_in_one_file_equal_those_in_dicom(tmp_path, record_property):
    uids = build.new_uids()
    for number in range(3):
        tags = {"TemporalPositionIdentifier": number + 1, "AcquisitionNumber": number + 1}
        tags |= {"AcquisitionTime": f"12000{number}"}
        series = build.Series("MR", build.OBLIQUE, seed=number, tags=tags)
        for z, path in enumerate(build.write(series, tmp_path / "in", uids, f"N{number}_")):
            ds = pydicom.dcmread(path)
            ds.InstanceNumber = number * series.slices + z + 1  # by which dcm2niix orders time points
            ds.save_as(path)
    assert dcm2niix(tmp_path / "in", tmp_path / "study").shape[3] == 3
    volumes = []
    for study, out in (("in", "a"), ("study", "b")):
        assert ingest(tmp_path / study, tmp_path / out, modality="mr") == 0
        rows = accepted(tmp_path / out)
        volumes.append([to_closest_ras(read_volume(tmp_path / out / row["series"] / "volume.nii.gz")) for row in rows])
    assert len(volumes[0]) == len(volumes[1]) == 3
    apart = [np.abs(one.affine - two.affine).max() for one, two in zip(*volumes)]
    for one, two in zip(*volumes):
        np.testing.assert_array_equal(one.array_zyx, two.array_zyx)
    assert max(apart) < 1e-4
    record_property("measured", f"same voxels, affine {max(apart):.0e} mm")


def test_more_volumes_than_allowed_are_a_series_in_time(tmp_path):
    some_4d(tmp_path / "study" / "bold.nii.gz", volumes=12)
    assert ingest(tmp_path / "study", tmp_path / "out", modality="mr", max_repeats=12) == 0
    rows = accepted(tmp_path / "out")
    assert len(rows) == 12
    assert [row["detail"] for row in rows] == [""] * 12
    assert [row["warnings"][0].split()[1] for row in rows] == [str(number) for number in range(1, 13)]
    some_4d(tmp_path / "study" / "t1.nii.gz", volumes=1)
    assert ingest(tmp_path / "study", tmp_path / "out", modality="mr") == 0
    left_out, taken = manifest(tmp_path / "out")["series"]
    assert (left_out["reason"], left_out["accepted"], taken["accepted"]) == ("time-series", False, True)
    assert "12 volumes in a file; ingest.max_repeats is 4" in left_out["detail"]
    assert taken["warnings"] == []


def test_repeats_can_be_refused(tmp_path, capsys):
    some_4d(tmp_path / "study" / "v.nii")
    assert ingest(tmp_path / "study", tmp_path / "out", modality="mr", on_repeat="fail") == 1
    said = capsys.readouterr().err
    assert "3 volumes in a file" in said
    assert "set ingest.on_repeat to split" in said
    assert not (tmp_path / "out").exists()


def test_slab_and_slice_direction_hold_for_every_volume(tmp_path):
    array = some_4d(tmp_path / "study" / "v.nii", dtype=np.float32)
    settings = {"modality": "mr", "slice_direction": "coronal", "slices": [1, 3]}
    assert ingest(tmp_path / "study", tmp_path / "out", **settings) == 0
    for number, row in enumerate(accepted(tmp_path / "out")):
        volume = read_volume(tmp_path / "out" / row["series"] / "volume.nii.gz")
        assert sorted(volume.array_zyx.ravel()) == sorted(array[1:3, ..., number].ravel())
        source = json.loads((tmp_path / "out" / row["series"] / "source.json").read_text())
        assert source["slice_direction"] == "coronal"


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
@pytest.mark.hostile("4D NIfTI that ends in its last volume")
def test_file_without_its_last_volume_is_refused(tmp_path, capsys, name):
    path = tmp_path / "study" / name
    some_4d(path, shape=(20, 20, 20))
    content = gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path.read_bytes()
    short = content[: -20 * 20 * 20 * 2]
    path.write_bytes(gzip.compress(short) if name.endswith(".gz") else short)
    assert ingest(tmp_path / "study", tmp_path / "out", modality="mr") == 1
    assert "ends too early" in capsys.readouterr().err


@pytest.mark.hostile("4D NIfTI that claims 30,000 volumes")
def test_claimed_volumes_cost_nothing(tmp_path):
    path = tmp_path / "study" / "v.nii"
    some_4d(path)
    content = bytearray(path.read_bytes())
    content[48:50] = (30_000).to_bytes(2, "little")
    path.write_bytes(content)
    assert volumes_in(path) == 30_000
    assert ingest(tmp_path / "study", tmp_path / "out", modality="mr", max_repeats=10_000) == 1
    with pytest.raises(InputError, match="ends too early"):
        read_volume(path, number=0)


def test_count_of_volumes_never_raises(tmp_path):
    (tmp_path / "bad.nii").write_bytes(b"no image" * 100)
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 5, 1, 3), np.float32), np.eye(4)), tmp_path / "vectors.nii")
    assert [volumes_in(tmp_path / name) for name in ("bad.nii", "vectors.nii", "missing.nii")] == [1, 1, 1]
    with pytest.raises(InputError, match="5 dimensions"):
        read_volume(tmp_path / "vectors.nii", number=0)
