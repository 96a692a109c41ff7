"""Small CT scans with closed-form line integrals, and files of every form that the reader takes."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import scipy.io
import tifffile

from operators.ct_geometry import Beam, FanBeam, ParallelBeam, view_angles
from tests.operators.discs import chords as discs_chords

# x, y, radius in mm, attenuation in 1/mm.
DISCS = ((0.0, 0.0, 70.0, 0.02), (35.0, 15.0, 18.0, 0.006), (-20.0, -30.0, 14.0, -0.01))
FAN_NOTES = {
    "type": "fanflat",
    "axes": "views bins",
    "values": "log",
    "angles_deg": {"first": 0, "step": 6},
    "detector_pixel_mm": 3.0,
    "source_axis_mm": 400,
    "source_detector_mm": 700,
}
PARALLEL = ParallelBeam(view_angles(90, 180), 128, 1.5)
FAN = FanBeam(view_angles(60, 360), 120, 3.0, 400.0, 300.0)


def chords(beam: Beam, discs=DISCS) -> np.ndarray:
    """The scans' line integrals, shape (views bins)."""
    return discs_chords(beam, discs)


def write_notes(folder: Path, notes: dict, name: str = "geometry.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(json.dumps(notes), encoding="utf-8")
    return path


def write_scan(folder: Path, form: str, array: np.ndarray, notes: dict) -> Path:
    """The array (views bins) and geometry.json as npy, h5, tiff, stack (a file a view, three rows), mat or mat73."""
    extra: dict = {}
    folder.mkdir(parents=True)
    if form == "npy":
        np.save(folder / "scan.npy", array)
    elif form == "h5":
        with h5py.File(folder / "scan.h5", "w") as handle:
            handle.create_dataset("entry/data", data=array.T, compression="gzip")
        extra = {"axes": "bins views"}
    elif form == "tiff":
        tifffile.imwrite(folder / "scan.tif", array.astype(np.float32), compression="zlib")
    elif form == "stack":
        (folder / "raw").mkdir()
        for number, view in enumerate(array):
            tifffile.imwrite(folder / "raw" / f"v{number}.tif", np.stack([view] * 3).astype(np.float32))
        extra = {"axes": "views rows columns", "projections": "raw"}
    elif form == "mat":
        scipy.io.savemat(folder / "scan.mat", {"scan": {"data": array}}, do_compression=True)
        extra = {"projections": {"dataset": "scan.data"}}
    else:
        with h5py.File(folder / "scan.mat", "w", userblock_size=512) as handle:
            handle["scan/data"] = array.T
        extra = {"projections": {"dataset": "scan.data"}}
    return write_notes(folder, notes | extra)


def helsinki_parameters(angles_deg: np.ndarray) -> dict:
    """The fields of `parameters` as HelTomo's read_ct_scan_parameters and create_ct_project write them."""
    return {
        "projectName": "htc2022_ta", "scanner": "a laboratory", "measurers": "Nemo Nobody", "date": "20220601",
        "dateFormat": "YYYYMMDD", "geometryType": "Cone", "distanceSourceDetector": 553.74,
        "distanceSourceOrigin": 410.66, "distanceUnit": "mm", "geometricMagnification": 553.74 / 410.66,
        "numberImages": len(angles_deg), "angles": angles_deg, "detector": "a flat panel", "detectorType": "EID",
        "binning": "1x1", "pixelSize": 0.05, "pixelSizeUnit": "mm", "exposureTime": 1000, "exposureTimeUnit": "ms",
        "tube": "a tube", "target": "Mo", "voltage": 45, "voltageUnit": "kV", "current": 1, "currentUnit": "mA",
        "detectorRows": 2240, "detectorCols": 2240, "freeRayAtDetector": [1, 128, 1, 128], "binningPost": 4,
        "pixelSizePost": 0.2, "effectivePixelSizePost": 0.2 * 410.66 / 553.74, "numDetectorsPost": 560,
    }  # fmt: skip


HOLES = ((10.0, 12.0, 7.0), (-12.0, 6.0, 5.0), (3.0, -14.0, 6.0), (-9.0, -13.0, 3.0), (18.0, -6.0, 3.0))
ACRYLIC = 0.028


def helsinki_beam(angles_deg: np.ndarray) -> FanBeam:
    return FanBeam(tuple(np.deg2rad(angles_deg)), 560, 0.2, 410.66, 553.74 - 410.66)


def helsinki_sinogram(angles_deg: np.ndarray, noise: float = 0.01, seed: int = 0) -> np.ndarray:
    """A disc of acrylic of 70 mm with round holes, log data with photon noise, (views bins)."""
    discs = ((1.5, -1.0, 35.0, ACRYLIC), *((*hole, -ACRYLIC) for hole in HOLES))
    p = chords(helsinki_beam(angles_deg), discs)
    return p + np.random.default_rng(seed).normal(0, noise, p.shape) * np.exp(p / 2)


def write_helsinki(path: Path, first_deg: float = 0.0, last_deg: float = 360.0, version: str = "5") -> np.ndarray:
    """A file of the challenge's form, CtDataFull for a full turn and CtDataLimited else; returns its sinogram."""
    angles = np.arange(first_deg, last_deg + 0.25, 0.5)
    name = "CtDataFull" if len(angles) == 721 else "CtDataLimited"
    sinogram, parameters = helsinki_sinogram(angles), helsinki_parameters(angles)
    path.parent.mkdir(parents=True, exist_ok=True)
    if version == "5":
        struct = {"type": "2D", "sinogram": sinogram, "parameters": parameters}
        scipy.io.savemat(path, {name: struct}, do_compression=True)
        return sinogram
    with h5py.File(path, "w", userblock_size=512) as handle:
        handle[f"{name}/sinogram"] = sinogram.T
        for key, value in parameters.items():
            if not isinstance(value, str):
                handle[f"{name}/parameters/{key}"] = np.atleast_2d(np.asarray(value, dtype=np.float64)).T
    return sinogram
