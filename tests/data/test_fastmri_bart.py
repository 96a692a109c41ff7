"""The fastMRI form and BART's format, and which form a file has."""

import json
import shutil
import subprocess

import h5py
import numpy as np
import pytest

from data.errors import InputError
from data.kspace import read_kspace
from data.study import find_series
from tests.data.raw_builder import Scan, write_cartesian, write_fastmri
from tests.operators.helpers import read_cfl, write_cfl


def complex_noise(shape, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def reason(path):
    with pytest.raises(InputError) as caught:
        read_kspace(path)
    return caught.value.reason


KNEE = Scan((32, 20, 1), (320.0, 180.0, 4.5), recon_matrix=(16, 16, 1), recon_mm=(160.0, 160.0, 3.0))


@pytest.mark.interop("read", "fastMRI .h5", "h5py, ismrmrd-python")
def test_the_fastmri_form(tmp_path, record_property):
    kspace = complex_noise((3, 2, 32, 20))
    columns = np.arange(20) % 3 != 1
    path = write_fastmri(tmp_path / "f.h5", kspace * columns, KNEE, mask=columns.astype(np.float32))
    read = read_kspace(path)
    np.testing.assert_array_equal(read.array, kspace * columns)
    np.testing.assert_array_equal(read.mask, np.broadcast_to(columns, (32, 20)))
    assert read.spacing_mm == pytest.approx((3.0, 10.0, 9.0))
    assert read.keep == (16, 20)
    assert read.reference is None
    record_property("measured", "largest difference 0, mask, spacing and readout oversampling as in the header")


def test_one_coil_and_the_reference_image(tmp_path):
    kspace, image = complex_noise((3, 32, 20)), np.ones((3, 16, 16), np.float32)
    read = read_kspace(write_fastmri(tmp_path / "f.h5", kspace, KNEE, reconstruction_rss=image))
    np.testing.assert_array_equal(read.array[:, 0], kspace)
    np.testing.assert_array_equal(read.reference, image)


def test_parts_that_do_not_fit_are_refused(tmp_path):
    kspace = complex_noise((3, 1, 32, 20))
    assert reason(write_fastmri(tmp_path / "a.h5", kspace, KNEE, mask=np.ones(7))) == "shape"
    wide = np.ones((3, 40, 40), np.float32)
    assert reason(write_fastmri(tmp_path / "b.h5", kspace, KNEE, reconstruction_rss=wide)) == "shape"
    assert reason(write_fastmri(tmp_path / "c.h5", kspace.real, KNEE)) == "not-scalar"
    assert reason(write_fastmri(tmp_path / "d.h5", kspace[0, 0], KNEE)) == "shape"
    path = write_fastmri(tmp_path / "e.h5", kspace, KNEE)
    path.write_bytes(path.read_bytes()[:-4000])
    assert reason(path) == "truncated"


def test_forms_are_told_by_content_and_companions_make_no_series(tmp_path):
    kspace = complex_noise((2, 2, 10, 12))
    write_cartesian(tmp_path / "a.h5", kspace, Scan((12, 10, 1), (240.0, 200.0, 4.0)))
    write_fastmri(tmp_path / "b.hdf5", complex_noise((2, 2, 32, 20)), KNEE)
    np.save(tmp_path / "c.npy", complex_noise((2, 7, 24)))
    np.save(tmp_path / "path.npy", np.zeros((7, 24, 2)))
    notes = {"axes": "coils readouts samples", "spacing_mm": [1, 1, 1], "matrix": [12, 12], "trajectory": "path.npy"}
    (tmp_path / "c.json").write_text(json.dumps(notes), encoding="utf-8")
    write_cfl(tmp_path / "d", complex_noise((1, 24, 7, 2)))
    write_cfl(tmp_path / "d_traj", np.zeros((3, 24, 7)))
    found = {finding.name: finding for finding in find_series(tmp_path)}
    assert sorted(found) == ["a", "b", "c", "d"]
    assert [path.name for path in found["c"].files] == ["c.npy", "c.json", "path.npy"]
    assert [path.name for path in found["d"].files] == ["d.cfl", "d.hdr", "d_traj.cfl", "d_traj.hdr"]
    shapes = {name: read_kspace(finding.files[0]).shape_zyx for name, finding in found.items() if name != "d"}
    assert shapes == {"a": (2, 10, 12), "b": (2, 32, 20), "c": (1, 12, 12)}


def test_trajectory_and_noise_beside_an_array(tmp_path):
    trajectory = np.random.default_rng(0).uniform(-6, 6, (7, 24, 2)).astype(np.float32)
    noise, kspace = complex_noise((2, 99), 1), complex_noise((2, 7, 24))
    notes = {"axes": "coils readouts samples", "spacing_mm": [3, 2, 2], "matrix": [12, 14]}
    notes |= {"trajectory": "trajectory", "noise": "noise"}
    with h5py.File(tmp_path / "k.h5", "w") as handle:
        handle.update({"kspace": kspace, "trajectory": trajectory, "noise": noise})
    path = tmp_path / "k.h5"
    path.with_suffix(".json").write_text(json.dumps(notes), encoding="utf-8")
    read = read_kspace(path)
    np.testing.assert_array_equal(read.trajectory, trajectory)
    np.testing.assert_array_equal(read.noise, noise)
    assert read.array.shape == (1, 2, 7, 24)
    for change, expected in (
        ({"trajectory": "noise"}, "shape"),
        ({"noise": "trajectory"}, "shape"),
        ({"matrix": [12]}, "json"),
        ({"trajectory": None}, "shape"),
        ({"trajectory": "../k"}, "json"),
    ):
        path.with_suffix(".json").write_text(json.dumps(notes | change), encoding="utf-8")
        assert reason(path) == expected


def bart(*arguments):
    if shutil.which("bart") is None:
        pytest.skip("BART (the Debian package bart) is not installed")
    subprocess.run(["bart", *map(str, arguments)], check=True, capture_output=True, timeout=60)


@pytest.mark.oracle
@pytest.mark.interop("read", "BART .cfl/.hdr", "BART 0.8")
def test_barts_phantom_is_the_image_that_bart_makes_of_it(tmp_path, record_property):
    bart("phantom", "-k", "-s", 4, "-x", 32, tmp_path / "k")
    bart("fft", "-u", "-i", 3, tmp_path / "k", tmp_path / "image")
    read = read_kspace(tmp_path / "k.cfl")
    shifted = np.fft.ifftshift(read.array[0], axes=(1, 2))
    ours = np.fft.fftshift(np.fft.ifft2(shifted, norm="ortho"), axes=(1, 2))
    theirs = read_cfl(tmp_path / "image").reshape(32, 32, 4).transpose(2, 1, 0)
    worst = np.abs(ours - theirs).max() / np.abs(theirs).max()
    assert worst < 1e-5
    assert any("1 mm" in text for text in read.warnings)
    record_property("measured", f"images of 4 coils within {worst:.0e} of BART's")


@pytest.mark.oracle
@pytest.mark.interop("read", "BART .cfl/.hdr, radial", "BART 0.8")
def test_barts_radial_phantom_and_its_trajectory(tmp_path, record_property):
    bart("traj", "-r", "-x", 32, "-y", 9, tmp_path / "k_traj")
    bart("phantom", "-k", "-s", 4, "-t", tmp_path / "k_traj", tmp_path / "k")
    read = read_kspace(tmp_path / "k.cfl")
    theirs = read_cfl(tmp_path / "k").reshape(32, 9, 4)
    np.testing.assert_array_equal(read.array[0], theirs.transpose(2, 1, 0))
    path = read_cfl(tmp_path / "k_traj").reshape(3, 32, 9).real
    np.testing.assert_array_equal(read.trajectory[..., 1], path[0].T)
    np.testing.assert_array_equal(read.trajectory[..., 0], path[1].T)
    assert read.matrix == (32, 32)
    record_property("measured", "samples and trajectory equal, 9 spokes, 4 coils")


def test_bart_slices_3d_and_dimensions_that_are_not_used(tmp_path):
    kspace = complex_noise((2, 3, 10, 12))
    write_cfl(tmp_path / "s", kspace.transpose(3, 2, 1, 0).reshape(12, 10, 1, 3, *[1] * 9, 2))
    (tmp_path / "s.json").write_text(json.dumps({"spacing_mm": [4, 2, 1.5]}), encoding="utf-8")
    read = read_kspace(tmp_path / "s.cfl")
    np.testing.assert_array_equal(read.array, kspace)
    assert read.spacing_mm == (4, 2, 1.5)
    write_cfl(tmp_path / "v", kspace.transpose(3, 2, 0, 1))
    volume = read_kspace(tmp_path / "v.cfl").array
    back = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(volume, axes=0), axis=0, norm="ortho"), axes=0)
    np.testing.assert_allclose(back, kspace, atol=1e-5)
    write_cfl(tmp_path / "m", complex_noise((12, 10, 1, 3, 2)))
    assert reason(tmp_path / "m.cfl") == "dimensions"
    write_cfl(tmp_path / "r", complex_noise((1, 24, 7, 2)))
    assert reason(tmp_path / "r.cfl") == "trajectory"


