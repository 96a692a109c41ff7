"""FDK against a ball in closed form, against our fan-beam FBP in the mid-plane, and its limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from operators.cone_geometry import ConeBeam, ConeVectors, VolumeGrid
from operators.ct_geometry import view_angles
from solvers.classical.fbp import FbpSettings, backproject_filtered
from solvers.classical.fdk import backproject_cone, fdk
from solvers.problem import Problem
from tests.operators.ellipsoids import PHANTOM, Ellipsoid, line_integrals

MU = 0.02
BALL = (Ellipsoid((0.0, 0.0, 0.0), (30.0, 30.0, 30.0), 0.0, MU),)
GRID = VolumeGrid(33, 64, 64, 1.25, 2.5)
SHARP = FbpSettings("ramlak", 1.0)


def scan(views: int, range_deg: float, columns: int = 110, rows: int = 60, offset_mm: float = 0.0) -> ConeBeam:
    return ConeBeam(view_angles(views, range_deg, 20.0), rows, columns, 2.4, 1.4, 200.0, 100.0, offset_mm)


def radius_mm(grid: VolumeGrid) -> np.ndarray:
    z, y, x = ((np.arange(n) - (n - 1) / 2) * step for n, step in zip(grid.shape, grid.spacing_mm, strict=True))
    return np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2)


SCANS = {
    "full turn": scan(240, 360.0),
    "short scan": scan(180, 230.0),
    "shortest scan": scan(180, 210.0),
    "detector shifted right": scan(240, 360.0, 74, offset_mm=30.0),
    "detector shifted left": scan(240, 360.0, 74, offset_mm=-30.0),
}


@pytest.mark.interop("read", "cone-beam projections", "FDK of a ball in closed form")
@pytest.mark.parametrize("name", SCANS)
def test_a_balls_attenuation_comes_back(name, record_property):
    projections = torch.from_numpy(line_integrals(BALL, SCANS[name])).float()
    volume = backproject_cone(projections, GRID, SCANS[name], SHARP).numpy() / MU
    middle, radius = volume[16], radius_mm(GRID)
    inside, outside = middle[radius[16] < 25], middle[(radius[16] > 36) & (radius[16] < 42)]
    record_property("measured", f"mid-plane mean {inside.mean():.4f} of the truth, spread {inside.std():.4f}")
    assert inside.mean() == pytest.approx(1, abs=0.003)
    assert inside.std() < 0.005
    assert np.abs(outside).max() < 0.03
    # Off the mid-plane FDK loses density (Feldkamp et al. 1984): here about 1.5 % at 20 mm.
    assert 0.97 < volume[24][radius[24] < 25].mean() < 1.0


def test_mid_plane_is_the_fan_beams_fbp():
    beam = scan(90, 215.0, rows=1, offset_mm=2.0)
    projections = torch.from_numpy(line_integrals(PHANTOM, beam))
    grid = VolumeGrid(1, 50, 44, 1.7, 0.1)
    ours = backproject_cone(projections, grid, beam, FbpSettings())
    fan = backproject_filtered(projections.movedim(1, 0), grid.slice_grid, beam.fan(), FbpSettings())
    inside = radius_mm(grid) < 36
    np.testing.assert_allclose(ours.numpy()[inside], fan.numpy()[inside], atol=2e-5)


def test_an_object_without_symmetry_lands_where_it_is():
    beam = ConeBeam(view_angles(180, 360.0, 7.0), 70, 80, 2.0, 2.0, 260.0, 140.0, 1.5, -2.5)
    grid = VolumeGrid(32, 40, 44, 2.0, 2.4)
    volume = backproject_cone(torch.from_numpy(line_integrals(PHANTOM, beam)).float(), grid, beam, FbpSettings())
    for shape, level in ((PHANTOM[1], 0.4), (PHANTOM[2], 1.9)):
        x, y, z = shape.centre
        place = round(z / 2.4 + 15.5), round(19.5 - y / 2), round(x / 2 + 21.5)
        assert float(volume[place]) == pytest.approx(level, abs=0.1)


def test_rows_and_columns_may_run_backwards():
    beam = scan(120, 230.0, rows=30)
    projections = torch.from_numpy(line_integrals(PHANTOM, beam))
    table = beam.vectors()
    table[:, 6:] *= -1
    turned = ConeVectors(table.tolist(), beam.rows, beam.columns)
    np.testing.assert_allclose(line_integrals(PHANTOM, turned), projections.flip(1, 2), atol=1e-9)
    expected = backproject_cone(projections, GRID, beam, FbpSettings())
    torch.testing.assert_close(
        backproject_cone(projections.flip(1, 2), GRID, turned, FbpSettings()), expected, rtol=1e-6, atol=1e-6
    )


def test_voxels_that_leave_the_detector_in_some_views_keep_their_density():
    low = scan(120, 360.0, rows=20)
    volume = (
        backproject_cone(torch.from_numpy(line_integrals(BALL, low)).float(), GRID, low, FbpSettings()).numpy() / MU
    )
    z, radius = (np.arange(33) - 16) * 2.5, radius_mm(GRID)
    # Half the detector's 48 mm at the axis: 16 mm; 13.5 to 18.5 mm within 30 mm of it.
    partly = np.abs(np.abs(z) - 15) < 0.1
    assert volume[partly][radius[partly] < 25].mean() == pytest.approx(1, abs=0.05)
    assert (volume[np.abs(z) > 22] == 0).all()


def test_what_fdk_cannot_do_is_said():
    beam = scan(12, 360.0, rows=8, columns=20)
    projections, table = torch.zeros(beam.shape), beam.vectors()
    helix = table.copy()
    helix[:, [2, 5]] += np.linspace(-40, 40, 12)[:, None]
    with pytest.raises(ValueError, match="circle about the volume's z axis"):
        backproject_cone(projections, GRID, ConeVectors(helix.tolist(), 8, 20), SHARP)
    standing = np.concatenate([table[:, :6], table[:, 9:], table[:, 6:9]], 1)
    with pytest.raises(ValueError, match="columns that run across"):
        backproject_cone(projections, GRID, ConeVectors(standing.tolist(), 8, 20), SHARP)
    zeros = torch.zeros(2, 3, 4)
    with pytest.raises(ValueError, match="cone beams alone"):
        fdk(Problem(None, zeros, torch.ones(()), zeros, 0.3, (1.0, 1.0, 1.0)), SHARP)
