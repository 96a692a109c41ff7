"""ISMRMRD beyond 2D lines: 3D, radial readouts, stacks of stars."""

import numpy as np
import pytest

from data.kspace import read_kspace
from tests.data.ismrmrd_builder import centred_fft, complex_noise, image_3d, reason, write_3d
from tests.data.raw_builder import Scan, Writer


def test_3d_is_cut_into_slices_and_the_slab_loses_its_oversampling(tmp_path):
    image = image_3d()
    scan = Scan((12, 10, 6), (240.0, 200.0, 30.0), recon_matrix=(12, 10, 4), recon_mm=(240.0, 200.0, 20.0))
    lines = [y for y in range(10) if y != 3]
    path = write_3d(tmp_path / "s.h5", centred_fft(image, (0, 1, 2)), [(z, y) for z in range(6) for y in lines], scan)
    read = read_kspace(path)
    expected = centred_fft(image, (1, 2))[1:5, None]
    expected[:, :, 3] = 0
    np.testing.assert_allclose(read.array, expected, atol=1e-5)
    assert not read.mask[3].any()
    np.testing.assert_allclose(read.affine @ [6, 5, 2, 1], [0, 0, 0, 1], atol=1e-4)
    assert read.spacing_mm == pytest.approx((5.0, 20.0, 20.0))


def test_3d_thinned_in_both_phase_encodings_is_cut_across_the_readout(tmp_path):
    """Planes across the readout; each index still lies where the scanner says."""
    image = image_3d()
    rng = np.random.default_rng(0)
    places = [(z, y) for z in range(6) for y in range(10) if rng.random() < 0.6 or (z, y) == (3, 5)]
    scan = Scan((12, 10, 6), (240.0, 180.0, 30.0), position=(1.0, 2.0, 3.0))
    read = read_kspace(write_3d(tmp_path / "scan.h5", centred_fft(image, (0, 1, 2)), places, scan))
    mask = np.zeros((6, 10), bool)
    mask[tuple(np.transpose(places))] = True
    np.testing.assert_array_equal(read.mask, mask)
    expected = centred_fft(image.transpose(2, 0, 1), (1, 2)) * mask
    np.testing.assert_allclose(read.array[:, 0], expected, atol=1e-5)
    x, y, z = 9, 2, 4
    lps = np.array([1 + 20.0 * (x - 6), 2 + 18.0 * (y - 5), 3 + 5.0 * (z - 3)])
    np.testing.assert_allclose(read.affine @ [y, z, x, 1], [-lps[0], -lps[1], lps[2], 1], atol=1e-3)


def test_3d_that_is_whole_in_no_direction_is_refused(tmp_path):
    kspace = centred_fft(image_3d(), (0, 1, 2))
    with Writer(tmp_path / "scan.h5", Scan((12, 10, 6), (240.0, 200.0, 30.0))) as writer:
        for z in range(6):
            for y in range(z, 10):
                first = 2 if y % 2 else 0
                line = kspace[None, z, y, first:]
                writer.line(line, centre=6 - first, kspace_encode_step_1=y, kspace_encode_step_2=z)
    assert reason(tmp_path / "scan.h5") == "not-separable"


@pytest.mark.parametrize("unit", ["pixel", "field of view"])
def test_radial_readouts_of_each_slice_with_their_trajectory(tmp_path, unit):
    angles = np.pi * np.arange(7) / 7
    radius = np.arange(24) / 2 - 6
    cycles = np.stack([radius * np.cos(angles)[:, None], radius * np.sin(angles)[:, None]], axis=-1).astype(np.float32)
    stored = cycles / 12 if unit == "pixel" else cycles
    kspace = complex_noise((2, 3, 7, 24))
    scan = Scan((12, 12, 1), (240.0, 240.0, 4.0), trajectory="radial")
    with Writer(tmp_path / "scan.h5", scan) as writer:
        for z in range(2):
            for spoke in range(7):
                writer.line(kspace[z, :, spoke], traj=stored[spoke], slice=z, kspace_encode_step_1=spoke)
    read = read_kspace(tmp_path / "scan.h5")
    np.testing.assert_array_equal(read.array, kspace)
    np.testing.assert_allclose(read.trajectory, cycles[..., ::-1], atol=1e-5)
    assert (read.matrix, read.shape_zyx) == ((12, 12), (2, 12, 12))
    assert any(f"cycles per {unit}" in text for text in read.warnings)


def test_readouts_without_a_trajectory_are_refused(tmp_path):
    with Writer(tmp_path / "scan.h5", Scan((12, 12, 1), (240.0, 240.0, 4.0), trajectory="spiral")) as writer:
        writer.line(complex_noise((1, 24)))
    assert reason(tmp_path / "scan.h5") == "trajectory"


@pytest.mark.parametrize("missing", [False, True])
def test_a_stack_of_stars_is_cut_into_slices(tmp_path, missing):
    """Each of four partitions has the same spokes; k-space of the slices is the transform along the partitions."""
    angles, radius = np.pi * np.arange(5) / 5, np.arange(16) / 2 - 4
    cycles = np.stack([radius * np.cos(angles)[:, None], radius * np.sin(angles)[:, None]], axis=-1).astype(np.float32)
    slices = complex_noise((4, 2, 5, 16))
    kspace = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(slices, axes=0), axis=0, norm="ortho"), axes=0)
    scan = Scan((8, 8, 4), (80.0, 80.0, 20.0), trajectory="radial", position=(1.0, 2.0, 3.0))
    with Writer(tmp_path / "scan.h5", scan) as writer:
        for spoke in range(5):
            for z in (2, 0, 3, 1)[: 3 if missing else 4]:
                line = kspace[z, :, spoke]
                writer.line(line, traj=cycles[spoke], kspace_encode_step_1=spoke, kspace_encode_step_2=z)
    if missing:
        assert reason(tmp_path / "scan.h5") == "not-separable"
        return
    read = read_kspace(tmp_path / "scan.h5")
    np.testing.assert_allclose(read.array, slices, atol=1e-5)
    assert read.shape_zyx == (4, 8, 8)
    np.testing.assert_allclose(read.affine @ [4, 4, 2, 1], [-1, -2, 3, 1], atol=1e-5)


def test_a_trajectory_that_encodes_more_than_the_field_of_view_is_scaled_to_it(tmp_path):
    """Twice oversampled readouts: the encoded field of view is wider; cycles per field of view halve with it."""
    radius = np.arange(32) - 16.0
    path = np.stack([radius, np.zeros(32)], axis=-1).astype(np.float32)
    wide, recon = Scan((32, 32, 1), (320.0, 320.0, 4.0)), ((16, 16, 1), (160.0, 160.0, 4.0))
    scan = Scan(wide.matrix, wide.field_mm, *recon, trajectory="radial", position=(1.0, 2.0, 3.0))
    with Writer(tmp_path / "scan.h5", scan) as writer:
        for _ in range(2):
            writer.line(complex_noise((1, 32)), traj=path)
    read = read_kspace(tmp_path / "scan.h5")
    assert read.matrix == (16, 16)
    np.testing.assert_allclose(read.trajectory[0, :, 1], radius / 2)
    np.testing.assert_allclose(read.affine @ [8, 8, 0, 1], [-1, -2, 3, 1], atol=1e-5)
