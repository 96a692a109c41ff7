"""CT projections in every form: the same numbers, the same geometry; and what is refused, in one sentence."""

from __future__ import annotations

import contextlib
import json
import math
import pickle
import zlib
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.errors import InputError
from data.geometry_json import geometry_dict, read_geometry_notes, slice_mm
from data.projections import claims, projection_files, read_projections
from data.study import find_series
from operators.cone_geometry import cone_from_dict
from operators.ct_geometry import beam_from_dict
from tests.data.ct_scans import FAN, FAN_NOTES, chords, helsinki_beam, write_helsinki, write_notes, write_scan

SINOGRAM = chords(FAN)


@pytest.mark.parametrize(
    "form",
    [
        pytest.param("npy", marks=pytest.mark.interop("read", "CT projections .npy", "numpy")),
        pytest.param("h5", marks=pytest.mark.interop("read", "CT projections .h5", "h5py")),
        pytest.param("tiff", marks=pytest.mark.interop("read", "CT projections, one TIFF", "tifffile")),
        pytest.param("stack", marks=pytest.mark.interop("read", "CT projections, TIFF a view", "tifffile")),
        pytest.param("mat", marks=pytest.mark.interop("read", "CT projections .mat (v5)", "scipy")),
        pytest.param("mat73", marks=pytest.mark.interop("read", "CT projections .mat (v7.3)", "h5py")),
    ],
)
def test_every_form_gives_the_same_projections(tmp_path, form, record_property):
    path = write_scan(tmp_path / "scan", form, SINOGRAM, FAN_NOTES)
    (found,) = find_series(tmp_path / "scan")
    assert (found.kind, found.modality, found.files[0]) == ("projections", "ct", path)
    projections = read_projections(path)
    difference = max(np.abs(row - SINOGRAM).max() for row in projections.values)
    record_property("measured", f"largest difference {difference:.1e} of {SINOGRAM.max():.2f}")
    assert difference < 1e-6
    assert len(projections.values) == (3 if form == "stack" else 1)
    assert beam_from_dict(projections.geometry) == FAN
    # 3 mm rows on the detector are 3 * 400 / 700 mm high at the axis.
    assert projections.slice_mm == pytest.approx(3 * 400 / 700)


@pytest.mark.interop("read", "Helsinki Tomography Challenge 2022 .mat", "scipy, HelTomo's field names")
@pytest.mark.parametrize("version", ["5", "7.3"])
@pytest.mark.parametrize(("first", "last", "views"), [(0, 360, 721), (40, 100, 121)])
def test_the_helsinki_challenge_from_its_file_alone(tmp_path, version, first, last, views, record_property):
    sinogram = write_helsinki(tmp_path / "htc2022_ta.mat", first, last, version)
    (found,) = find_series(tmp_path)
    assert (found.kind, found.name) == ("projections", "htc2022_ta")
    projections = read_projections(found.files[0])
    assert projections.kind == "log"
    assert projections.values.shape == (1, views, 560)
    assert np.abs(projections.values[0] - sinogram).max() < 1e-6
    beam = beam_from_dict(projections.geometry)
    expected = helsinki_beam(np.arange(first, last + 0.25, 0.5))
    assert np.allclose(beam.vectors(), expected.vectors(), atol=1e-9)
    record_property("measured", f"{views} views, {beam.bins} bins, {beam.source_axis_mm} mm to the axis")
    assert "Nobody" not in repr({k: v for k, v in vars(projections).items() if k != "values"})


def test_a_mat_file_beside_a_geometry_is_explained_by_it(tmp_path):
    write_helsinki(tmp_path / "htc.mat", 40, 100)
    notes = FAN_NOTES | {"angles_deg": {"step": 0.5}, "projections": {"dataset": "CtDataLimited.sinogram"}}
    path = write_notes(tmp_path, notes)
    (found,) = find_series(tmp_path)
    assert found.files[0] == path
    assert read_projections(path).geometry["source_axis_mm"] == 400


