"""Decoding of single planes: by the library that takes damage best, in a process of its own where one can crash.

GDCM, the one decoder at hand of lossless JPEG, ends its process on some damaged images. It runs in a child process,
started when the first such plane comes, so that a crash is an error like any other.
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
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import UID

from data.dicom_file import quiet, read_dataset

SAFE_PLUGINS = ("pydicom", "pyjpegls", "pylibjpeg", "pillow")
MAX_SECONDS_A_PLANE = 120
PIXEL_KEYWORDS = (
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths", "PixelData",
)  # fmt: skip
PIXEL_TAGS = tuple(map(tag_for_keyword, PIXEL_KEYWORDS))


def plugin_of(syntax: UID) -> str:
    """The library that decodes a transfer syntax, "" for uncompressed pixels or where there is none."""
    if not syntax.is_compressed or syntax.is_deflated:
        return ""
    available = get_decoder(syntax).available_plugins
    return next((name for name in (*SAFE_PLUGINS, *available) if name in available), "")


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
        plugin = plugin_of(UID(dataset.file_meta.TransferSyntaxUID))
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
                plane = np.ascontiguousarray(pixel_array(known[1], index=index, decoding_plugin="gdcm"))
            head = {"dtype": plane.dtype.str, "shape": plane.shape, "bytes": plane.nbytes}
            out.write(json.dumps(head).encode() + b"\n" + plane.tobytes())
        except Exception:
            out.write(b"null\n")
        out.flush()


if __name__ == "__main__":
    serve()
