"""Hostile NIfTI, NRRD and MetaImage: each function writes what it is called after into a study folder."""

import gzip
import struct
import zlib
from pathlib import Path

import nibabel
import numpy as np

from tests.robustness.hostile import MB, attack, zeros_deflated


def nifti(study: Path, name: str = "volume.nii", **fields) -> bytes:
    """Write a small volume and set header fields afterwards; its bytes."""
    study.mkdir(exist_ok=True)
    array = np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32)
    image = nibabel.Nifti1Image(array, np.diag([2.0, 2, 2, 1]))
    image.set_qform(image.affine, 1)
    content = bytearray(image.to_bytes())
    header = np.frombuffer(content, nibabel.nifti1.header_dtype, 1)
    for key, value in fields.items():
        header[key] = value
    packed = gzip.compress(bytes(content)) if name.endswith(".gz") else bytes(content)
    (study / name).write_bytes(packed)
    return bytes(content)


@attack("gzip bomb in a NIfTI", "")
def nifti_gzip_bomb(study: Path) -> None:
    content = nifti(study, dim=(3, 2000, 2000, 1000, 1, 1, 1, 1), datatype=2, bitpix=8)
    header = gzip.compress(content[:352])
    (study / "volume.nii").unlink()
    (study / "volume.nii.gz").write_bytes(header + zeros_deflated(4000, gzipped=True)[: 3 * MB])


@attack("NIfTI that claims more voxels than its file can hold", "ends too early")
def nifti_claims(study: Path) -> None:
    nifti(study, dim=(3, 900, 900, 900, 1, 1, 1, 1))


@attack("NIfTI of a few bytes, gzipped, that claims 700 million voxels", "ends too early")
def nifti_gz_claims(study: Path) -> None:
    nifti(study, "volume.nii.gz", dim=(3, 900, 900, 900, 1, 1, 1, 1))


for _label, _fields in {
    "32767 x 32767 x 32767 voxels": {"dim": (3, 32767, 32767, 32767, 1, 1, 1, 1)},
    "a negative dimension": {"dim": (3, -8, 8, 8, 1, 1, 1, 1)},
    "no dimension": {"dim": (0, 0, 0, 0, 0, 0, 0, 0)},
    "9 dimensions": {"dim": (9, 8, 8, 8, 1, 1, 1, 1)},
    "a NaN affine": {"srow_x": (np.nan, 0, 0, 0)},
    "an infinite affine": {"srow_y": (0, np.inf, 0, 0)},
    "a singular affine": {"srow_z": (0, 0, 0, 0)},
    "a denormal affine": {"srow_x": (1e-42, 0, 0, 0)},
    "a NaN slope": {"scl_slope": np.nan},
    "an infinite slope": {"scl_slope": np.inf},
    "voxels at byte 1e30": {"vox_offset": 1e30},
    "voxels at a NaN": {"vox_offset": np.nan},
    "an unknown type": {"datatype": 1234},
    "complex voxels": {"datatype": 32, "bitpix": 64},
}.items():
    _expected = "taken" if "slope" in _label else ""
    attack(f"NIfTI with {_label}", _expected)(lambda study, fields=_fields: nifti(study, **fields))


@attack("NIfTI of NaN and infinite voxels", "not finite")
def nifti_nan(study: Path) -> None:
    study.mkdir()
    array = np.full((8, 8, 8), np.nan, np.float32)
    array[0] = np.inf
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), study / "volume.nii.gz")


@attack("NIfTI extension that claims 2 GB", "")
def nifti_extension(study: Path) -> None:
    content = nifti(study)
    extension = struct.pack("<ii", 2**31 - 16, 4) + bytes(8)
    (study / "volume.nii").write_bytes(content[:348] + b"\1\0\0\0" + extension + content[352:])


def nrrd(study: Path, *lines: str, data: bytes = b"") -> None:
    study.mkdir()
    (study / "volume.nrrd").write_bytes("\n".join(["NRRD0004", *lines, "", ""]).encode() + data)


NRRD = ("type: float", "dimension: 3", "sizes: 8 8 8", "endian: little", "space: left-posterior-superior",
         "space directions: (1,0,0) (0,1,0) (0,0,1)", "space origin: (0,0,0)")  # fmt: skip


@attack("NRRD whose data file is /etc/passwd by a path upwards", "")
def nrrd_traversal(study: Path) -> None:
    nrrd(study, "type: uchar", "dimension: 3", "sizes: 8 8 8", "encoding: raw", "data file: ../../../../etc/passwd")


@attack("NRRD whose data file is an absolute path", "")
def nrrd_absolute(study: Path) -> None:
    nrrd(study, "type: uchar", "dimension: 3", "sizes: 8 8 8", "encoding: raw", "data file: /etc/passwd")


@attack("NRRD that lists a billion data files", "many files")
def nrrd_list(study: Path) -> None:
    nrrd(study, *NRRD, "encoding: raw", "data file: part%09d.raw 1 999999999 1 2")


@attack("gzip bomb in an NRRD", "")
def nrrd_bomb(study: Path) -> None:
    nrrd(study, *NRRD, "encoding: gzip", data=zeros_deflated(3000, gzipped=True))


@attack("NRRD that claims 4e18 voxels", "")
def nrrd_claims(study: Path) -> None:
    lines = [line.replace("8 8 8", "2000000 2000000 1000000") for line in NRRD]
    nrrd(study, *lines, "encoding: raw", data=bytes(2048))


@attack("NRRD with NaN directions", "")
def nrrd_nan(study: Path) -> None:
    lines = [line.replace("(1,0,0)", "(nan,0,0)") for line in NRRD]
    nrrd(study, *lines, "encoding: raw", data=bytes(2048))


def meta(study: Path, data: bytes = b"", **keys: str) -> None:
    study.mkdir()
    fields = {"NDims": "3", "DimSize": "8 8 8", "ElementType": "MET_FLOAT", "ElementSpacing": "1 1 1"} | keys
    fields["ElementDataFile"] = fields.pop("ElementDataFile", "LOCAL")
    text = "".join(f"{key} = {value}\n" for key, value in fields.items())
    (study / "volume.mha").write_bytes(text.encode() + data)


attack("MetaImage whose data file is /etc/passwd by a path upwards")(
    lambda study: meta(study, ElementDataFile="../../../../../etc/passwd")
)
attack("MetaImage that claims 1e18 voxels")(lambda study: meta(study, DimSize="1000000 1000000 1000000"))
attack("MetaImage with an infinite spacing")(lambda study: meta(study, bytes(2048), ElementSpacing="inf 1 1"))
attack("MetaImage with a number of 100,000 digits")(lambda study: meta(study, DimSize="8 8 " + "9" * 100_000))
attack("deflate bomb in a MetaImage")(
    lambda study: meta(study, zlib.compress(b"")[:2] + zeros_deflated(3000), CompressedData="True")
)
