"""Image files that lie or attack: one sentence, little memory, no crash, for every reader of images."""

import contextlib
import gzip
import struct
import tracemalloc

import nibabel
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from data.dicom_codestream import coded_matrix
from data.dicom_frames import read_frames
from data.dicom_pixels import read_pixels
from data.errors import InputError
from data.metaimage import read_metaimage
from data.nifti import read_volume, write_volume
from data.nrrd import read_nrrd
from data.study import find_series
from tests.data import dicom_builder as build
from tests.data.test_dicom import read_only_series

LITTLE_MEMORY = 64 * 2**20


def reason(read, *arguments, **named):
    with pytest.raises(InputError) as caught:
        read(*arguments, **named)
    assert "\n" not in caught.value.user_message
    return caught.value.reason


def dicom(folder, **tags):
    paths = build.write(build.Series(), folder)
    for path in paths:
        build.edit(path, tags)
    return paths


NUMBERS = {
    "position nan": ({"ImagePositionPatient": ["nan", "0", "0"]}, "geometry"),
    "position infinite": ({"ImagePositionPatient": ["1", "inf", "0"]}, "geometry"),
    "position far away": ({"ImagePositionPatient": ["1", "0", "1e30"]}, "geometry"),
    "position of two": ({"ImagePositionPatient": ["1", "0"]}, "geometry"),
    "orientation nan": ({"ImageOrientationPatient": ["nan"] * 6}, "geometry"),
    "orientation zero": ({"ImageOrientationPatient": ["0"] * 6}, "geometry"),
    "orientation skewed": ({"ImageOrientationPatient": ["1", "0", "0", "0.6", "0.8", "0"]}, "geometry"),
    "spacing zero": ({"PixelSpacing": ["0", "1"]}, "geometry"),
    "spacing negative": ({"PixelSpacing": ["-1", "1"]}, "geometry"),
    "slope infinite": ({"RescaleSlope": "inf"}, "nan"),
    "intercept nan": ({"RescaleIntercept": "nan"}, "nan"),
    "frames": ({"NumberOfFrames": "2000000000"}, "too-large"),
    "some frames": ({"NumberOfFrames": "7"}, "no-geometry"),
    "rows": ({"Rows": 65535, "Columns": 65535}, "too-large"),
    "bits": ({"BitsAllocated": 64}, "truncated"),
    "no bits": ({"BitsAllocated": None}, "undecodable"),
}


@pytest.mark.hostile("NaN, infinite and absurd numbers in DICOM headers")
@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_in_headers(tmp_path, name):
    tags, expected = NUMBERS[name]
    with pydicom.config.disable_value_validation():
        dicom(tmp_path, **tags)

    def read():
        for finding in find_series(tmp_path):
            if finding.error is not None:
                raise finding.error
        read_only_series(tmp_path)

    assert reason(read) == expected


def nested(levels):
    innermost = Dataset()
    innermost.CodeValue = "x"
    for _ in range(levels):
        outer = Dataset()
        outer.ReferencedSeriesSequence = [innermost]
        innermost = outer
    return innermost


def _undefined_length_nest(levels):
    """Explicit little endian: sequences of undefined length one inside the other, as bytes."""
    start = struct.pack("<HH2sHI", 0x0008, 0x1115, b"SQ", 0, 0xFFFFFFFF)
    start += struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    end = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return start * levels + end * levels


@pytest.mark.hostile("100,000 nested sequences in a DICOM header")
@pytest.mark.parametrize("levels", [50, 100_000])
def test_nested_sequences(tmp_path, levels):
    (path,) = build.write(build.Series(slices=1), tmp_path)
    raw = path.read_bytes()
    at = raw.index(struct.pack("<HH", 0x0010, 0x0010))
    path.write_bytes(raw[:at] + _undefined_length_nest(levels) + raw[at:])
    if levels == 50:
        assert len(read_frames(path)) == 1
    else:
        assert reason(read_frames, path) == "undecodable"


