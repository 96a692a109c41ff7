"""NIfTI in and out against nibabel and closed-form geometry."""

import gzip

import nibabel
import numpy as np
import pytest

from data import nifti
from data.errors import InputError
from data.nifti import read_volume, write_volume
from data.volume import Volume, slab, to_closest_ras

AFFINE = np.array([[0.0, -2.0, 0.3, 5.0], [1.5, 0.1, 0.0, -7.0], [0.0, 0.2, -3.0, 11.0], [0, 0, 0, 1.0]])


def some_array(seed=0, shape=(4, 5, 6)):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def world_of_values(volume):
    """Every voxel's value with its place, in an order that does not depend on the axes."""
    z, y, x = np.indices(volume.shape).reshape(3, -1)
    places = (volume.affine @ np.stack([x, y, z, np.ones_like(x)]))[:3].T.round(4)
    return {(*place, value) for place, value in zip(places.tolist(), volume.array_zyx.ravel().tolist(), strict=True)}


def test_round_trip(tmp_path):
    array = some_array()
    write_volume(tmp_path / "v.nii.gz", array, AFFINE)
    volume = read_volume(tmp_path / "v.nii.gz")
    np.testing.assert_array_equal(volume.array_zyx, array)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)
    lengths = np.linalg.norm(AFFINE[:3, :3], axis=0)
    assert volume.spacing_mm == pytest.approx(lengths[::-1], abs=1e-5)


def test_header_says_what_viewers_need(tmp_path):
    write_volume(tmp_path / "v.nii.gz", some_array(), np.diag([1.0, 2, 3, 1]), np.float32, "x" * 200)
    header = nibabel.load(tmp_path / "v.nii.gz").header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (1, 1)
    assert header.get_xyzt_units()[0] == "mm"
    assert header.get_data_shape() == (6, 5, 4)
    np.testing.assert_allclose(header.get_qform(), np.diag([1.0, 2, 3, 1]), atol=1e-6)


def test_same_bytes_every_time(tmp_path):
    for name in ("a", "b"):
        write_volume(tmp_path / f"{name}.nii.gz", some_array(), AFFINE)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_integers_are_rounded_and_clipped(tmp_path):
    array = np.array([[[-40000.0, -1.6, 0.4, 99999.0]]])
    write_volume(tmp_path / "v.nii", array, np.eye(4), np.int16)
    np.testing.assert_array_equal(read_volume(tmp_path / "v.nii").array_zyx, [[[-32768, -2, 0, 32767]]])


def test_scale_factors_are_applied(tmp_path):
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(0.5, -3)
    nibabel.save(image, tmp_path / "v.nii")
    expected = np.asarray(nibabel.load(tmp_path / "v.nii").get_fdata())
    np.testing.assert_allclose(read_volume(tmp_path / "v.nii").array_zyx, expected.transpose(2, 1, 0))


def test_closest_ras_moves_no_value(tmp_path):
    write_volume(tmp_path / "v.nii", some_array(), AFFINE)
    stored, turned = read_volume(tmp_path / "v.nii"), read_volume(tmp_path / "v.nii", closest_ras=True)
    assert nibabel.aff2axcodes(turned.affine) == ("R", "A", "S")
    assert world_of_values(stored) == world_of_values(turned)


def test_closest_ras_in_memory():
    volume = Volume.from_affine(some_array(), AFFINE)
    turned = to_closest_ras(volume)
    assert nibabel.aff2axcodes(turned.affine) == ("R", "A", "S")
    assert world_of_values(volume) == world_of_values(turned)


def test_slab_keeps_places():
    volume = Volume.from_affine(some_array(), AFFINE)
    part = slab(volume, 1, 3)
    assert part.shape == (2, 5, 6)
    assert world_of_values(part) < world_of_values(volume)
    with pytest.raises(ValueError, match="not within"):
        slab(volume, 1, 5)


def test_unknown_orientation_is_told(tmp_path):
    nibabel.save(nibabel.Nifti1Image(some_array(), None), tmp_path / "v.nii")
    assert read_volume(tmp_path / "v.nii").meta["orientation"] == "unknown"


def _reason(path):
    with pytest.raises(InputError) as caught:
        read_volume(path)
    assert str(path) in caught.value.user_message
    return caught.value.reason


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
def test_truncated(tmp_path, name):
    path = tmp_path / name
    write_volume(path, some_array(shape=(20, 20, 20)), AFFINE)
    path.write_bytes(path.read_bytes()[:-5000])
    assert _reason(path) == "truncated"


def test_garbage_and_missing(tmp_path):
    (tmp_path / "v.nii.gz").write_bytes(gzip.compress(b"not an image" * 100))
    (tmp_path / "w.nii.gz").write_bytes(b"not even gzip")
    assert _reason(tmp_path / "v.nii.gz") == "undecodable"
    assert _reason(tmp_path / "w.nii.gz") == "undecodable"
    assert _reason(tmp_path / "none.nii") == "missing"


def test_shapes_and_types(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 5, 2), np.float32), np.eye(4)), tmp_path / "4d.nii")
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 5, 1), np.float32), np.eye(4)), tmp_path / "3d.nii")
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 5), np.complex64), np.eye(4)), tmp_path / "complex.nii")
    assert _reason(tmp_path / "4d.nii") == "not-3d"
    assert read_volume(tmp_path / "3d.nii").shape == (5, 4, 3)
    assert _reason(tmp_path / "complex.nii") == "not-scalar"


def test_size_is_checked_before_reading(tmp_path, monkeypatch):
    write_volume(tmp_path / "v.nii.gz", some_array(), AFFINE)
    monkeypatch.setattr(nifti, "MAX_VOXELS", 100)
    assert _reason(tmp_path / "v.nii.gz") == "too-large"
