"""CT slices whose pixels are not square: onto square ones, in their place, and through the stages."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from data.errors import InputError
from data.nifti import read_volume, write_volume
from data.volume import Volume
from pipeline.measure import main
from pipeline.measure_cone import simulate_cone
from pipeline.measure_ct import simulate_ct
from pipeline.measurement import read_measurement
from pipeline.settings import CtMeasureSettings
from pipeline.square_pixels import with_square_pixels
from tests.data import dicom_builder as build
from tests.pipeline.test_ingest import accepted, ingest


def turned_affine(row_mm, column_mm):
    """Columns along -y of the patient, rows along x, slices 3 mm apart."""
    return np.array([[0, row_mm, 0, 30.0], [-column_mm, 0, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]])


def places(volume):
    """World coordinates (xyz z y x) of the voxels' centres, mm."""
    z, y, x = np.indices(volume.shape)
    return np.tensordot(volume.affine, np.stack([x, y, z, np.ones_like(x)]), 1)[:3]


def disc_volume(row_mm, column_mm, radius=40.0, centre=(6.0, -9.0), slices=2):
    """Water (0 HU) in a disc of the patient's x and y in mm, air around; a field of 128 mm, edges oversampled."""
    rows, columns = round(128 / row_mm), round(128 / column_mm)
    y, x = (np.arange(8 * size) / 8 + 1 / 16 - size / 2 for size in (rows, columns))
    inside = np.hypot(x[None] * column_mm - centre[0], y[:, None] * row_mm - centre[1]) < radius
    share = inside.reshape(rows, 8, columns, 8).mean((1, 3))
    affine = np.diag([column_mm, row_mm, 3.0, 1.0])
    affine[:2, 3] = -(columns - 1) / 2 * column_mm, -(rows - 1) / 2 * row_mm
    return Volume.from_affine(np.repeat(1000 * share[None] - 1000, slices, 0).astype(np.float32), affine)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 12), columns=st.integers(1, 12),
    row_mm=st.floats(0.2, 1.9), column_mm=st.floats(0.2, 1.9),
)  # fmt: skip
def test_linear_functions_of_place_are_kept(rows, columns, row_mm, column_mm):
    grid = Volume.from_affine(np.zeros((2, rows, columns)), turned_affine(row_mm, column_mm))
    gradient = np.array([3.0, -2.0, 0.5])
    ramp = Volume.from_affine(np.tensordot(gradient, places(grid), 1), grid.affine)
    square, said = with_square_pixels(ramp, "v")
    expected = np.tensordot(gradient, places(square), 1)
    _, row, column = square.spacing_mm
    assert row == pytest.approx(column, rel=2e-3)
    assert bool(said) == (square is not ramp)
    inside = np.ones(square.shape, bool)
    for axis, old, new in ((1, row_mm, row), (2, column_mm, column)):
        half = (ramp.shape[axis] - 1) / 2 * old + 1e-9
        at = np.abs(np.arange(square.shape[axis]) - (square.shape[axis] - 1) / 2) * new
        inside &= np.expand_dims(at <= half, [other for other in range(3) if other != axis])
        assert ramp.shape[axis] * old - new < square.shape[axis] * new <= ramp.shape[axis] * old * (1 + 2e-3)
    np.testing.assert_allclose(square.array_zyx[inside], expected[inside], atol=2e-3)


@pytest.mark.parametrize("axis", [1, 2])
def test_equals_scipys_linear_interpolation(axis):
    spacing_mm = (1.25, 0.5) if axis == 1 else (0.5, 1.25)
    volume = Volume.from_affine(np.random.default_rng(0).normal(size=(3, 9, 7)), turned_affine(*spacing_mm))
    square, _ = with_square_pixels(volume, "v")
    world = places(square).reshape(3, -1)
    indices = np.linalg.inv(volume.affine) @ np.append(world, np.ones((1, world.shape[1])), 0)
    oracle = ndimage.map_coordinates(volume.array_zyx, indices[2::-1], order=1, mode="nearest")
    np.testing.assert_allclose(square.array_zyx.ravel(), oracle, atol=1e-5)


