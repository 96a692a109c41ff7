"""Lossy JPEG with 12 bits a pixel (JPEG extended, process 4), as CT and MR images are kept, against dcmtk's decoder."""

import shutil
import subprocess

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate, generate_frames

from data.dicom_decode import ChildDecoder
from data.errors import InputError
from tests.data import dicom_builder as build
from tests.data.test_dicom import read_only_series

pytestmark = pytest.mark.oracle
ROWS, COLUMNS = 48, 64


def smooth(z):
    """Stored values (rows columns) of 12 bits, as a lossy coder can keep them."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    return (2000 + 1900 * np.sin(x / 9 + z) * np.cos(y / 7)).astype("<u2")


def packed_series(folder):
    """(paths of JPEG files in order of the slices, stored values (z y x) as dcmdjpeg decodes them)."""
    for tool in ("dcmcjpeg", "dcmdjpeg"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: apt-get install dcmtk")
    tags = {"BitsStored": 12, "HighBit": 11}
    paths = build.write(build.Series(rows=ROWS, columns=COLUMNS, tags=tags), folder)
    decoded = []
    for z, path in enumerate(paths):
        ds = pydicom.dcmread(path)
        ds.PixelData = smooth(z).tobytes()
        ds.save_as(path)
        other = folder.parent / "other.dcm"
        subprocess.run(["dcmcjpeg", "+ee", path, other], check=True, capture_output=True)
        other.replace(path)
        subprocess.run(["dcmdjpeg", path, other], check=True, capture_output=True)
        decoded.append(pydicom.dcmread(other).pixel_array)
        # dcmcjpeg writes a rescale of its own, which belongs to the values that it stores, without its type.
        build.edit(path, {"RescaleType": "HU"})
    assert pydicom.dcmread(paths[0]).file_meta.TransferSyntaxUID.name.startswith("JPEG Extended")
    return paths, np.stack(decoded)


@pytest.mark.interop("read", "DICOM, JPEG extended with 12 bits", "dcmdjpeg")
def test_twelve_bits_equal_dcmdjpeg(tmp_path, record_property):
    paths, stored = packed_series(tmp_path / "in")
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
    slope, intercept = ([float(ds[name].value) for ds in headers] for name in ("RescaleSlope", "RescaleIntercept"))
    expected = stored * np.reshape(slope, (-1, 1, 1)) + np.reshape(intercept, (-1, 1, 1))
    np.testing.assert_allclose(read_only_series(tmp_path / "in").array_zyx, expected, atol=1e-3)
    assert stored.max() > 3000
    original = np.stack([smooth(z) for z in range(len(stored))]) * build.SLOPE + build.INTERCEPT
    assert 0 < np.abs(expected - original).max() < 40 * build.SLOPE
    record_property("measured", "same values in every voxel")


def test_multiframe_planes_are_found(tmp_path):
    paths, stored = packed_series(tmp_path / "in")
    ds = pydicom.dcmread(paths[0])
    codes = [next(generate_frames(pydicom.dcmread(path).PixelData, number_of_frames=1)) for path in paths[:3]]
    ds.PixelData, ds.NumberOfFrames = encapsulate(codes), 3
    ds.save_as(tmp_path / "many.dcm")
    ds = pydicom.dcmread(tmp_path / "many.dcm")
    with ChildDecoder() as decoder:
        planes = [decoder.plane(tmp_path / "many.dcm", ds, index) for index in (2, 0, 1)]
    np.testing.assert_array_equal(planes, stored[[2, 0, 1]])


DAMAGE = {
    "cut": lambda code: code[: len(code) // 3],
    "eight bits": lambda code: code.replace(b"\xff\xc1\x00\x0b\x0c", b"\xff\xc1\x00\x0b\x08"),
    "taller": lambda code: code.replace(b"\x0c" + ROWS.to_bytes(2, "big"), b"\x0c" + (8 * ROWS).to_bytes(2, "big")),
}


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.hostile("damaged JPEG with 12 bits")
def test_damage_is_one_sentence(tmp_path, name):
    paths, _ = packed_series(tmp_path / "in")
    ds = pydicom.dcmread(paths[0])
    code = next(generate_frames(ds.PixelData, number_of_frames=1))
    damaged = DAMAGE[name](code)
    assert damaged != code
    ds.PixelData = encapsulate([damaged])
    ds.save_as(paths[0])
    with pytest.raises(InputError, match=r"cannot be decoded|another matrix") as caught:
        read_only_series(tmp_path / "in")
    assert str(paths[0]) in str(caught.value)


def test_signed_values_are_refused_by_name(tmp_path):
    paths, _ = packed_series(tmp_path / "in")
    for path in paths:
        build.edit(path, {"PixelRepresentation": 1})
    with pytest.raises(InputError, match="JPEG Extended") as caught:
        read_only_series(tmp_path / "in")
    assert "uncompressed" in caught.value.user_message
