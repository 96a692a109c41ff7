"""One anatomy written as axial, sagittal, coronal and oblique stacks, and as NIfTI, ends in the same world."""

import nibabel
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from data.nifti import read_volume, write_volume
from data.volume import LPS_TO_RAS, Volume, slice_direction, sliced, to_closest_ras
from tests.data import dicom_builder as build
from tests.data.test_dicom import ORIENTATIONS, read_only_series

SIZE, STEP_MM = 12, 2.0
CENTRE = np.array([8.0, -20.0, 35.0])


def anatomy(lps):
    """A value for every place, different in all directions and linear, so that nothing hides."""
    x, y, z = np.moveaxis(lps - CENTRE, -1, 0)
    return np.rint(500 + 16 * x - 8 * y + 4 * z).astype(np.int64)


def write_stack(folder, orientation):
    """13 slices of 12x12 pixels about CENTRE, their planes as the orientation says."""
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    normal = np.cross(row, column)
    first = CENTRE - (SIZE - 1) / 2 * STEP_MM * (row + column + normal)
    series = build.Series("MR", orientation, SIZE + 1, SIZE, SIZE, (STEP_MM, STEP_MM), STEP_MM, tuple(first))
    rows, columns = np.indices((SIZE, SIZE)) * STEP_MM
    for z, path in enumerate(build.write(series, folder)):
        ds = pydicom.dcmread(path)
        places = series.position(z) + columns[..., None] * row + rows[..., None] * column
        ds.RescaleSlope, ds.RescaleIntercept = "1", "0"
        ds.PixelData = anatomy(places).astype(np.uint16).tobytes()
        ds.save_as(path)


def assert_anatomy(volume):
    z, y, x = np.indices(volume.shape)
    ras = np.stack([x, y, z, np.ones_like(x)], axis=-1) @ volume.affine.T
    expected = anatomy((ras @ LPS_TO_RAS)[..., :3].round(4))
    assert np.abs(volume.array_zyx - expected).max() <= 1


@pytest.mark.parametrize("name", ORIENTATIONS)
@pytest.mark.interop("read", "DICOM, any orientation", "closed form")
def test_every_value_is_at_its_place(tmp_path, name):
    write_stack(tmp_path, ORIENTATIONS[name])
    volume = read_only_series(tmp_path)
    assert_anatomy(volume)
    assert_anatomy(to_closest_ras(volume))
    for direction in ("axial", "coronal", "sagittal"):
        turned = sliced(volume, direction)
        assert slice_direction(turned.affine)[0] == direction
        assert_anatomy(turned)


@pytest.mark.parametrize("name", ["axial", "sagittal", "coronal"])
def test_all_stacks_give_one_array(tmp_path, name):
    write_stack(tmp_path / "axial", build.AXIAL)
    write_stack(tmp_path / "other", ORIENTATIONS[name])
    one, other = (sliced(read_only_series(tmp_path / folder), "axial") for folder in ("axial", "other"))
    shared = [np.intersect1d(*(_places(volume, axis) for volume in (one, other))) for axis in range(3)]
    kept = [_at(volume, shared) for volume in (one, other)]
    assert min(kept[0].shape) >= SIZE - 1
    np.testing.assert_array_equal(kept[0], kept[1])


def _places(volume, axis):
    return (volume.affine[axis, axis] * np.arange(volume.shape[2 - axis]) + volume.affine[axis, 3]).round(3)


def _at(volume, shared):
    x, y, z = (np.isin(_places(volume, axis), shared[axis]) for axis in range(3))
    return volume.array_zyx[np.ix_(z, y, x)]


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_nifti_of_a_stack_is_the_stack(tmp_path, name):
    write_stack(tmp_path / "in", ORIENTATIONS[name])
    volume = read_only_series(tmp_path / "in")
    write_volume(tmp_path / "v.nii", volume.array_zyx, volume.affine)
    again = read_volume(tmp_path / "v.nii")
    assert slice_direction(again.affine)[0] == slice_direction(volume.affine)[0]
    assert_anatomy(again)


def test_names_of_directions():
    affines = {
        "axial": np.diag([-1.0, -1, 3, 1]),
        "coronal": np.array([[1.0, 0, 0, 0], [0, 0, 2, 0], [0, -1, 0, 0], [0, 0, 0, 1]]),
        "sagittal": np.array([[0.0, 0, 4, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]]),
    }
    for name, affine in affines.items():
        assert slice_direction(affine) == (name, 0)
    lean = np.eye(4)
    lean[:3, :3] = nibabel.eulerangles.euler2mat(0, 0, np.deg2rad(20))
    name, degrees = slice_direction(lean)
    assert (name, round(degrees, 6)) == ("axial", 20)


def test_turning_keeps_memory_order():
    volume = Volume.from_affine(np.arange(24.0).reshape(2, 3, 4), np.diag([-1.0, -2, 3, 1]))
    turned = sliced(volume, "sagittal")
    assert turned.shape == (4, 2, 3)
    assert turned.spacing_mm == (1, 3, 2)
    assert turned.array_zyx.flags.c_contiguous


angles = st.floats(-180, 180)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(
    turn=st.tuples(angles, angles, angles),
    spacing=st.tuples(*[st.floats(0.2, 6)] * 3),
    first=st.tuples(*[st.floats(-400, 400)] * 3),
    seed=st.integers(0, 99),
)
def test_any_place_and_orientation(tmp_path, turn, spacing, first, seed):
    matrix = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    orientation = tuple(matrix[:, 0]) + tuple(matrix[:, 1])
    series = build.Series("MR", orientation, 5, 6, 4, spacing[:2], spacing[2], first, seed=seed)
    folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
    build.write(series, folder)
    volume = read_only_series(folder)
    np.testing.assert_array_equal(volume.array_zyx, series.stored * build.SLOPE + build.INTERCEPT)
    np.testing.assert_allclose(volume.affine, series.affine_ras, atol=1e-4)