def test_square_pixels_are_left_alone_and_needles_are_refused():
    volume = Volume.from_affine(np.zeros((2, 4, 4)), np.diag([1.0, 1.0005, 3, 1]))
    assert with_square_pixels(volume, "v") == (volume, "")
    with pytest.raises(InputError, match=r"v\.nii: pixels of 6 by 0.5 mm are too far from square"):
        with_square_pixels(Volume.from_affine(np.zeros((2, 4, 4)), turned_affine(6, 0.5)), "v.nii")


@pytest.mark.parametrize("beam", ["parallel", "fan", "cone"])
def test_a_disc_is_measured_alike_whatever_its_pixels(beam):
    chosen = CtMeasureSettings(beam=beam, views=9, range_deg=360.0, working_matrix=32, photons=1e12)
    simulate = simulate_cone if beam == "cone" else simulate_ct
    square, truth = simulate(disc_volume(1.0, 1.0), chosen, "v")
    oblong, other = simulate(disc_volume(2.0, 1.0), chosen, "v")
    np.testing.assert_allclose(oblong.affine, square.affine, atol=1e-9)
    integrals = square.tensors["line_integrals"], oblong.tensors["line_integrals"]
    assert np.sqrt(np.mean((integrals[0] - integrals[1]) ** 2)) < 0.01 * integrals[0].max()
    assert integrals[1].sum() == pytest.approx(integrals[0].sum(), rel=2e-3)
    assert np.sqrt(np.mean((truth - other) ** 2)) < 25
    assert oblong.metadata["preparation"] == ["pixels of 2 by 1 mm are interpolated to 1 by 1 mm"]
    assert "preparation" not in square.metadata


@pytest.mark.interop("read", "CT with pixels that are not square", "closed form (DICOM, PS3.3 C.7.6.2.1-1)")
def test_dicom_with_oblong_pixels_through_ingest_and_measure(tmp_path, capsys):
    series = build.Series(rows=24, columns=48, pixel_mm=(1.0, 0.5))
    build.write(series, tmp_path / "study")
    assert ingest(tmp_path / "study", tmp_path / "ingest", modality="ct") == 0
    (row,) = accepted(tmp_path / "ingest")
    arguments = ["--input", str(tmp_path / "ingest" / row["series"]), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--settings", json.dumps({"working_matrix": 24, "views": 12})]) == 0
    assert "pixels of 1 by 0.5 mm are interpolated to 0.5 by 0.5 mm" in capsys.readouterr().out
    truth, measurement = read_volume(tmp_path / "out" / "truth.nii.gz"), read_measurement(tmp_path / "out")
    assert truth.spacing_mm == pytest.approx((2.5, 1, 1), abs=1e-5)
    np.testing.assert_allclose(truth.affine, measurement.affine, atol=1e-5)
    middle = series.affine_ras @ [47 / 2, 23 / 2, 0, 1]
    np.testing.assert_allclose(truth.affine @ [23 / 2, 23 / 2, 0, 1], middle, atol=1e-4)
    means = series.stored.mean((1, 2)) * build.SLOPE + build.INTERCEPT
    inner = slice(6, 18)  # what the rounded field of view holds whole
    assert truth.array_zyx[:, inner, inner].mean() == pytest.approx(means.mean(), abs=60)


def test_nifti_resampled_along_one_axis_keeps_its_anatomy(tmp_path):
    write_volume(tmp_path / "study" / "v.nii", disc_volume(2.0, 1.0).array_zyx, disc_volume(2.0, 1.0).affine)
    assert ingest(tmp_path / "study", tmp_path / "ingest", modality="ct") == 0
    (row,) = accepted(tmp_path / "ingest")
    out = tmp_path / "out"
    arguments = ["--input", str(tmp_path / "ingest" / row["series"]), "--out", str(out)]
    assert main([*arguments, "--settings", json.dumps({"working_matrix": 64, "views": 12})]) == 0
    truth = read_volume(out / "truth.nii.gz")
    water = truth.array_zyx[0] > -500
    centre = np.array([np.average(axis[0], weights=water) for axis in places(truth)[:2]])
    np.testing.assert_allclose(centre, (6, -9), atol=0.2)
    assert water.sum() * np.prod(truth.spacing_mm[1:]) == pytest.approx(np.pi * 40**2, rel=0.01)
