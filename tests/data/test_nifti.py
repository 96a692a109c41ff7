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


def _saved(path, qform, sform, codes=(1, 1), kind=nibabel.Nifti1Image, dtype=np.float32):
    image = kind(some_array(shape=(6, 5, 4)).astype(dtype), sform)
    image.set_qform(qform, codes[0])
    image.set_sform(sform, codes[1])
    nibabel.save(image, path)


def test_disagreeing_qform_and_sform_are_told(tmp_path):
    moved = np.diag([1.0, 2, 3, 1])
    moved[0, 3] = 1.5
    _saved(tmp_path / "v.nii", np.diag([1.0, 2, 3, 1]), moved)
    volume = read_volume(tmp_path / "v.nii")
    np.testing.assert_allclose(volume.affine, moved)
    assert volume.meta["warnings"] == ["qform and sform place voxels up to 1.50 mm apart; the sform is used"]


@pytest.mark.parametrize(("codes", "used"), [((1, 0), "qform"), ((0, 2), "sform"), ((1, 4), "sform")])
@pytest.mark.interop("read", "NIfTI, qform and sform", "nibabel")
def test_sform_comes_before_qform(tmp_path, codes, used):
    qform, sform = np.diag([1.0, 2, 3, 1]), np.diag([1.0, 2, 3, 1]) + np.eye(4, k=3) * 7
    _saved(tmp_path / "v.nii", qform, sform, codes)
    volume = read_volume(tmp_path / "v.nii")
    np.testing.assert_allclose(volume.affine, {"qform": qform, "sform": sform}[used])
    np.testing.assert_allclose(volume.affine, nibabel.load(tmp_path / "v.nii").affine)
    assert bool(volume.meta["warnings"]) == (0 not in codes)


def test_agreeing_forms_give_no_warning(tmp_path):
    write_volume(tmp_path / "v.nii", some_array(), AFFINE)
    assert read_volume(tmp_path / "v.nii").meta["warnings"] != []  # a sheared sform has no exact qform
    _saved(tmp_path / "w.nii", np.diag([1.0, 2, 3, 1]), np.diag([1.0, 2, 3, 1]))
    assert read_volume(tmp_path / "w.nii").meta["warnings"] == []


@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", ">i2", "<u2", ">i4", "<i8", ">f4", "<f8"])
@pytest.mark.parametrize(
    ("kind", "packed"),
    [(nibabel.Nifti1Image, ""), (nibabel.Nifti1Image, ".gz"), (nibabel.Nifti2Image, ".gz"), (nibabel.Nifti1Pair, "")],
)
@pytest.mark.interop("read", "NIfTI-1, NIfTI-2, pairs, byte orders and types", "nibabel")
def test_types_byte_orders_and_forms(tmp_path, dtype, kind, packed):
    suffix = ".img" if kind is nibabel.Nifti1Pair else ".nii"
    dtype = np.dtype(dtype)
    array = (some_array(shape=(6, 5, 4)) * 20).astype(dtype)
    header = kind.header_class(endianness=">" if dtype.byteorder == ">" else "<")
    image = kind(array, np.diag([1.0, 2, 3, 1]), header)
    image.set_data_dtype(dtype)
    image.header.set_slope_inter(0.5, 3)
    path = tmp_path / f"v{suffix}{packed}"
    nibabel.save(image, path)
    expected = nibabel.load(path).get_fdata().astype(np.float32)
    volume = read_volume(path.with_suffix(".hdr") if kind is nibabel.Nifti1Pair else path)
    np.testing.assert_array_equal(volume.array_zyx.transpose(2, 1, 0), expected)
    np.testing.assert_allclose(volume.affine, np.diag([1.0, 2, 3, 1]))


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1000), ("micron", 0.001)])
def test_lengths_in_other_units(tmp_path, unit, factor):
    image = nibabel.Nifti1Image(some_array(shape=(6, 5, 4)), np.diag([1.0, 2, 3, 1]))
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "v.nii")
    volume = read_volume(tmp_path / "v.nii")
    assert volume.spacing_mm == pytest.approx((3 * factor, 2 * factor, factor))
    assert unit in volume.meta["warnings"][0]


def test_analyze_is_refused_by_name(tmp_path):
    nibabel.save(nibabel.AnalyzeImage(some_array(), np.eye(4)), tmp_path / "v.img")
    assert _reason(tmp_path / "v.hdr") == "undecodable"
    with pytest.raises(InputError, match="left and right cannot be told"):
        read_volume(tmp_path / "v.hdr")


def test_header_without_its_image(tmp_path):
    nibabel.save(nibabel.Nifti1Pair(some_array(), np.eye(4)), tmp_path / "v.img")
    (tmp_path / "v.img").unlink()
    assert _reason(tmp_path / "v.hdr") == "truncated"


def test_only_binary_headers_make_a_pair(tmp_path):
    (tmp_path / "bart.hdr").write_text("# Dimensions\n128 128 1\n")
    nibabel.save(nibabel.Nifti1Pair(some_array(), np.eye(4)), tmp_path / "v.img")
    assert nifti.is_pair(tmp_path / "v.hdr")
    assert not nifti.is_pair(tmp_path / "bart.hdr")


def test_four_dimensions_say_how_many_volumes(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 5, 9), np.float32), np.eye(4)), tmp_path / "v.nii")
    with pytest.raises(InputError, match="9 volumes"):
        read_volume(tmp_path / "v.nii")
