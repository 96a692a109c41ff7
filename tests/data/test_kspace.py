"""K-space files and the JSON beside them."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from data import kspace_common as module
from data.errors import InputError
from data.kspace import read_kspace

DEMO = Path(__file__).parents[2] / "data" / "demo" / "kspace" / "brain8coil"


def some(shape=(2, 3, 6, 8), seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def save(folder, array, notes=None, name="kspace.npy"):
    path = folder / name
    if name.endswith(".npy"):
        np.save(path, array)
    else:
        with h5py.File(path, "w") as handle:
            handle["kspace"] = array
    if notes is not None:
        path.with_suffix(".json").write_text(json.dumps(notes), encoding="utf-8")
    return path


NOTES = {"axes": "z coils y x", "spacing_mm": [5, 1.5, 1.25]}


@pytest.mark.parametrize("name", ["kspace.npy", "kspace.h5"])
@pytest.mark.parametrize("axes", ["z coils y x", "coils y x z", "x y coils z"])
def test_axes_are_put_in_order(tmp_path, axes, name):
    array = some()
    stored = np.einsum(f"zcyx->{axes.replace('coils', 'c').replace(' ', '')}", array)
    read = read_kspace(save(tmp_path, stored, NOTES | {"axes": axes, "shape": list(stored.shape)}, name))
    np.testing.assert_array_equal(read.array, array)
    assert read.array.dtype == np.complex64
    assert read.spacing_mm == (5.0, 1.5, 1.25)


def test_missing_axes_are_added(tmp_path):
    array = some((6, 8))
    assert read_kspace(save(tmp_path, array, NOTES | {"axes": "y x"})).array.shape == (1, 1, 6, 8)


def test_affine_is_centred_or_as_given(tmp_path):
    affine = read_kspace(save(tmp_path, some(), NOTES)).affine
    centre = affine @ [(8 - 1) / 2, (6 - 1) / 2, (2 - 1) / 2, 1]
    np.testing.assert_allclose(centre, [0, 0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(np.abs(np.diag(affine)), [1.25, 1.5, 5, 1])
    given = np.diag([2.0, 2, 2, 1]).tolist()
    np.testing.assert_array_equal(read_kspace(save(tmp_path, some(), NOTES | {"affine": given})).affine, given)


@pytest.mark.parametrize("size", [(6, 8), (7, 9)])
def test_corner_is_shifted_to_the_centre(tmp_path, size):
    image = np.random.default_rng(0).normal(size=size)
    corner, centre = np.fft.fft2(image), np.fft.fftshift(np.fft.fft2(image))
    read = read_kspace(save(tmp_path, corner.astype(np.complex64), NOTES | {"axes": "y x", "dc": "corner"}))
    np.testing.assert_allclose(read.array[0, 0], centre, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("size", [(6, 8), (7, 9)])
def test_a_transform_with_its_origin_in_the_corner_is_rolled_back(tmp_path, size):
    image = np.random.default_rng(0).normal(size=size)
    rolled, right = np.fft.fftshift(np.fft.fft2(image)), np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image)))
    read = read_kspace(save(tmp_path, rolled.astype(np.complex64), NOTES | {"axes": "y x", "origin": "corner"}))
    np.testing.assert_allclose(read.array[0, 0], right, rtol=1e-4, atol=1e-4)


def test_demo_is_centred_and_shows_one_head():
    kspace = read_kspace(DEMO / "kspace.npy").array
    assert kspace.shape == (1, 8, 230, 180)
    axes = (-2, -1)
    coils = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=axes), norm="ortho"), axes=axes)
    energy = (np.abs(coils[0]) ** 2).sum(0)
    rows, columns = np.indices(energy.shape)
    middle = (np.abs(rows - 115) < 95) & (np.abs(columns - 90) < 75)
    assert energy[middle].sum() > 0.97 * energy.sum()
    calibration = np.abs(kspace[0, :, 103:127, 78:102]) > 0
    assert calibration.all()


def _reason(path):
    with pytest.raises(InputError) as caught:
        read_kspace(path)
    return caught.value.reason


@pytest.mark.parametrize(
    ("notes", "reason"),
    [
        (None, "no-json"),
        ({"axes": "coils y x", "spacing_mm": [1, 1, 1]}, "shape"),
        (NOTES | {"shape": [2, 3, 6, 9]}, "shape"),
        ({"spacing_mm": [1, 1, 1]}, "json"),
        ({"axes": "z coils y x"}, "json"),
        (NOTES | {"axes": "t coils y x"}, "json"),
        (NOTES | {"axes": "y coils y x"}, "json"),
        (NOTES | {"spacing_mm": [1, 1]}, "json"),
        (NOTES | {"spacing_mm": [1, -1, 1]}, "json"),
        (NOTES | {"spacing_mm": [1, None, 1]}, "json"),
        (NOTES | {"dc": "left"}, "json"),
        (NOTES | {"origin": 0}, "json"),
        (NOTES | {"affine": [[1, 0], [0, 1]]}, "json"),
        (["axes"], "json"),
    ],
)
def test_json_that_does_not_fit(tmp_path, notes, reason):
    assert _reason(save(tmp_path, some(), notes)) == reason


def test_json_that_is_none(tmp_path):
    path = save(tmp_path, some(), NOTES)
    path.with_suffix(".json").write_text("{axes", encoding="utf-8")
    assert _reason(path) == "json"


def test_pickles_are_not_loaded(tmp_path):
    path = tmp_path / "kspace.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    path.with_suffix(".json").write_text(json.dumps(NOTES), encoding="utf-8")
    assert _reason(path) == "truncated"


@pytest.mark.parametrize("name", ["kspace.npy", "kspace.h5"])
def test_truncated(tmp_path, name):
    path = save(tmp_path, some(), NOTES, name)
    path.write_bytes(path.read_bytes()[:-600])
    assert _reason(path) == "truncated"


def test_real_numbers_and_too_many(tmp_path, monkeypatch):
    assert _reason(save(tmp_path, some().real, NOTES)) == "not-scalar"
    monkeypatch.setattr(module, "MAX_SAMPLES", 10)
    assert _reason(save(tmp_path, some(), NOTES)) == "too-large"


def test_links_to_other_files_are_refused(tmp_path):
    save(tmp_path, some(), None, "secret.h5")
    path = tmp_path / "kspace.h5"
    with h5py.File(path, "w") as handle:
        handle["kspace"] = h5py.ExternalLink("secret.h5", "/kspace")
    path.with_suffix(".json").write_text(json.dumps(NOTES), encoding="utf-8")
    assert _reason(path) == "json"
