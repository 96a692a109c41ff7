"""Hostile k-space (arrays, HDF5, fastMRI, BART) and the JSON beside it: each function writes what it is called after
into a study folder."""

import json
import os
import pickle
import struct
from pathlib import Path

import h5py
import numpy as np

from tests.robustness.hostile import Trap, attack
from tests.robustness.stages import write_study


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