@pytest.mark.hostile("DICOM element that claims 4 GB")
def test_claimed_element_length(tmp_path):
    (path,) = build.write(build.Series(slices=1), tmp_path)
    raw = path.read_bytes()
    at = raw.index(struct.pack("<HH", 0x0010, 0x0010))
    path.write_bytes(raw[:at] + struct.pack("<HH2sHI", 0x0009, 0x1001, b"OB", 0, 0xFFFFFFF0) + raw[at:])
    assert _little_memory(lambda: reason(read_frames, path)) in ("undecodable", "truncated")


def _little_memory(call):
    tracemalloc.start()
    try:
        result = call()
        assert tracemalloc.get_traced_memory()[1] < LITTLE_MEMORY
    finally:
        tracemalloc.stop()
    return result


@pytest.mark.hostile("JPEG and JPEG 2000 codestreams that claim another matrix than the DICOM header")
@pytest.mark.parametrize("code", ["jpeg", "jpeg-ls", "jpeg 2000"])
def test_codestream_matrix(tmp_path, code):
    size = struct.pack(">HH", 65500, 65500)
    body = {
        "jpeg": b"\xff\xd8\xff\xe0\x00\x04ab\xff\xc3\x00\x0b\x10" + size + b"\x01\x01\x11\x00",
        "jpeg-ls": b"\xff\xd8\xff\xf7\x00\x0b\x10" + size + b"\x01\x01\x11\x00",
        "jpeg 2000": b"\xff\x4f\xff\x51\0\x29\0\0" + struct.pack(">6I", 65500, 65500, *[0] * 4) + bytes(8) + b"\0\1",
    }[code]
    assert coded_matrix(body) == (65500, 65500, 1)
    syntax = {"jpeg": "70", "jpeg-ls": "80", "jpeg 2000": "90"}[code]
    (path,) = build.write(build.Series(slices=1), tmp_path)
    ds = pydicom.dcmread(path)
    ds.PixelData = pydicom.encaps.encapsulate([body + bytes(200)])
    ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = f"1.2.840.10008.1.2.4.{syntax}"
    ds.save_as(path)
    frames = tuple(read_frames(path))
    assert _little_memory(lambda: reason(read_pixels, frames)) == "undecodable"


@pytest.mark.hostile("DICOM file far longer than its image")
def test_file_longer_than_its_image(tmp_path, monkeypatch):
    monkeypatch.setattr("data.dicom_pixels.MAX_EXTRA_BYTES", 1000)
    (path,) = build.write(build.Series(slices=1), tmp_path)
    with path.open("ab") as handle:
        handle.write(bytes(10_000))
    assert reason(read_pixels, tuple(read_frames(path))) == "too-large"


def nifti(path, **fields):
    write_volume(path, np.random.default_rng(0).normal(size=(4, 5, 6)), np.diag([1.0, 2, 3, 1]))
    raw = bytearray(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
    header = nibabel.Nifti1Header(bytes(raw[:348]), check=False)
    for key, value in fields.items():
        header[key] = value
    raw[:348] = header.binaryblock
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


HEADERS = {
    "huge": ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, "too-large"),
    "large": ({"dim": [3, 600, 500, 600, 1, 1, 1, 1]}, "truncated"),
    "negative": ({"dim": [3, -6, 5, 4, 1, 1, 1, 1]}, "too-large"),
    "zero": ({"dim": [3, 0, 5, 4, 1, 1, 1, 1]}, "too-large"),
    "dimensions": ({"dim": [7, 6, 5, 4, 2, 2, 2, 2]}, "not-3d"),
    "sform nan": ({"srow_x": [np.nan, 0, 0, 0]}, "geometry"),
    "sform singular": ({"srow_x": [0, 2, 0, 0]}, "geometry"),
    "origin infinite": ({"srow_x": [1, 0, 0, np.inf]}, "geometry"),
    "offset": ({"vox_offset": 2e9}, "undecodable"),
    "offset nan": ({"vox_offset": np.nan}, "undecodable"),
    "type": ({"datatype": 9999}, "undecodable"),
    "rgb": ({"datatype": 128, "bitpix": 24}, "not-scalar"),
}


