"""How long a study folder of thousands of unsorted DICOM files takes to be sorted out, and how much memory.

    python -m benchmarks.indexing --files 5000 --series 10

Writes the files to a temporary folder (a small CT with 120 attributes in its header, names in no order), sorts them out
in a process of its own, and prints one line of JSON: files, bytes, series, seconds, cpu_seconds, files_a_second,
peak_mem_mb.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

MATRIX = 64
PRIVATE_ATTRIBUTES = 80


def write_study(folder: Path, files: int, series: int, seed: int = 0) -> int:
    """Write FILES single-frame CT images of SERIES series under names in no order. Returns the bytes written."""
    order = random.Random(seed)  # noqa: S311
    names = [f"IM{number:06d}" for number in range(files)]
    order.shuffle(names)
    uids = [generate_uid(entropy_srcs=[str(seed), str(number)]) for number in range(series)]
    pixels = np.random.default_rng(seed).integers(0, 2000, (MATRIX, MATRIX)).astype(np.uint16)
    written = 0
    for number, name in enumerate(names):
        path = folder / f"{name[:5]}" / name
        path.parent.mkdir(exist_ok=True)
        _slice(uids[number % series], number // series, pixels).save_as(path, enforce_file_format=True)
        written += path.stat().st_size
    return written


def _slice(series_uid: str, z: int, pixels: np.ndarray) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[series_uid, str(z)])
    ds.ImageType, ds.Modality, ds.Manufacturer = ["ORIGINAL", "PRIMARY", "AXIAL"], "CT", "Example"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "1.2.3", series_uid, "1.2.4"
    ds.SeriesNumber, ds.InstanceNumber, ds.AcquisitionNumber, ds.KVP = 1, z + 1, 1, "120"
    ds.ImagePositionPatient, ds.ImageOrientationPatient = ["-100", "-100", f"{2.5 * z:.3f}"], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.SliceThickness, ds.ConvolutionKernel = ["0.75", "0.75"], "2.5", "B30f"
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = "1", "-1024", "HU"
    ds.Rows = ds.Columns = MATRIX
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    block = ds.private_block(0x0019, "EXAMPLE HEADER", create=True)
    for element in range(PRIVATE_ATTRIBUTES):
        block.add_new(element, "LO", f"value {element} of a private group")
    ds.PixelData = pixels.tobytes()
    return ds


def index(folder: Path) -> dict:
    """Sort the folder out in this process."""
    from data.study import find_series

    start, worked = time.perf_counter(), time.process_time()
    findings = find_series(folder)
    seconds, worked = time.perf_counter() - start, time.process_time() - worked
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    files = sum(len(finding.files) for finding in findings)
    rate = round(files / seconds)
    return {"files": files, "series": len(findings), "seconds": round(seconds, 2),
            "cpu_seconds": round(worked, 2), "files_a_second": rate, "peak_mem_mb": round(peak_mb)}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.indexing", description="Time the sorting of a folder.")
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--series", type=int, default=10)
    parser.add_argument("--folder", type=Path, help="sort this folder out instead of a synthetic one")
    arguments = parser.parse_args(argv)
    if arguments.folder is not None:
        print(json.dumps(index(arguments.folder)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        written = write_study(Path(folder), arguments.files, arguments.series)
        command = [sys.executable, "-m", "benchmarks.indexing", "--folder", folder]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        print(json.dumps(json.loads(done.stdout) | {"bytes": written}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
