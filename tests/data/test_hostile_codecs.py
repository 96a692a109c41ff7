"""Damaged codestreams: an error or a picture, never the end of the process that asked."""

import os
import signal
import threading

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from data.dicom_decode import ChildDecoder
from data.dicom_frames import read_frames
from data.dicom_pixels import read_pixels
from data.errors import InputError
from tests.data import dicom_builder as build
from tests.data.test_dicom_oracle import by_dcmtk, compress, eight_bits

CODECS = {"RLE": RLELossless, "JPEG-LS": JPEGLSLossless, "JPEG 2000": JPEG2000Lossless, "JPEG": "+eb"}


def _coded(folder, name):
    (path,) = build.write(build.Series(slices=1, rows=32, columns=40), folder)
    syntax = CODECS.get(name, "+e1")
    if syntax == "+eb":
        eight_bits(path)
    if str(syntax).startswith("+"):
        by_dcmtk(path, syntax)
    else:
        compress(path, syntax)
    return path


@pytest.mark.hostile("bytes changed in RLE, JPEG, lossless JPEG, JPEG-LS and JPEG 2000 codestreams")
@pytest.mark.parametrize(("name", "trials"), [*((name, 40) for name in CODECS), ("lossless JPEG", 3)])
def test_damaged_codestreams_end_no_process(tmp_path, name, trials):
    path = _coded(tmp_path, name)
    raw, rng = path.read_bytes(), np.random.default_rng(0)
    start = raw.rindex(b"\xe0\x7f\x10\x00") + 8
    refused = 0
    for _ in range(trials):
        changed = bytearray(raw)
        for at in rng.integers(start, min(len(raw), start + 400), 20):
            changed[at] = rng.integers(256)
        path.write_bytes(changed)
        try:
            read_pixels(tuple(read_frames(path)))
        except InputError:
            refused += 1
    assert refused > 0


def test_decoder_that_dies_is_an_error_and_starts_again(tmp_path):
    path = _coded(tmp_path, "lossless JPEG")
    dataset = pydicom.dcmread(path)
    expected = build.Series(slices=1, rows=32, columns=40).stored[0]
    with ChildDecoder() as decoder:
        np.testing.assert_array_equal(decoder.plane(path, dataset, 0), expected)
        first = decoder._child
        os.kill(first.pid, signal.SIGSTOP)
        threading.Timer(0.2, first.kill).start()
        with pytest.raises(RuntimeError, match="decoder failed"):
            decoder.plane(path, dataset, 0)
        first.wait()
        np.testing.assert_array_equal(decoder.plane(path, dataset, 0), expected)
        assert decoder._child is not first
    assert decoder._child.returncode is not None