CASES = {
    "parallel": ({"type": "parallel", "angles_deg": [0, 90], "detector_pixel_mm": [2, 1.5]}, "views rows columns"),
    "fan": ({"type": "fan", "angles_deg": [0, 90], "detector_pixel_mm": 1.5, "source_axis_mm": 9, "axis_detector_mm": 5,
             "detector_offset_mm": -0.5}, "views bins"),
    "cone": ({"type": "cone", "angles_deg": [0, 90], "detector_pixel_mm": [2, 1.5], "source_axis_mm": 9,
              "source_detector_mm": 14, "detector_offset_mm": [3, -0.5]}, "rows views columns"),
    "parallel_vec": ({"type": "parallel_vec", "vectors": [[0, -1, 0, 0, 1.5, 0], [1, 0, 0, 0, 0, 1.5]]}, "views bins"),
    "fanflat_vec": ({"type": "fanflat_vec", "vectors": [[0, -9, 0, 5, 1.5, 0], [9, 0, -5, 0, 0, 1.5]]}, "views bins"),
    "cone_vec": ({"type": "cone_vec", "vectors": [[0, -9, 0, 0, 5, 0, 1.5, 0, 0, 0, 0, 2],
                                                  [9, 0, 0, -5, 0, 0, 0, 1.5, 0, 0, 0, 2]]}, "views rows columns"),
}  # fmt: skip


@pytest.mark.parametrize("kind", CASES)
def test_every_type_becomes_a_beam(tmp_path, kind):
    own, axes = CASES[kind]
    notes = read_geometry_notes(write_notes(tmp_path, {"axes": axes, "values": "log"} | own))
    geometry = geometry_dict(notes, (4, 2, 8))
    if kind.startswith("cone"):
        beam = cone_from_dict(geometry)
        assert beam.shape == (2, 4, 8)
        centre = [[0, -9, 0, -0.5, 5, 3], [9, 0, 0, -5, -0.5, 3]] if kind == "cone" else [[0, -9, 0, 0, 5, 0]]
        assert np.allclose(beam.vectors()[: len(centre), :6], centre)
    else:
        beam = beam_from_dict(geometry)
        assert (beam.views, beam.bins, beam.bin_mm) == (2, 8, 1.5)
        sources = {"parallel": [0, -1], "fan": [0, -9], "parallel_vec": [0, -1], "fanflat_vec": [0, -9]}
        assert np.allclose(beam.vectors()[0, :2], sources[kind])
    assert slice_mm(notes) == {"parallel": 2.0, "fan": pytest.approx(1.5 * 9 / 14)}.get(kind)


def test_angles_from_a_file_and_clockwise(tmp_path):
    (tmp_path / "angles.csv").write_text("# degrees\n0, 30\n90\n", encoding="utf-8")
    np.save(tmp_path / "scan.npy", np.random.default_rng(0).random((3, 8)))
    path = write_notes(tmp_path, FAN_NOTES | {"angles_deg": "angles.csv", "rotation": "clockwise"})
    assert np.rad2deg(read_projections(path).geometry["angles_rad"]) == pytest.approx([0, -30, -90])
    assert {file.name for file in projection_files(path)} == {"scan.npy", "angles.csv"}


def test_rows_from_the_top_are_turned_with_their_flats(tmp_path):
    counts = np.arange(2 * 3 * 4).reshape(2, 3, 4) + 100
    np.save(tmp_path / "scan.npy", counts)
    np.save(tmp_path / "flat.npy", counts[0] + 1000)
    notes = {"axes": "views rows columns", "values": "counts", "flat": "flat.npy", "dark": 3, "row_0": "top"}
    path = write_notes(tmp_path, FAN_NOTES | notes | {"angles_deg": [0, 1], "projections": "scan.npy"})
    projections = read_projections(path)
    assert np.array_equal(projections.values, counts.transpose(1, 0, 2)[::-1])
    assert np.array_equal(projections.flat.mean, (counts[0] + 1000)[::-1])
    assert (projections.flat.count, projections.dark.mean.max()) == (1, 3)