@pytest.mark.hostile("NIfTI header with claims that do not hold")
@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
@pytest.mark.parametrize("name", HEADERS)
def test_nifti_headers(tmp_path, name, suffix):
    fields, expected = HEADERS[name]
    path = nifti(tmp_path / f"v.{suffix}", **fields)
    assert _little_memory(lambda: reason(read_volume, path)) == expected


@pytest.mark.hostile("gzip bomb in a NIfTI")
def test_gzip_bomb(tmp_path):
    path = nifti(tmp_path / "v.nii.gz")
    raw = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(raw + bytes(2**28)))
    assert _little_memory(lambda: read_volume(path)).shape == (4, 5, 6)
    path.write_bytes(gzip.compress(raw[:108] + struct.pack("<f", 2.0**28) + raw[112:352] + bytes(2**28)))
    assert _little_memory(lambda: reason(read_volume, path)) == "undecodable"


@pytest.mark.hostile("gzip bomb as a NIfTI header extension")
def test_extension_bomb(tmp_path):
    path = nifti(tmp_path / "v.nii.gz", vox_offset=float(2**26 + 2**20))
    assert reason(read_volume, path) == "undecodable"


FILES = {}


def _example(tmp_path_factory, form):
    if form not in FILES:
        folder = tmp_path_factory.mktemp("seeds")
        array = np.random.default_rng(0).integers(-900, 900, (4, 5, 6)).astype(np.int16)
        if form == "dicom":
            path = build.write(build.Series(slices=1, rows=4, columns=5), folder)[0]
        elif form == "nii":
            path = folder / "v.nii"
            write_volume(path, array, np.eye(4), np.int16)
        else:
            sitk = pytest.importorskip("SimpleITK")
            path = folder / f"v.{form}"
            sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
        FILES[form] = path.read_bytes()
    return FILES[form]


def _read_dicom(path):
    described = read_frames(path)
    if isinstance(described, list):
        read_pixels(tuple(described))


READERS = {"dicom": _read_dicom, "nii": read_volume, "nrrd": read_nrrd, "mha": read_metaimage}


@pytest.mark.hostile("bytes changed, cut out or put in anywhere in an image file (hypothesis)")
@pytest.mark.parametrize("form", READERS)
def test_any_change_is_read_or_refused(tmp_path_factory, form):
    seed = _example(tmp_path_factory, form)
    path = tmp_path_factory.mktemp("changed") / f"v.{form}"
    places = st.integers(0, min(len(seed), 1500) - 1)
    edit = st.tuples(st.sampled_from("sci"), places, st.binary(min_size=1, max_size=8))

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
    @given(st.lists(edit, min_size=1, max_size=6))
    def read(changes):
        raw = bytearray(seed)
        for kind, at, data in changes:
            raw[at : at + (0 if kind == "i" else len(data))] = b"" if kind == "c" else data
        path.write_bytes(raw)
        with contextlib.suppress(InputError):
            READERS[form](path)

    read()


@pytest.mark.hostile("what the property tests found")
def test_findings(tmp_path):
    (path,) = build.write(build.Series(slices=1), tmp_path)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.9.1\0"))
    assert reason(read_pixels, tuple(read_frames(path))) == "compression"
    text = "DimSize = 4 3 2\nElementType = MET_SHORT\nElementDataFile = a\0b\n"
    (tmp_path / "v.mha").write_text(text)
    assert reason(read_metaimage, tmp_path / "v.mha") == "outside"
    volume = read_volume(nifti(tmp_path / "q.nii", quatern_b=2.0))
    assert volume.meta["warnings"] == ["qform and sform place voxels differently; the sform is used"]
    assert read_volume(nifti(tmp_path / "u.nii", xyzt_units=5)).spacing_mm == (3, 2, 1)
