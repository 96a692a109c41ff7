"""NRRD and MetaImage in, against SimpleITK and nibabel; what is refused, and what lies outside the folder."""

import bz2
import gzip
import zlib

import nibabel
import numpy as np
import pytest

from data import raw_array
from data.errors import InputError
from data.metaimage import read_metaimage
from data.nrrd import read_nrrd
from data.study import find_series
from data.volume import LPS_TO_RAS
from tests.data.dicom_builder import OBLIQUE

sitk = pytest.importorskip("SimpleITK", reason="SimpleITK, the oracle, is not installed: pip install SimpleITK")
FORMS = {
    "nrrd": read_nrrd, "gz.nrrd": read_nrrd, "nhdr": read_nrrd, "gz.nhdr": read_nrrd,
    "mha": read_metaimage, "z.mha": read_metaimage, "mhd": read_metaimage, "z.mhd": read_metaimage,
}  # fmt: skip


def image(dtype=np.int16, seed=0):
    array = (np.random.default_rng(seed).normal(size=(5, 6, 7)) * 50).astype(dtype)
    made = sitk.GetImageFromArray(array)
    made.SetSpacing((0.5, 0.75, 3.25))
    made.SetOrigin((12.5, -20, 33.25))
    rows, columns = np.array(OBLIQUE[:3]), np.array(OBLIQUE[3:])
    made.SetDirection(np.stack([rows, columns, np.cross(rows, columns)], axis=1).ravel().tolist())
    return made, array


def affine_of(made):
    affine = np.eye(4)
    affine[:3, :3] = np.array(made.GetDirection()).reshape(3, 3) * np.array(made.GetSpacing())
    affine[:3, 3] = made.GetOrigin()
    return LPS_TO_RAS @ affine


@pytest.mark.oracle
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.interop("read", "NRRD and MetaImage", "SimpleITK")
def test_equals_simpleitk(tmp_path, record_property, form, dtype):
    made, _ = image(dtype)
    path = tmp_path / f"v.{form}"
    sitk.WriteImage(made, str(path), useCompression="z." in form)
    volume = FORMS[form](path)
    again = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(volume.array_zyx, sitk.GetArrayFromImage(again).astype(np.float32))
    apart_mm = np.abs(volume.affine - affine_of(again)).max()
    record_property("measured", f"same values, affine {apart_mm:.0e} mm")
    assert apart_mm < 1e-6
    assert volume.meta == {"orientation": "known", "warnings": []}


@pytest.mark.oracle
@pytest.mark.interop("read", "NRRD and MetaImage beside their NIfTI", "nibabel")
@pytest.mark.parametrize("form", ["nrrd", "mha"])
def test_same_world_as_nifti(tmp_path, form):
    made, _ = image(np.float32)
    for name in (form, "nii.gz"):
        sitk.WriteImage(made, str(tmp_path / f"v.{name}"))
    expected = nibabel.load(tmp_path / "v.nii.gz")
    volume = FORMS[form](tmp_path / f"v.{form}")
    np.testing.assert_array_equal(volume.array_zyx.transpose(2, 1, 0), expected.get_fdata(dtype=np.float32))
    np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-5)


def nrrd(path, data, *fields):
    head = ["NRRD0004", *fields]
    path.write_bytes("\n".join(head).encode() + b"\n\n" + data)
    return path


PLAIN = ("type: short", "dimension: 3", "sizes: 4 3 2", "endian: little", "encoding: raw")
PLACED = ("space: right-anterior-superior", "space directions: (0,2,0) (3,0,0) (0,0,4)", "space origin: (1,2,3)")
VALUES = np.arange(24, dtype="<i2")


def test_nrrd_in_ras_keeps_its_axes(tmp_path):
    volume = read_nrrd(nrrd(tmp_path / "v.nrrd", VALUES.tobytes(), *PLAIN, *PLACED))
    np.testing.assert_array_equal(volume.array_zyx.ravel(), VALUES)
    expected = np.array([[0, 3, 0, 1], [2, 0, 0, 2], [0, 0, 4, 3], [0, 0, 0, 1.0]])
    np.testing.assert_array_equal(volume.affine, expected)