def test_variance_of_flat_frames_does_not_count_a_flickering_lamp(tmp_path):
    rng = np.random.default_rng(0)
    frames = rng.poisson(5000, (40, 200)) * rng.uniform(0.9, 1.1, (40, 1))
    np.save(tmp_path / "flat.npy", frames)
    np.save(tmp_path / "scan.npy", rng.poisson(3000, (60, 200)))
    path = write_notes(tmp_path, FAN_NOTES | {"values": "counts", "flat": "flat.npy", "projections": "scan.npy"})
    assert np.median(read_projections(path).flat.variance) == pytest.approx(5000, rel=0.1)


def test_two_scans_in_one_folder(tmp_path):
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(ord(name)).random((60, 8)))
        write_notes(tmp_path, FAN_NOTES, f"{name}.geometry.json")
    found = find_series(tmp_path)
    assert [series.kind for series in found] == ["projections"] * 2
    assert [series.files[1].name for series in found] == ["a.npy", "b.npy"]


WRONG = [
    ({"sourceaxis_mm": 3}, "unknown key 'sourceaxis_mm'; did you mean 'source_axis_mm'"),
    ({"type": "fanflt"}, "did you mean 'fanflat'"),
    ({"axes": "views bin"}, "did you mean 'bins'"),
    ({"axes": "bins"}, "name each axis once"),
    ({"axes": "views z bins"}, "has the shape [60, 120]"),
    ({"values": "logs"}, "did you mean 'log'"),
    ({"values": "counts"}, "counts need a flat field"),
    ({"dark": 3}, "dark is for counts"),
    ({"angles_deg": [1, 2]}, "2 angles but the projections have 60 views"),
    ({"angles_deg": "../angles.txt"}, "outside its folder"),
    ({"projections": "/etc/passwd"}, "outside its folder"),
    ({"projections": "gone.npy"}, "is not there"),
    ({"detector_pixel_mm": -1}, "detector_pixel_mm"),
    ({"detector_pixel_mm": [1, 2, 3]}, "detector_pixel_mm"),
    ({"axis_detector_mm": 4}, "the one or the other"),
    ({"source_detector_mm": 4}, "shorter than source_axis_mm"),
    ({"vectors": [[1, 2]]}, "cannot use vectors"),
    ({"type": "cone", "axes": "views bins"}, "name each axis once"),
    ({"image": {"matrix": 3}}, "out of range"),
    ({"detector_offset_mm": 1e300}, "detector_offset_mm"),
]


@pytest.mark.parametrize(("change", "words"), WRONG)
def test_wrong_geometry_is_one_sentence(tmp_path, change, words):
    np.save(tmp_path / "scan.npy", SINOGRAM)
    path = write_notes(tmp_path, FAN_NOTES | change)
    with pytest.raises(InputError) as caught:
        read_projections(path)
    message = caught.value.user_message
    assert words in message
    assert "geometry.json" in message
    assert message.count("\n") == 0


@pytest.mark.parametrize("key", ["type", "axes", "values", "angles_deg", "detector_pixel_mm", "source_axis_mm"])
def test_a_missing_key_is_named(tmp_path, key):
    np.save(tmp_path / "scan.npy", SINOGRAM)
    notes = {name: value for name, value in FAN_NOTES.items() if name != key}
    with pytest.raises(InputError, match=key):
        read_projections(write_notes(tmp_path, notes))


def test_several_arrays_are_not_guessed_at(tmp_path):
    for name in ("a.npy", "b.npy"):
        np.save(tmp_path / name, SINOGRAM)
    with pytest.raises(InputError, match="2 files could hold the projections; name the file"):
        read_projections(write_notes(tmp_path, FAN_NOTES))


@dataclass
class Payload:
    """Leaves a file behind when it is unpickled."""

    mark: Path

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.mark.hostile("pickle in a .npy of CT projections")
def test_pickles_are_not_loaded(tmp_path):
    payload = Payload(tmp_path / "sliceweave-was-here")
    np.save(tmp_path / "scan.npy", np.array([[payload] * 4] * 4, dtype=object), allow_pickle=True)
    assert b"sliceweave-was-here" in (tmp_path / "scan.npy").read_bytes()
    with pytest.raises(InputError, match=r"scan\.npy"):
        read_projections(write_notes(tmp_path, FAN_NOTES))
    assert not payload.mark.exists()
    (tmp_path / "scan.npy").write_bytes(pickle.dumps(payload))
    with pytest.raises(InputError, match=r"scan\.npy"):
        read_projections(tmp_path / "geometry.json")
    assert not payload.mark.exists()


