"""dcm2niix, dciodvfy and dcentvfy as judges of exported DICOM."""

import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from tests.pipeline.export_builder import slices


def dcm2niix(folder, out):
    """dcm2niix's NIfTI of a folder with one series, turned to closest RAS; what it writes beside it, such as an
    overlay, is left aside."""
    binary = Path(sys.executable).with_name("dcm2niix")
    if not binary.is_file():
        pytest.skip("dcm2niix, the oracle, is not installed: pip install dcm2niix")
    out.mkdir()
    subprocess.run([binary, "-z", "n", "-b", "n", "-f", "o", "-o", out, folder], check=True, capture_output=True)
    return nibabel.as_closest_canonical(nibabel.load(out / "o.nii"))


def validate(files, also=()):
    """No error from dciodvfy in any file, none from dcentvfy over all of them and what lies beside them."""
    if not shutil.which("dciodvfy"):
        pytest.skip("dciodvfy, the validator, is not installed: apt-get install dicom3tools")
    kinds = set()
    for path in files:
        done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        kinds |= {word for word in ("CTImage", "MRImage", "ParametricMap") if word in done.stderr}
        assert "Error" not in done.stdout + done.stderr, f"{path}: {done.stderr}"
    done = subprocess.run(["dcentvfy", *files, *also], capture_output=True, text=True, check=False)
    assert "Error" not in done.stdout + done.stderr, done.stderr
    return kinds


def agree_with_dcm2niix(results, folder, names=(("reconstruction", "mean"), ("std", "std"))):
    """(largest difference in stored steps, largest difference of affines in mm) over the 16-bit series."""
    largest, shift = 0.0, 0.0
    for kind, name in names:
        dicom = results / "export" / "dicom" / f"pam_{kind}"
        oracle = dcm2niix(dicom, folder / kind)
        ours = nibabel.as_closest_canonical(nibabel.load(results / "uncertainty" / "pam" / f"{name}.nii.gz"))
        slope = float(slices(dicom)[0].RescaleSlope)
        assert slope <= max(1, np.abs(ours.get_fdata()).max() / 32000)
        np.testing.assert_allclose(oracle.affine, ours.affine, atol=1e-4)
        steps = np.abs(oracle.get_fdata() - ours.get_fdata()).max() / slope
        assert steps <= 0.501
        largest, shift = max(largest, steps), max(shift, np.abs(oracle.affine - ours.affine).max())
    return largest, shift