def test_nrrd_in_las_is_mirrored(tmp_path):
    fields = ("space: LAS", "space directions: (1,0,0) (0,1,0) (0,0,1)", "space origin: (5,6,7)")
    volume = read_nrrd(nrrd(tmp_path / "v.nrrd", VALUES.tobytes(), *PLAIN, *fields))
    np.testing.assert_array_equal(volume.affine, [[-1, 0, 0, -5], [0, 1, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("gzip", gzip.compress), ("bzip2", bz2.compress), ("text", lambda data: b" ".join(b"%d" % v for v in VALUES))],
)
def test_nrrd_encodings(tmp_path, encoding, pack):
    fields = [field for field in PLAIN if "encoding" not in field]
    path = nrrd(tmp_path / "v.nrrd", pack(VALUES.tobytes()), *fields, f"encoding: {encoding}", *PLACED)
    np.testing.assert_array_equal(read_nrrd(path).array_zyx.ravel(), VALUES)


def test_nrrd_big_endian_and_centimetres(tmp_path):
    fields = [field.replace("little", "big") for field in PLAIN]
    units = 'space units: "cm" "cm" "cm"'
    volume = read_nrrd(nrrd(tmp_path / "v.nrrd", VALUES.astype(">i2").tobytes(), *fields, *PLACED, units))
    np.testing.assert_array_equal(volume.array_zyx.ravel(), VALUES)
    assert volume.spacing_mm == (40, 30, 20)


def test_unknown_orientation_is_told(tmp_path):
    volume = read_nrrd(nrrd(tmp_path / "v.nrrd", VALUES.tobytes(), *PLAIN, "spacings: 1 2 3"))
    assert volume.meta["orientation"] == "unknown"
    assert "does not say how" in volume.meta["warnings"][0]
    text = b"NDims = 3\nDimSize = 4 3 2\nElementType = MET_SHORT\nElementSpacing = 1 2 3\nElementDataFile = LOCAL\n"
    (tmp_path / "v.mha").write_bytes(text + VALUES.tobytes())
    volume = read_metaimage(tmp_path / "v.mha")
    np.testing.assert_array_equal(volume.array_zyx.ravel(), VALUES)
    assert (volume.spacing_mm, volume.meta["orientation"]) == ((3, 2, 1), "unknown")


def _reason(read, path, **limits):
    with pytest.raises(InputError) as caught:
        read(path, **limits)
    assert str(path.parent) in caught.value.user_message
    return caught.value.reason


def _mha(path, data=b"", **changes):
    fields = {"NDims": "3", "DimSize": "4 3 2", "ElementType": "MET_SHORT", "CompressedData": "False"}
    fields |= changes
    local = fields.pop("ElementDataFile", "LOCAL")
    lines = [f"{key} = {value}" for key, value in [*fields.items(), ("ElementDataFile", local)]]
    path.write_bytes("\n".join(lines).encode() + b"\n" + data)
    return path


BAD_NRRD = {
    "sizes": ({"sizes": "sizes: 40 3 2"}, "truncated"),
    "many": ({"dimension": "dimension: 4", "sizes": "sizes: 4 3 2 5"}, "not-3d"),
    "negative": ({"sizes": "sizes: 4 -3 2"}, "too-large"),
    "huge": ({"sizes": "sizes: 99999 99999 99999"}, "too-large"),
    "type": ({"type": "type: block"}, "undecodable"),
    "encoding": ({"encoding": "encoding: hex"}, "undecodable"),
    "endian": ({"endian": "endian: middle"}, "undecodable"),
    "nan": ({"space directions": "space directions: (nan,0,0) (0,1,0) (0,0,1)"}, "geometry"),
    "singular": ({"space directions": "space directions: (1,0,0) (1,0,0) (0,0,1)"}, "geometry"),
    "origin": ({"space origin": "space origin: (inf,0,0)"}, "geometry"),
    "vector": ({"kinds": "kinds: vector domain domain"}, "not-scalar"),
    "skip": ({"line skip": "line skip: 3"}, "undecodable"),
    "absolute": ({"data file": "data file: /etc/hostname"}, "outside"),
    "above": ({"data file": "data file: ../secret.raw"}, "outside"),
    "gone": ({"data file": "data file: gone.raw"}, "truncated"),
    "list": ({"data file": "data file: LIST"}, "undecodable"),
}


@pytest.mark.hostile("NRRD header with claims that do not hold")
@pytest.mark.parametrize("name", BAD_NRRD)
def test_bad_nrrd(tmp_path, name):
    changes, reason = BAD_NRRD[name]
    fields = {field.partition(":")[0]: field for field in (*PLAIN, *PLACED)} | changes
    path = nrrd(tmp_path / "v.nrrd", VALUES.tobytes(), *fields.values())
    assert _reason(read_nrrd, path) == reason


BAD_MHA = {
    "short": ({"DimSize": "40 3 2"}, "truncated"),
    "text": ({"DimSize": "four"}, "undecodable"),
    "colour": ({"ElementNumberOfChannels": "3"}, "not-scalar"),
    "type": ({"ElementType": "MET_STRING"}, "undecodable"),
    "flat": ({"DimSize": "4 6"}, "not-3d"),
    "nan": ({"ElementSpacing": "1 nan 1"}, "geometry"),
    "singular": ({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, "geometry"),
    "few": ({"Offset": "1 2"}, "geometry"),
    "absolute": ({"ElementDataFile": "/etc/hostname"}, "outside"),
    "above": ({"ElementDataFile": "../secret.raw"}, "outside"),
    "not-packed": ({"CompressedData": "True"}, "undecodable"),
    "pattern": ({"ElementDataFile": "v%03d.raw 1 9 1"}, "undecodable"),
}


@pytest.mark.hostile("MetaImage header with claims that do not hold")
@pytest.mark.parametrize("name", BAD_MHA)
def test_bad_metaimage(tmp_path, name):
    changes, reason = BAD_MHA[name]
    assert _reason(read_metaimage, _mha(tmp_path / "v.mha", VALUES.tobytes(), **changes)) == reason


@pytest.mark.hostile("gzip and bzip2 bombs behind NRRD and MetaImage headers")
def test_bombs_unpack_no_further_than_the_volume(tmp_path, monkeypatch):
    monkeypatch.setattr(raw_array, "CHUNK_BYTES", 2**12)
    zeros = bytes(2**26)
    fields = [field for field in PLAIN if "encoding" not in field]
    for encoding, pack in (("gzip", gzip.compress), ("bzip2", bz2.compress)):
        path = nrrd(tmp_path / "v.nrrd", pack(zeros), *fields, f"encoding: {encoding}", *PLACED)
        assert read_nrrd(path).array_zyx.size == 24
    path = _mha(tmp_path / "v.mha", zlib.compress(zeros), CompressedData="True")
    assert read_metaimage(path).array_zyx.size == 24
    assert _reason(read_metaimage, path, max_voxels=23) == "too-large"


@pytest.mark.hostile("link out of the study beside a detached header")
def test_link_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "secret.raw").write_bytes(VALUES.tobytes())
    study = tmp_path / "study"
    study.mkdir()
    (study / "v.raw").symlink_to(tmp_path / "secret.raw")
    assert _reason(read_metaimage, _mha(study / "v.mhd", ElementDataFile="v.raw")) == "outside"


def test_detached_files_belong_to_their_header(tmp_path):
    made, _ = image()
    for form in ("nhdr", "mhd"):
        (tmp_path / form).mkdir()
        sitk.WriteImage(made, str(tmp_path / form / f"v.{form}"))
    findings = find_series(tmp_path)
    assert [finding.kind for finding in findings] == ["metaimage", "nrrd"]
    suffixes = [sorted(path.suffix for path in finding.files) for finding in findings]
    assert suffixes == [[".mhd", ".raw"], [".nhdr", ".raw"]]
