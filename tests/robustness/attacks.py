"""Hostile files by name: each function writes what it is called after into a study folder."""

import gzip
import json
import os
import pickle
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pydicom
import scipy.io
import tifffile
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless

from tests.data.dicom_builder import dataset as ct_slice
from tests.data.dicom_builder import edit
from tests.robustness.stages import TINY, write_study

ATTACKS: dict[str, tuple[Callable[[Path], None], str, str]] = {}
TRAPPED = "trapped"
MB = 2**20
VIEWS = np.random.default_rng(0).uniform(size=(8, 16)).astype(np.float32)


def attack(name: str, expected: str = "", modality: str = "ct") -> Callable:
    """Register an attack. expected: a part of the sentence that refuses it, or "taken" where it must be read as usual
    nevertheless; "" for any sentence."""

    def register(write: Callable[[Path], None]) -> Callable[[Path], None]:
        ATTACKS[name] = (write, expected, modality)
        return write

    return register


class Trap:
    """Unpickling it makes a file called `trapped` in the working directory."""

    def __reduce__(self):
        return Path.touch, (Path(TRAPPED),)


def zeros_deflated(megabytes: int, gzipped: bool = False) -> bytes:
    """So many MB of zeros, deflated; made by repeating one flushed block."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packer.compress(bytes(MB))
    packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(MB)) + packer.flush(zlib.Z_FULL_FLUSH)
    head = b"\x1f\x8b\x08\0\0\0\0\0\0\xff" if gzipped else b""
    return head + block * megabytes + packer.flush()


def tiny_slices() -> list[Dataset]:
    uids = {"study": "1.2.3.1", "series": "1.2.3.2", "frame": "1.2.3.3"}
    return [ct_slice(TINY, z, uids) for z in range(TINY.slices)]


def save(dataset: Dataset, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


# DICOM


@attack("deflate bomb in a DICOM data set", "inflates to more than")
def dicom_deflate_bomb(study: Path) -> None:
    dataset = tiny_slices()[0]
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    save(dataset, study / "IM0")
    content = (study / "IM0").read_bytes()
    meta = 132 + 12 + int(pydicom.filereader.read_file_meta_info(study / "IM0").FileMetaInformationGroupLength)
    (study / "IM0").write_bytes(content[:meta] + zeros_deflated(1500))


@attack("sequences nested 10,000 deep in a DICOM file", "cannot be read as DICOM")
def dicom_nested_sequences(study: Path) -> None:
    dataset = tiny_slices()[0]
    dataset.RequestAttributesSequence = Sequence([Dataset()])
    save(dataset, study / "IM0")
    content = (study / "IM0").read_bytes()
    tag = struct.pack("<HH", 0x0040, 0x0275)
    at = content.index(tag)
    nested = (tag + b"SQ\0\0" + b"\xff" * 4 + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)) * 10_000
    (study / "IM0").write_bytes(content[:at] + nested + content[at:])


@attack("functional groups of a multiframe DICOM nested 10,000 deep", "cannot be read as DICOM")
def dicom_nested_groups(study: Path) -> None:
    dataset = tiny_slices()[0]
    dataset.SharedFunctionalGroupsSequence = Sequence([Dataset()])
    save(dataset, study / "IM0")
    content = (study / "IM0").read_bytes()
    tag = struct.pack("<HH", 0x5200, 0x9229)
    at = content.index(tag)
    nested = (tag + b"SQ\0\0" + b"\xff" * 4 + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)) * 10_000
    (study / "IM0").write_bytes(content[:at] + nested + content[at:])


@attack("DICOM that claims 65535 x 65535 pixels", "larger than is read")
def dicom_huge_matrix(study: Path) -> None:
    for path in write_study(study):
        edit(path, {"Rows": 65535, "Columns": 65535})


@attack("DICOM that claims more pixels than it has", "ends before its pixels do")
def dicom_short_pixels(study: Path) -> None:
    for path in write_study(study):
        edit(path, {"Rows": 64, "Columns": 64})


@attack("DICOM that claims 2,147,483,647 frames", "frames")
def dicom_many_frames(study: Path) -> None:
    for path in write_study(study):
        edit(path, {"NumberOfFrames": 2**31 - 1})


@attack("JPEG 2000 codestream of 60000 x 60000 in a small DICOM slice", "holds another matrix")
def dicom_codestream_bomb(study: Path) -> None:
    code = b"\xff\x4f\xff\x51" + struct.pack(">HHIIIIIIIIH", 41, 0, 60000, 60000, 0, 0, 60000, 60000, 0, 0, 1)
    code += bytes([15, 1, 1]) + b"\xff\xd9"
    for number, dataset in enumerate(tiny_slices()):
        dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
        dataset.PixelData = pydicom.encaps.encapsulate([code])
        dataset["PixelData"].is_undefined_length = True
        save(dataset, study / f"IM{number}")


@attack("DICOM element that claims 4 GB", "")
def dicom_element_length(study: Path) -> None:
    (path, *_) = write_study(study)
    content = path.read_bytes()
    at = content.index(struct.pack("<HH", 0x7FE0, 0x0010))
    path.write_bytes(content[: at + 8] + struct.pack("<I", 0xFFFFFFF0) + content[at + 12 :])


def _odd_numbers(keyword: str, value: object) -> Callable[[Path], None]:
    def write(study: Path) -> None:
        for path in write_study(study):
            dataset = pydicom.dcmread(path)
            with pydicom.config.disable_value_validation():
                setattr(dataset, keyword, value)
                dataset.save_as(path)

    return write


for _keyword, _value in (
    ("ImagePositionPatient", ["nan", "0", "0"]), ("ImagePositionPatient", ["inf", "0", "0"]),
    ("ImageOrientationPatient", ["nan"] * 6), ("ImageOrientationPatient", ["0"] * 6),
    ("PixelSpacing", ["inf", "1"]), ("PixelSpacing", ["1e-320", "1"]), ("PixelSpacing", ["-1", "1"]),
    ("RescaleSlope", "nan"), ("RescaleSlope", "1e308"), ("RescaleIntercept", "-inf"), ("RescaleSlope", "1e-310"),
):  # fmt: skip
    _shown = _value if isinstance(_value, str) else "\\".join(_value[:2])
    attack(f"DICOM with {_keyword} {_shown}")(_odd_numbers(_keyword, _value))


@attack("DICOM whose ids and names are paths and shell commands", "taken")
def dicom_shell(study: Path) -> None:
    evil = "../../../../../../tmp/x;touch trapped;$(touch trapped)`touch trapped`\n|&<>'\""
    for path in write_study(study):
        dataset = pydicom.dcmread(path)
        with pydicom.config.disable_value_validation():
            for keyword in ("SeriesDescription", "PatientID", "PatientName", "StudyID", "ProtocolName", "Manufacturer"):
                setattr(dataset, keyword, evil)
            dataset.SeriesInstanceUID = "../../../../tmp/$(touch trapped)"
            dataset.StudyInstanceUID = dataset.FrameOfReferenceUID = "/etc/passwd"
            dataset.save_as(path)


@attack("0-byte DICOM file", "empty or not DICOM")
def dicom_empty(study: Path) -> None:
    study.mkdir()
    (study / "IM0.dcm").touch()


# NIfTI


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


# NRRD and MetaImage


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


# Arrays, JSON, HDF5


def array_notes(study: Path, name: str = "scan", **changes) -> None:
    study.mkdir(exist_ok=True)
    notes = {"axes": "coils y x", "spacing_mm": [4, 2, 2]} | changes
    (study / f"{name}.json").write_text(json.dumps(notes))


def npy(study: Path, header: str, data: bytes = b"") -> None:
    study.mkdir(exist_ok=True)
    text = header.encode()
    (study / "scan.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data)
    array_notes(study)


def plain_npy(study: Path) -> None:
    array_notes(study)
    np.save(study / "scan.npy", np.ones((2, 8, 8), np.complex64) * np.arange(8))


@attack("pickled objects in a .npy file", "", "mr")
def npy_pickle(study: Path) -> None:
    array_notes(study)
    with (study / "scan.npy").open("wb") as handle:
        np.save(handle, np.array([Trap()], object), allow_pickle=True)


attack(".npy that claims 8 TB", "ends too early", "mr")(
    lambda study: npy(study, "{'descr': '<c8', 'fortran_order': False, 'shape': (1024, 32768, 32768)}\n", bytes(64))
)
attack(".npy whose header is nested 5,000 deep", "", "mr")(
    lambda study: npy(study, "{'descr': '<c8', 'fortran_order': False, 'shape': " + "(" * 5000 + ")" * 5000 + "}\n")
)
attack(".npy whose header calls a function", "", "mr")(
    lambda study: npy(study, "__import__('pathlib').Path('trapped').touch()\n")
)


def hdf5(study: Path, name: str = "scan.h5") -> h5py.File:
    array_notes(study)
    return h5py.File(study / name, "w")


@attack("HDF5 data set of 16 GB that was never written", "", "mr")
def hdf5_unwritten(study: Path) -> None:
    with hdf5(study) as handle:
        handle.create_dataset("kspace", (8, 16384, 16383), "c8", chunks=(1, 1024, 1024))


@attack("HDF5 data set of 16 GB in a few deflated chunks", "", "mr")
def hdf5_chunks(study: Path) -> None:
    with hdf5(study) as handle:
        made = handle.create_dataset("kspace", (8, 16384, 16383), "c8", chunks=(1, 2048, 2048), compression="gzip")
        made[0, :2048, :2048] = 1


@attack("HDF5 link to a file elsewhere", "data set", "mr")
def hdf5_external_link(study: Path) -> None:
    with h5py.File(study.parent / "secret.h5", "w") as handle:
        handle["kspace"] = np.ones((2, 8, 8), np.complex64)
    with hdf5(study) as handle:
        handle["kspace"] = h5py.ExternalLink(str(study.parent / "secret.h5"), "/kspace")


@attack("HDF5 data kept in /etc/passwd", "data set", "mr")
def hdf5_external_storage(study: Path) -> None:
    with hdf5(study) as handle:
        handle.create_dataset("kspace", (1, 8, 8), "c8", external=[("/etc/passwd", 0, 512)])


@attack("virtual HDF5 data set over a file elsewhere", "data set", "mr")
def hdf5_virtual(study: Path) -> None:
    layout = h5py.VirtualLayout((1, 8, 8), "c8")
    layout[0] = h5py.VirtualSource("../secret.h5", "kspace", (8, 8))
    with hdf5(study) as handle:
        handle.create_virtual_dataset("kspace", layout)


@attack("HDF5 groups in a circle", "", "mr")
def hdf5_circle(study: Path) -> None:
    with hdf5(study) as handle:
        handle.create_group("a")["b"] = handle["/"]
        handle["kspace"] = h5py.SoftLink("/a/b/kspace")


for _label, _text in {
    "nested 200,000 deep": "[" * 200_000,
    "with a number of a million digits": '{"axes": "coils y x", "spacing_mm": [4, 2, 1' + "0" * 1_000_000 + "]}",
    "with NaN lengths": '{"axes": "coils y x", "spacing_mm": [NaN, Infinity, 2]}',
    "that names /etc/passwd as noise": '{"axes": "coils y x", "spacing_mm": [4, 2, 2], "noise": "/etc/passwd"}',
    "that names a file upwards": '{"axes": "coils y x", "spacing_mm": [4, 2, 2], "noise": "../../x.npy"}',
}.items():

    def _write(study: Path, text: str = _text) -> None:
        study.mkdir()
        np.save(study / "scan.npy", np.ones((2, 8, 8), np.complex64))
        (study / "scan.json").write_text(text)

    attack(f"JSON {_label}", "", "mr")(_write)


@attack("JSON of 1 GB", "", "mr")
def json_huge(study: Path) -> None:
    study.mkdir()
    np.save(study / "scan.npy", np.ones((2, 8, 8), np.complex64))
    (study / "scan.json").touch()
    os.truncate(study / "scan.json", 2**30)


def fastmri(study: Path, xml: bytes, shape: tuple = (2, 2, 16, 16)) -> None:
    study.mkdir()
    with h5py.File(study / "scan.h5", "w") as handle:
        handle["kspace"] = np.random.default_rng(0).normal(size=shape).astype(np.complex64)
        handle["ismrmrd_header"] = np.bytes_(xml)


def plain_fastmri(study: Path) -> None:
    matrix, field_mm = "<x>16</x><y>16</y><z>1</z>", "<x>32</x><y>32</y><z>5</z>"
    space = f"<matrixSize>{matrix}</matrixSize><fieldOfView_mm>{field_mm}</fieldOfView_mm>"
    spaces = f"<encodedSpace>{space}</encodedSpace><reconSpace>{space}</reconSpace>"
    fastmri(study, f"<ismrmrdHeader><encoding>{spaces}</encoding></ismrmrdHeader>".encode())


@attack("XML that expands to a billion laughs in a fastMRI header", "document type", "mr")
def xml_laughs(study: Path) -> None:
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    fastmri(study, f'<!DOCTYPE x [<!ENTITY l0 "ha">{entities}]><ismrmrdHeader>&l9;</ismrmrdHeader>'.encode())


@attack("XML that reads /etc/passwd in a fastMRI header", "document type", "mr")
def xml_external(study: Path) -> None:
    fastmri(study, b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><ismrmrdHeader>&e;</ismrmrdHeader>')


@attack("XML nested 500,000 deep in a fastMRI header", "", "mr")
def xml_deep(study: Path) -> None:
    fastmri(study, b"<a>" * 500_000 + b"</a>" * 500_000)


@attack("pickled weights beside a study's images", "taken")
def stray_pickle(study: Path) -> None:
    write_study(study)
    for name in ("model.pt", "state.pkl", "diffusion_pytorch_model.bin"):
        (study / name).write_bytes(pickle.dumps(Trap()))


def plain_bart(study: Path) -> None:
    study.mkdir()
    (study / "scan.hdr").write_text("# Dimensions\n8 8 1 2\n")
    np.random.default_rng(0).normal(size=256).astype(np.float32).tofile(study / "scan.cfl")


@attack("BART header that claims 2^60 samples", "", "mr")
def bart_claims(study: Path) -> None:
    study.mkdir()
    (study / "scan.hdr").write_text("# Dimensions\n1 1073741824 1073741824 1\n")
    (study / "scan.cfl").write_bytes(bytes(64))


@attack("BART header with negative and endless dimensions", "", "mr")
def bart_negative(study: Path) -> None:
    study.mkdir()
    (study / "scan.hdr").write_text("# Dimensions\n1 -8 8 " + "1 " * 100_000)
    (study / "scan.cfl").write_bytes(bytes(64))


# CT projections


def geometry(study: Path, **changes) -> None:
    """Eight views of parallel beams."""
    study.mkdir(exist_ok=True)
    notes = {
        "type": "parallel", "values": "log", "axes": "views bins", "detector_pixel_mm": 1.0,
        "angles_deg": list(np.linspace(0, 180, 8, endpoint=False)), "projections": "scan.npy",
    }  # fmt: skip
    np.save(study / "scan.npy", VIEWS)
    (study / "geometry.json").write_text(json.dumps(notes | changes))


attack("geometry.json that names /etc/passwd")(lambda study: geometry(study, projections="/etc/passwd"))
attack("geometry.json that names a file upwards")(lambda study: geometry(study, projections="../../../etc/passwd"))
attack("geometry.json with a NUL in a file name")(lambda study: geometry(study, projections="scan\0.npy"))
attack("geometry.json with five million angles")(lambda study: geometry(study, angles_deg=[0] * 5_000_000))
attack("geometry.json with a million vectors")(lambda study: geometry(study, vectors=[[0]] * 1_000_000))
attack("geometry.json with infinite angles and lengths")(lambda study: geometry(study, angles_deg=[1e999] * 8))
attack("geometry.json with a bin of 1e-320 mm")(lambda study: geometry(study, detector_pixel_mm=1e-320))
attack("geometry.json with an image of a billion pixels a side")(
    lambda study: geometry(study, image={"matrix": 10**9, "pixel_mm": 1.0})
)


def plain_tiff(study: Path, **options) -> None:
    geometry(study, projections="scan.tif")
    tifffile.imwrite(study / "scan.tif", VIEWS, **options)


@attack("TIFF that claims 60000 x 60000 pixels")
def tiff_claims(study: Path) -> None:
    plain_tiff(study)
    content = (study / "scan.tif").read_bytes()
    for tag in (256, 257):
        at = max(content.find(struct.pack("<HHI", tag, kind, 1)) for kind in (3, 4))
        content = content[:at] + struct.pack("<HHII", tag, 4, 1, 60000) + content[at + 12 :]
    (study / "scan.tif").write_bytes(content)


@attack("deflate bomb in a TIFF")
def tiff_bomb(study: Path) -> None:
    geometry(study, projections="scan.tif")
    tifffile.imwrite(study / "scan.tif", np.zeros((8, 16), np.uint8), compression="zlib", rowsperstrip=8)
    content = bytearray((study / "scan.tif").read_bytes())
    bomb = zlib.compress(b"")[:2] + zeros_deflated(3000)
    content += bomb
    for tag, value in ((273, len(content) - len(bomb)), (279, len(bomb))):
        at = bytes(content).index(struct.pack("<H", tag))
        content[at : at + 12] = struct.pack("<HHII", tag, 4, 1, value)
    (study / "scan.tif").write_bytes(bytes(content))


@attack("TIFF whose pages go in a circle", "taken")
def tiff_circle(study: Path) -> None:
    plain_tiff(study)
    content = bytearray((study / "scan.tif").read_bytes())
    first = struct.unpack("<I", content[4:8])[0]
    count = struct.unpack("<H", content[first : first + 2])[0]
    at = first + 2 + 12 * count
    content[at : at + 4] = struct.pack("<I", first)
    (study / "scan.tif").write_bytes(bytes(content))


def plain_mat(study: Path) -> None:
    geometry(study, projections={"file": "scan.mat", "dataset": "sinogram"})
    scipy.io.savemat(study / "scan.mat", {"sinogram": VIEWS})


def mat5(study: Path, *elements: tuple[int, bytes]) -> None:
    geometry(study, projections={"file": "scan.mat", "dataset": "sinogram"})
    head = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
    packed = b"".join(struct.pack("<II", kind, len(data)) + data for kind, data in elements)
    (study / "scan.mat").write_bytes(head + packed)


attack("deflate bomb in a MATLAB file")(lambda study: mat5(study, (15, zlib.compress(b"")[:2] + zeros_deflated(3000))))
attack("MATLAB file of Java objects and functions")(
    lambda study: mat5(study, (14, struct.pack("<IIII", 6, 8, 17, 0) + b"java" * 64))
)


# The folder itself


@attack("symbolic links out of the study folder", "no series")
def links_out(study: Path) -> None:
    write_study(study.parent / "secret")
    nifti(study.parent / "secret2")
    study.mkdir()
    (study / "folder").symlink_to(study.parent / "secret")
    (study / "volume.nii").symlink_to(study.parent / "secret2" / "volume.nii")
    for path in (study.parent / "secret").iterdir():
        (study / path.name).symlink_to(path)


@attack("symbolic links in a circle, to nothing and to devices", "taken")
def links_circle(study: Path) -> None:
    write_study(study)
    (study / "circle").symlink_to(study)
    (study / "self.nii").symlink_to(study / "self.nii")
    (study / "gone.dcm").symlink_to(study / "gone")
    (study / "zero.nii").symlink_to("/dev/zero")
    (study / "random.dcm").symlink_to("/dev/urandom")


@attack("pipes, sockets and devices in the study folder", "taken")
def pipes(study: Path) -> None:
    write_study(study)
    os.mkfifo(study / "pipe.nii.gz")
    os.mkfifo(study / "pipe.json")
    here = Path.cwd()
    os.chdir(study)
    try:
        socket.socket(socket.AF_UNIX).bind("socket.dcm")
    finally:
        os.chdir(here)
    if os.geteuid() == 0:
        os.mknod(study / "zero.nrrd", 0o600 | 0o020000, os.makedev(1, 5))


@attack("empty files of 1 TB", "")
def sparse(study: Path) -> None:
    study.mkdir()
    for name in ("a.nii", "b.nii.gz", "c.dcm", "d.nrrd", "e.mha", "f.npy", "g.h5", "geometry.json", "h.cfl", "i.mat"):
        (study / name).touch()
        os.truncate(study / name, 2**40)


@attack("folders nested 500 deep and names of 255 bytes", "taken")
def deep_folders(study: Path) -> None:
    write_study(study)
    here = os.open(study, os.O_RDONLY)
    for _ in range(500):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    (study / ("n" * 251 + ".txt")).touch()


@attack("names of bytes that are no text, with new lines and shell commands", "taken")
def odd_names(study: Path) -> None:
    for number, path in enumerate(write_study(study)):
        name = [b"\xff\xfe$(touch trapped)", b"-rf", b"a\nb", b"`touch trapped`", b";touch trapped;", b"'\"", b"{0}%s"]
        path.rename(os.fsdecode(os.fsencode(study) + b"/" + name[number]))


@attack("zip, tar and 7z bombs beside a study's images", "taken")
def archives(study: Path) -> None:
    write_study(study)
    (study / "a.zip").write_bytes(b"PK\x03\x04" + zeros_deflated(2000))
    (study / "a.tar.gz").write_bytes(zeros_deflated(2000, gzipped=True))


@attack("YAML, profiles and Python beside a study's images", "taken")
def code(study: Path) -> None:
    write_study(study)
    call = "__import__('pathlib').Path('trapped').touch()"
    tag = "!!python/object/apply:os.system ['touch trapped']"
    for name in ("config.yaml", "profile.yaml", "config.v9+.yaml", "cohort.yml"):
        (study / name).write_text(f"__use_yte__: true\nx: ?{call}\ny: {tag}\n")
    for name in ("Snakefile", "sitecustomize.py", "numpy.py", "pydicom.py", "conftest.py"):
        (study / name).write_text(f"{call}\n")
