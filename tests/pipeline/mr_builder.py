"""Measured k-space for the tests of MR preparation, and BART."""

import os
import shutil
import subprocess

import numpy as np
import pytest

from data.kspace_common import KSpace
from pipeline.settings import MrMeasureSettings

AFFINE = np.diag([-2.0, -1.5, 4.0, 1.0])
MEASURED = MrMeasureSettings(source="measured", holdout_fraction=0.0)


def complex_noise(shape, seed=0, sigma=1.0):
    rng = np.random.default_rng(seed)
    return (sigma * (rng.normal(size=shape) + 1j * rng.normal(size=shape))).astype(np.complex64)


def raw(kspace, **more):
    return KSpace(np.ascontiguousarray(kspace, np.complex64), AFFINE, (4.0, 1.5, 2.0), **more)


def bart(folder, *arguments):
    if shutil.which("bart") is None:
        pytest.skip("BART (the Debian package bart) is not installed")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = ["bart", *map(str, arguments)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60, env=environment)
