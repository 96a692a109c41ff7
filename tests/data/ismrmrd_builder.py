"""What the tests of ISMRMRD share."""

import numpy as np
import pytest

from data.errors import InputError
from data.kspace import read_kspace
from tests.data.raw_builder import Scan, Writer


def complex_noise(shape, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def reason(path, part=""):
    with pytest.raises(InputError) as caught:
        read_kspace(path, part)
    assert "PLANTED" not in str(caught.value)
    return caught.value.reason


SCAN = Scan((12, 10, 1), (240.0, 200.0, 4.0))


def image_3d(shape=(6, 10, 12)):
    return complex_noise(shape)


def centred_fft(image, axes):
    shifted = np.fft.ifftshift(image, axes=axes)
    return np.fft.fftshift(np.fft.fftn(shifted, axes=axes, norm="ortho"), axes=axes)


def write_3d(path, kspace, places, scan):
    with Writer(path, scan) as writer:
        for z, y in places:
            writer.line(kspace[None, z, y], kspace_encode_step_1=y, kspace_encode_step_2=z)
    return path