@pytest.mark.hostile("deflate bomb in a .mat")
def test_a_matlab_bomb_is_refused(tmp_path):
    scipy.io.savemat(tmp_path / "scan.mat", {"data": np.zeros((60, 4))}, do_compression=True)
    packed = zlib.compress(b"\0" * 2**28, 9)
    tag = np.array([15, len(packed)], "<u4").tobytes()
    with (tmp_path / "scan.mat").open("ab") as handle:
        handle.write(tag + packed)
    path = write_notes(tmp_path, FAN_NOTES | {"projections": {"dataset": "data"}})
    with pytest.raises(InputError, match="unpacks to far more") as caught:
        read_projections(path)
    assert caught.value.reason == "too-large"


@pytest.mark.hostile("HDF5 link from CT projections to another file")
def test_links_to_other_files_are_not_followed(tmp_path):
    with h5py.File(tmp_path / "secret.hdf5", "w") as handle:
        handle["data"] = SINOGRAM
    with h5py.File(tmp_path / "scan.h5", "w") as handle:
        handle["data"] = h5py.ExternalLink("secret.hdf5", "data")
    notes = FAN_NOTES | {"projections": {"file": "scan.h5", "dataset": "data"}}
    with pytest.raises(InputError, match="of its own"):
        read_projections(write_notes(tmp_path, notes))


def test_colour_images_and_mixed_sizes_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "scan.tif", np.zeros((60, 120, 3), np.uint8), photometric="rgb")
    path = write_notes(tmp_path, FAN_NOTES)
    with pytest.raises(InputError, match="grey images"):
        read_projections(path)
    (tmp_path / "scan.tif").unlink()
    for number, bins in enumerate((120, 119)):
        tifffile.imwrite(tmp_path / f"v{number}.tif", np.zeros((3, bins), np.uint8))
    with pytest.raises(InputError, match=r"v1\.tif has another size"):
        read_projections(path)


def test_natural_order_of_tiff_files(tmp_path):
    for number in range(12):
        tifffile.imwrite(tmp_path / f"view{number}.tif", np.full((2, 8), number, np.uint16))
    notes = FAN_NOTES | {"axes": "views rows columns", "angles_deg": {"step": 1}}
    values = read_projections(write_notes(tmp_path, notes)).values
    assert np.array_equal(values[0, :, 0], np.arange(12))


@pytest.mark.parametrize("form", ["npy", "h5", "tiff", "mat", "mat73"])
def test_truncated_files_are_one_sentence(tmp_path, form):
    path = write_scan(tmp_path / "scan", form, SINOGRAM, FAN_NOTES)
    (array,) = (file for file in path.parent.iterdir() if file != path)
    array.write_bytes(array.read_bytes()[: array.stat().st_size // 2])
    with pytest.raises(InputError, match="copy it again") as caught:
        read_projections(path)
    assert caught.value.reason == "truncated"


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.hostile("random JSON as geometry.json")
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from([*FAN_NOTES, "vectors", "image", "flat", "detector_offset_mm", "x"]), value=json_values)
def test_any_json_is_read_or_refused_in_one_sentence(tmp_path, key, value):
    np.save(tmp_path / "scan.npy", SINOGRAM)
    path = tmp_path / "geometry.json"
    path.write_text(json.dumps(FAN_NOTES | {key: value}), encoding="utf-8")
    with contextlib.suppress(InputError):
        assert all(math.isfinite(angle) for angle in read_projections(path).geometry["angles_rad"])


@pytest.mark.parametrize("text", ["", "[]", "{", '{"type": NaN}', "[" * 5000, '{"type": "fan"} {}', "\x00"])
def test_what_is_no_geometry_is_refused(tmp_path, text):
    (tmp_path / "geometry.json").write_text(text, encoding="utf-8")
    assert claims(tmp_path / "geometry.json")
    assert projection_files(tmp_path / "geometry.json") == ()
    with pytest.raises(InputError, match=r"geometry\.json"):
        read_projections(tmp_path / "geometry.json")
