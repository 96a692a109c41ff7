"""High-throughput JPEG 2000, as an independent encoder writes it.

htj2k/*.j2c were made by OpenJPH 0.26.3 (imagecodecs 2026.3.6, htj2k_encode with tlm=True; lossy: level=1e-4,
reversible=False) from the images below; the reader decodes them with OpenJPEG.
"""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL

from tests.data import dicom_builder as build
from tests.data.test_dicom import read_only_series

CODES = Path(__file__).parent / "htj2k"
Y, X = np.mgrid[:40, :56]
RAMP = (7 * X * Y + 13 * X + 29 * Y) % 3001
# Name of the code, transfer syntax, what was encoded, largest difference of stored values: OpenJPH's own decoder is 7
# off the lossy one, whose quantisation step is 1e-4 of 16 bits.
CASES = {
    "lossless": ("lossless", HTJ2KLossless, RAMP, 0),
    "lossless, signed": ("signed", HTJ2KLossless, RAMP - 1000, 0),
    "lossless, RPCL": ("lossless", HTJ2KLosslessRPCL, RAMP, 0),
    "lossy": ("lossy", HTJ2K, 20 * X + 30 * Y, 7),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.interop("read", "DICOM, high-throughput JPEG 2000", "OpenJPH")
def test_decodes_what_openjph_encoded(tmp_path, record_property, name):
    code, syntax, stored, tolerance = CASES[name]
    series = build.Series("MR", rows=40, columns=56)
    for path in build.write(series, tmp_path):
        ds = pydicom.dcmread(path)
        ds.PixelData = encapsulate([(CODES / f"{code}.j2c").read_bytes()])
        ds["PixelData"].VR = "OB"
        ds.PixelRepresentation = int(stored.min() < 0)
        ds.file_meta.TransferSyntaxUID = syntax
        ds.save_as(path)
    volume = read_only_series(tmp_path)
    apart = np.abs(volume.array_zyx - (stored * build.SLOPE + build.INTERCEPT)).max()
    record_property("measured", f"{name}: largest difference {apart / build.SLOPE:g} of 3000 stored values")
    assert apart <= tolerance * build.SLOPE
