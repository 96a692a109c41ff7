"""Decoding of single planes: by the library that takes damage best, in a process of its own where one can crash.

GDCM, the one decoder at hand of lossless JPEG and of lossy JPEG with 12 bits, ends its process on some damaged images.
It runs in a child process, started when the first such plane comes, so that a crash is an error like any other.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import UID, JPEGExtended12Bit

from data.dicom_file import quiet, read_dataset

SAFE_PLUGINS = ("pydicom", "pyjpegls", "pylibjpeg", "pillow")
MAX_SECONDS_A_PLANE = 120
PIXEL_DATA = (0x7FE0, 0x0010)
END_OF_IMAGE = b"\xff\xd9"
PIXEL_KEYWORDS = (
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths", "PixelData",
)  # fmt: skip
PIXEL_TAGS = tuple(map(tag_for_keyword, PIXEL_KEYWORDS))


def plugin_of(syntax: UID, bits_stored: int = 8) -> str:
    """The library that decodes a transfer syntax, "" for uncompressed pixels or where there is none."""
    if not syntax.is_compressed or syntax.is_deflated:
        return ""
    if _is_twelve_bit_jpeg(syntax, bits_stored):
        return "gdcm"
    available = get_decoder(syntax).available_plugins
    return next((name for name in (*SAFE_PLUGINS, *available) if name in available), "")


def _is_twelve_bit_jpeg(syntax: UID, bits_stored: int) -> bool:
    return syntax == JPEGExtended12Bit and bits_stored > 8


class ChildDecoder:
    """Decodes planes, those that need GDCM in a child process. A context: the child ends with it."""

    def __init__(self):
        self._child: subprocess.Popen | None = None

    def __enter__(self) -> "ChildDecoder":
        return self

    def __exit__(self, *_) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            for pipe in (self._child.stdin, self._child.stdout):
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def plane(self, path: Path, dataset: Dataset, index: int) -> np.ndarray:
        """Stored values (rows columns). Raises whatever the library raises, RuntimeError where the child failed."""
        plugin = plugin_of(UID(dataset.file_meta.TransferSyntaxUID), int(dataset.get("BitsStored", 8)))
        if plugin != "gdcm":
            return pixel_array(dataset, index=index, decoding_plugin=plugin)
        child = self._started()
        watch = threading.Timer(MAX_SECONDS_A_PLANE, child.kill)
        watch.start()
        try:
            child.stdin.write(json.dumps([os.fsencode(path).decode("latin-1"), index]).encode() + b"\n")
            child.stdin.flush()
            head = json.loads(child.stdout.readline() or b"null")
            data = child.stdout.read(head["bytes"]) if head else b""
        except BrokenPipeError:
            head, data = None, b""
        finally:
            watch.cancel()
        if not head or len(data) != head["bytes"]:
            raise RuntimeError("the decoder failed")
        return np.frombuffer(data, head["dtype"]).reshape(head["shape"])

    def _started(self) -> subprocess.Popen:
        if self._child is None or self._child.poll() is not None:
            self.__exit__()
            paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", "data.dicom_decode"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
            )  # fmt: skip
        return self._child


def _by_gdcm(dataset: Dataset, index: int) -> np.ndarray:
    """Stored values (rows columns) of one plane. pydicom hands all to GDCM but lossy JPEG with 12 bits."""
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    if _is_twelve_bit_jpeg(syntax, dataset.BitsStored):
        return _twelve_bits(dataset, index)
    return pixel_array(dataset, index=index, decoding_plugin="gdcm")


def _twelve_bits(dataset: Dataset, index: int) -> np.ndarray:
    """uint16 (rows columns) of JPEG extended, process 4 (PS3.5 8.2.1: one unsigned sample of 12 bits in 16).

    Raises ValueError for what that is not.
    """
    import gdcm

    layout = tuple(dataset.get(name) for name in ("SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit"))
    if layout != (1, 16, 12, 11) or dataset.PixelRepresentation != 0:
        raise ValueError("not one unsigned sample of 12 bits")
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    code = get_frame(dataset.PixelData, index, number_of_frames=int(dataset.get("NumberOfFrames") or 1))
    if not code.rstrip(b"\0").endswith(END_OF_IMAGE):
        raise ValueError("cut off")
    fragment, fragments = gdcm.Fragment(), gdcm.SequenceOfFragments.New()
    fragment.SetByteStringValue(code)
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(*PIXEL_DATA))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(JPEGExtended12Bit))))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, 0))
    values = np.frombuffer(image.GetBuffer().encode("utf-8", "surrogateescape"), "<u2")
    if values.size != rows * columns or values.max() >= 2**12:
        raise ValueError("another length or range than 12 bits a pixel")
    return values.reshape(rows, columns)


def serve() -> None:
    """The child: lines [path, index] in, a line {dtype, shape, bytes} and the values out, or null for a failure."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # libraries print to standard output
    known: tuple[str, Dataset] | None = None
    for line in sys.stdin.buffer:
        name, index = json.loads(line)
        try:
            if known is None or known[0] != name:
                path = Path(os.fsdecode(name.encode("latin-1")))
                known = (name, read_dataset(path, pixels=True, tags=PIXEL_TAGS))
            with quiet():
                plane = np.ascontiguousarray(_by_gdcm(known[1], index))
            head = {"dtype": plane.dtype.str, "shape": plane.shape, "bytes": plane.nbytes}
            out.write(json.dumps(head).encode() + b"\n" + plane.tobytes())
        except Exception:
            out.write(b"null\n")
        out.flush()


if __name__ == "__main__":
    serve()