@pytest.mark.hostile("cfl header that claims another size")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# Dimensions\n12 10 1 2 2\n", "truncated"),
        ("# Dimensions\n99999999999 99999999999\n", "too-large"),
        ("# Dimensions\n-12 10\n", "shape"),
        ("# Dimensions\n", "shape"),
        ("# Dimensions\n0 10\n", "too-large"),
        ("", "shape"),
    ],
)
def test_headers_that_do_not_fit(tmp_path, text, expected):
    write_cfl(tmp_path / "k", complex_noise((12, 10, 1, 2)))
    (tmp_path / "k.hdr").write_text(text, encoding="ascii")
    assert reason(tmp_path / "k.cfl") == expected


@pytest.mark.hostile("links beside raw data that leave the study's folder")
def test_links_that_leave_the_folder_are_as_good_as_missing(tmp_path):
    outside, inside = tmp_path / "outside", tmp_path / "study"
    outside.mkdir()
    inside.mkdir()
    np.save(outside / "path.npy", np.zeros((7, 24, 2), np.float32))
    np.save(inside / "k.npy", complex_noise((2, 7, 24)))
    notes = {"axes": "coils readouts samples", "spacing_mm": [1, 1, 1], "matrix": [12, 12], "trajectory": "path.npy"}
    (inside / "k.json").write_text(json.dumps(notes), encoding="utf-8")
    (inside / "path.npy").symlink_to(outside / "path.npy")
    assert reason(inside / "k.npy") == "json"
    write_cfl(outside / "b", complex_noise((12, 10, 1, 2)))
    shutil.copy(outside / "b.cfl", inside / "b.cfl")
    (inside / "b.hdr").symlink_to(outside / "b.hdr")
    assert reason(inside / "b.cfl") == "undecodable"
