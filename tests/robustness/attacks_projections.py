"""Hostile CT projections and geometry.json: each function writes what it is called after into a study folder."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import scipy.io
import tifffile

from tests.robustness.hostile import attack, zeros_deflated

VIEWS = np.random.default_rng(0).uniform(size=(8, 16)).astype(np.float32)


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


@attack("TIFF whose pages go in a circle", "in a circle")
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
