"""Cone-beam geometry against ASTRA's own vectors."""

import math

import astra
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.cone_geometry import (
    ConeBeam,
    ConeVectors,
    VolumeGrid,
    cone_from_dict,
    project_points,
    projection_matrices,
    views_through_voxels,
)
from operators.ct_geometry import view_angles

GRID = VolumeGrid(8, 12, 10, 1.5, 2.0)


@pytest.mark.interop("read", "ASTRA cone geometry", "astra.geom_2vec")
def test_vectors_are_astras(record_property):
    angles = (0.0, 0.3, 2.0, -1.0)
    beam = ConeBeam(angles, 6, 9, 0.7, 1.1, 300.0, 120.0, column_offset_mm=2.2, row_offset_mm=-1.4)
    theirs = astra.create_proj_geom("cone", 1.1, 0.7, 6, 9, np.array(angles), 300.0, 120.0)
    theirs = astra.functions.geom_postalignment(theirs, (2.2 / 1.1, -1.4 / 0.7))
    difference = np.abs(beam.vectors() - theirs["Vectors"]).max()
    record_property("measured", f"largest difference {difference:.1e} mm")
    assert difference < 1e-12


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-7, 7), min_size=1, max_size=5), st.floats(-9, 9), st.integers(1, 9))
def test_dictionaries_give_the_same_geometry_back(angles, offset, rows):
    beam = ConeBeam(tuple(angles), rows, 7, 0.5, 0.25, 100.0, 0.0, offset, -offset)
    assert cone_from_dict(beam.to_dict()) == beam
    free = ConeVectors(tuple(map(tuple, beam.vectors())), rows, 7)
    assert cone_from_dict(free.to_dict()) == free
    np.testing.assert_array_equal(free.vectors(), beam.vectors())


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 0},
        {"rows": 2.5},
        {"row_mm": -1.0},
        {"source_axis_mm": math.nan},
        {"angles_rad": ()},
        {"axis_detector_mm": -1},
    ],
)
def test_impossible_geometry_is_refused(change):
    with pytest.raises(ValueError, match=r"must|needs"):
        ConeBeam(
            **(
                {"angles_rad": (0.0,), "rows": 4, "columns": 4, "row_mm": 1.0, "column_mm": 1.0}
                | {"source_axis_mm": 100.0, "axis_detector_mm": 50.0}
                | change
            )
        )


def test_impossible_vectors_are_refused():
    good = ConeBeam((0.0,), 4, 4, 1.0, 1.0, 100.0, 50.0).vectors()
    with pytest.raises(ValueError, match="shape"):
        ConeVectors(tuple(map(tuple, good[:, :11])), 4, 4)
    in_plane = good.copy()
    in_plane[0, :3] = in_plane[0, 3:6] + in_plane[0, 6:9]
    with pytest.raises(ValueError, match="plane"):
        ConeVectors(tuple(map(tuple, in_plane)), 4, 4)
    with pytest.raises(ValueError, match="inside the volume"):
        ConeBeam.covering(GRID, (0.0,), 5.0, 50.0)


def test_covering_detector_sees_every_voxel_and_no_smaller_one_does():
    beam = ConeBeam.covering(GRID, view_angles(40, 360.0), 40.0, 20.0)
    assert views_through_voxels(GRID, beam).min() == 1.0
    low = ConeBeam(beam.angles_rad, beam.rows - 4, beam.columns, beam.row_mm, beam.column_mm, 40.0, 20.0)
    share = views_through_voxels(GRID, low)
    assert share[0].min() < 1.0
    assert share[GRID.slices // 2].min() == 1.0


def test_what_a_low_detector_sees_follows_the_cone():
    grid = VolumeGrid(41, 5, 5, 8.0, 1.0)
    beam = ConeBeam(view_angles(90, 360.0), 20, 60, 1.5, 1.5, 60.0, 30.0)
    share = views_through_voxels(grid, beam)
    z = np.abs(np.arange(41) - 20.0)
    whole = z <= 15 * (60 - np.hypot(16, 16)) / 90
    never = z > 15 * (60 + np.hypot(16, 16)) / 90
    corner = share[:, 0, 0]
    assert (corner[whole] == 1).all()
    assert (corner[never] == 0).all()
    assert (corner[~whole & ~never] < 1).all()
    assert (corner[~whole & ~never] > 0).all()


def test_points_project_where_similar_triangles_put_them():
    beam = ConeBeam((0.0,), 4, 4, 0.5, 2.0, 100.0, 50.0)
    column, line = project_points(projection_matrices(beam)[0], np.array([[10.0, 0.0, -4.0], [3.0, 20.0, 1.0]]))
    np.testing.assert_allclose(column, [10 * 1.5 / 2.0, 3 * 150 / 120 / 2.0])
    np.testing.assert_allclose(line, [-4 * 1.5 / 0.5, 150 / 120 / 0.5])
