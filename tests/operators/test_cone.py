"""Cone-beam projector against ellipsoids in closed form, ASTRA's 2D matrices and projected points, and itself."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import astra
import astra.experimental
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import cone_torch
from operators.cone_astra import AstraConeProjector, astra_cuda_available, astra_geometries
from operators.cone_geometry import ConeBeam, ConeGeometry, ConeVectors, VolumeGrid, project_points, projection_matrices
from operators.cone_projector import AXES, ConeProjector
from operators.ct_geometry import ImageGrid, ParallelBeam, view_angles
from operators.ct_projector import CtProjector
from tests.operators.ellipsoids import PHANTOM, line_integrals, voxels
from tests.operators.helpers import adjoint_error, seeded

GRID = VolumeGrid(9, 12, 10, 2.0, 2.6)
CIRCLE = ConeBeam(view_angles(7, 360.0, 3.0), 13, 15, 3.0, 2.5, 45.0, 25.0, 2.2, -1.7)
ENDS = (("Min", -1), ("Max", 1))
NEEDS_CUDA = pytest.mark.skipif(not astra_cuda_available(), reason="needs a CUDA device that ASTRA and torch both see")


def shaken(beam: ConeBeam, size: float, seed: int = 0) -> ConeVectors:
    """The scanner with every source, detector and pixel axis moved by random mm: nothing upright, nothing circular."""
    moved = beam.vectors() + size * np.random.default_rng(seed).standard_normal((beam.views, 12))
    return ConeVectors(tuple(map(tuple, moved)), beam.rows, beam.columns)


def along_z() -> ConeVectors:
    """Sources above and below the volume: rays whose main axis is z."""
    swap = [0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10]
    return ConeVectors(tuple(map(tuple, CIRCLE.vectors()[:, swap])), CIRCLE.rows, CIRCLE.columns)


BEAMS = {"circle": CIRCLE, "shaken": shaken(CIRCLE, 0.2), "along z": along_z()}


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("name", BEAMS)
def test_adjoint_is_exact(name, dtype, limit):
    assert adjoint_error(ConeProjector(GRID, BEAMS[name]), GRID.shape, dtype) < limit


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(1, 7)),
    detector=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    start=st.floats(-180, 180),
    slice_mm=st.floats(0.3, 5.0),
    offsets=st.tuples(st.floats(-4, 4), st.floats(-4, 4)),
    shake=st.sampled_from([0.0, 0.3]),
)
def test_adjoint_is_exact_and_devices_agree_for_any_geometry(shape, detector, start, slice_mm, offsets, shake):
    grid = VolumeGrid(*shape, 1.5, slice_mm)
    beam = ConeBeam(view_angles(3, 360.0, start), *detector, 2.0, 1.0, 40.0, 20.0, *offsets)
    beam = shaken(beam, shake) if shake else beam
    operator = ConeProjector(grid, beam)
    x = torch.randn(grid.shape, dtype=torch.float64, generator=seeded())
    y = torch.randn(beam.shape, dtype=torch.float64, generator=seeded(1))
    projections, back = operator(x), operator.adjoint(y)
    assert abs(float((projections * y).sum() - (x * back).sum())) < 1e-10 * float(1 + x.norm() * y.norm())
    torch.testing.assert_close(by_torch(operator, x), projections, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(by_torch_adjoint(operator, y), back, rtol=1e-9, atol=1e-9)


def by_torch(operator: ConeProjector, x: torch.Tensor) -> torch.Tensor:
    """The code that serves other devices, run on the CPU."""
    steps = operator._steps
    return (cone_torch.forward(x, operator._rays, AXES, steps.shape) * steps).movedim(1, 2)


def by_torch_adjoint(operator: ConeProjector, y: torch.Tensor) -> torch.Tensor:
    values = y.movedim(2, 1) * operator._steps
    return cone_torch.adjoint(values, operator._rays, AXES, operator.grid.shape)


@pytest.mark.parametrize("name", BEAMS)
def test_upright_and_general_kernels_agree(name):
    operator = ConeProjector(GRID, BEAMS[name])
    general = ConeProjector(GRID, BEAMS[name])
    general._upright = False
    assert operator._upright == (name == "circle")
    x = torch.randn(GRID.shape, dtype=torch.float64, generator=seeded())
    torch.testing.assert_close(operator(x), general(x), rtol=1e-11, atol=1e-11)
    y = operator(x)
    torch.testing.assert_close(operator.adjoint(y), general.adjoint(y), rtol=1e-11, atol=1e-11)


def ellipsoid_error(size: int, beam: ConeGeometry) -> float:
    """Root mean square error relative to the exact integrals, for voxels of 80/size mm."""
    grid = VolumeGrid(size, size + size // 10, size, 80 / size, 72 / size)
    projections = ConeProjector(grid, beam)(torch.from_numpy(voxels(PHANTOM, grid))).numpy()
    exact = line_integrals(PHANTOM, beam)
    return float(np.linalg.norm(projections - exact) / np.linalg.norm(exact))


@pytest.mark.interop("read", "cone-beam projections", "ellipsoids in closed form")
@pytest.mark.parametrize("kind", ["circle", "shaken"])
def test_line_integrals_of_ellipsoids(kind, record_property):
    beam = ConeBeam(view_angles(9, 360.0, 5.0), 48, 60, 2.5, 3.0, 200.0, 150.0, 3.0, -2.0)
    beam = shaken(beam, 0.2, seed=2) if kind == "shaken" else beam
    errors = [ellipsoid_error(size, beam) for size in (10, 20, 40)]
    record_property("measured", f"relative error {errors[2]:.3f} at 2 mm voxels, halved with the voxel")
    assert errors[2] < 0.032
    # The silhouette's voxels are the error: it falls in proportion to their size.
    for coarse, fine in itertools.pairwise(errors):
        assert 1.8 < coarse / fine < 2.4


def test_mean_of_projections_of_ellipsoids_is_exact():
    beam = ConeBeam(view_angles(9, 360.0, 5.0), 48, 60, 2.5, 3.0, 200.0, 150.0)
    grid = VolumeGrid(30, 33, 30, 80 / 30, 72 / 30)
    total = float(ConeProjector(grid, beam)(torch.from_numpy(voxels(PHANTOM, grid))).sum())
    assert total == pytest.approx(line_integrals(PHANTOM, beam).sum(), rel=1e-3)


def smooth_volume(grid: VolumeGrid) -> torch.Tensor:
    """A smooth function of the position that no symmetry maps onto itself."""
    z, y, x = (torch.linspace(-1, 1, n, dtype=torch.float64) for n in grid.shape)
    z, y, x = z[:, None, None], y[None, :, None], x[None, None]
    bump = torch.exp(-((x - 0.2) ** 2 + (y + 0.3) ** 2 + 0.5 * z**2) * 3)
    return bump + 0.4 * torch.exp(-((x + 0.4) ** 2 + (y - 0.1) ** 2) * 12) * (1 + 0.3 * z)


@pytest.mark.oracle
@pytest.mark.interop("read", "cone-beam projections", "ASTRA fan-beam matrix in the mid-plane")
def test_central_plane_is_astras_fan_beam(record_property):
    grid = VolumeGrid(9, 80, 72, 1.0, 1.3)
    beam = ConeBeam(view_angles(11, 360.0, 4.0), 3, 121, 2.0, 1.6, 130.0, 70.0, column_offset_mm=9.0)
    x = smooth_volume(grid)
    middle = ConeProjector(grid, beam)(x)[:, 1]
    fan = CtProjector(grid.slice_grid, beam.fan(), "line")(x[4])
    difference = float((middle - fan).norm() / fan.norm())
    record_property("measured", f"relative difference {difference:.4f}")
    # The two kernels differ (interpolation and intersection length); a wrong sign would give 0.1 and more.
    assert difference < 0.005


@pytest.mark.oracle
@pytest.mark.interop("read", "cone-beam projections", "ASTRA parallel-beam matrix for a far source")
def test_far_source_is_astras_parallel_beam(record_property):
    grid = VolumeGrid(5, 30, 26, 1.0, 2.0)
    beam = ConeBeam(view_angles(12, 180.0, 2.0), 5, 41, 2.0, 1.1, 1e8, 0.0)
    x = torch.randn(grid.shape, dtype=torch.float64, generator=seeded())
    far = ConeProjector(grid, beam)(x)
    parallel = CtProjector(ImageGrid(30, 26, 1.0), ParallelBeam(beam.angles_rad, 41, 1.1), "linear")(x)
    difference = float((far.movedim(0, 1) - parallel).abs().max() / parallel.abs().max())
    record_property("measured", f"largest difference {difference:.1e} of the largest integral")
    assert difference < 1e-4


@pytest.mark.oracle
@pytest.mark.interop("read", "ASTRA cone geometry", "astra.experimental.projectPoint")
@pytest.mark.parametrize("name", BEAMS)
def test_a_point_falls_where_astra_projects_it(name, record_property):
    beam = BEAMS[name]
    theirs = astra.create_proj_geom("cone_vec", beam.rows, beam.columns, beam.vectors())
    worst = 0.0
    for point in np.random.default_rng(1).uniform(-8, 8, (5, 3)):
        for view, row in enumerate(projection_matrices(beam)):
            column, line = astra.experimental.projectPoint(theirs, *point, view)
            ours = np.array(project_points(row, point[None])).ravel()
            expected = np.array([column - (beam.columns - 1) / 2, line - (beam.rows - 1) / 2])
            worst = max(worst, float(np.abs(ours - expected).max()))
    record_property("measured", f"largest difference {worst:.1e} pixels")
    assert worst < 1e-6


def test_a_voxels_shadow_lies_where_its_centre_projects():
    grid = VolumeGrid(11, 13, 12, 2.0, 1.6)
    beam = ConeBeam(view_angles(5, 360.0, 3.0), 160, 170, 0.5, 0.4, 90.0, 60.0, 4.0, -6.0)
    operator = ConeProjector(grid, beam)
    rows, columns = (torch.arange(n) - (n - 1) / 2 for n in (beam.rows, beam.columns))
    for place in ((2, 3, 9), (8, 10, 1)):
        x = torch.zeros(grid.shape)
        x[place] = 1
        shadow = operator(x)
        point = np.array([(place[2] - 5.5) * 2.0, (6 - place[1]) * 2.0, (place[0] - 5) * 1.6])
        for view, vector in enumerate(projection_matrices(beam)):
            column, row = project_points(vector, point[None])
            mass = shadow[view].sum()
            assert float((shadow[view].sum(0) * columns).sum() / mass) == pytest.approx(column[0], abs=0.15)
            assert float((shadow[view].sum(1) * rows).sum() / mass) == pytest.approx(row[0], abs=0.15)


def test_autograd_sees_the_adjoint():
    operator = ConeProjector(GRID, CIRCLE)
    x = torch.randn(GRID.shape, dtype=torch.float64, generator=seeded(), requires_grad=True)
    operator(x).square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * operator.gram(x.detach()))


def test_the_number_of_threads_changes_no_digit():
    operator = ConeProjector(GRID, shaken(CIRCLE, 0.2))
    y = torch.randn(CIRCLE.shape, generator=seeded())
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(operator.adjoint(y))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_the_kernels_leave_torch_its_threads():
    """In a process of its own: numba sets threads up once, at its first call."""
    code = (
        "import torch; torch.set_num_threads(1); from tests.operators.test_cone import *;"
        "ConeProjector(GRID, CIRCLE).adjoint(torch.zeros(CIRCLE.shape)); print(torch.get_num_threads())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "1"


def test_wrong_input_is_refused():
    operator = ConeProjector(GRID, CIRCLE)
    with pytest.raises(ValueError, match=r"volumes of shape \(9, 12, 10\)"):
        operator(torch.zeros(1, 12, 10))
    with pytest.raises(ValueError, match="projections of shape"):
        operator.adjoint(torch.zeros(7, 15, 13))
    with pytest.raises(TypeError, match="float32 or float64"):
        operator(torch.zeros(GRID.shape, dtype=torch.float16))
    with pytest.raises(ValueError, match="lies inside the volume"):
        ConeProjector(GRID, ConeBeam((0.0,), 4, 4, 1.0, 1.0, 5.0, 50.0))
    with pytest.raises(ValueError, match="GB are free"):
        ConeProjector(GRID, CIRCLE, memory_limit_bytes=1000)


@pytest.mark.oracle
def test_astras_geometry_is_the_mirrored_scanner():
    volume, projections = astra_geometries(GRID, CIRCLE)
    half = {"X": 10, "Y": 12, "Z": 11.7}
    expected = {f"Window{end}{axis}": sign * half[axis] for axis in "XYZ" for end, sign in ENDS}
    assert volume["option"] == pytest.approx(expected)
    x, y, z = 3.0, 2.0, -4.0
    column, row = astra.experimental.projectPoint(projections, x, -y, z, 2)
    ours = project_points(projection_matrices(CIRCLE)[2], np.array([[x, y, z]]))
    assert (column, row) == pytest.approx((ours[0][0] + 7, ours[1][0] + 6), abs=1e-6)


def test_astras_operator_is_ours_on_the_cpu():
    x = torch.randn(GRID.shape, generator=seeded())
    operator = AstraConeProjector(GRID, CIRCLE)
    torch.testing.assert_close(operator(x), ConeProjector(GRID, CIRCLE)(x), rtol=0, atol=0)
    assert isinstance(operator.to("cpu"), AstraConeProjector)


@pytest.mark.cuda
@NEEDS_CUDA
@pytest.mark.parametrize("name", BEAMS)
def test_cuda_is_the_cpu(name):
    operator = ConeProjector(GRID, BEAMS[name])
    x = torch.randn(GRID.shape, generator=seeded())
    y = operator(x)
    there = operator.to("cuda")
    torch.testing.assert_close(there(x.cuda()).cpu(), y, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(there.adjoint(y.cuda()).cpu(), operator.adjoint(y), rtol=1e-4, atol=1e-3)
    assert adjoint_error(there, GRID.shape, torch.float32) < 1e-5


@pytest.mark.cuda
@NEEDS_CUDA
@pytest.mark.interop("read", "cone-beam projections", "ASTRA CUDA")
def test_astras_cuda_projector(record_property):
    grid = VolumeGrid(40, 44, 40, 2.0, 1.8)
    beam = ConeBeam(view_angles(9, 360.0, 5.0), 48, 60, 2.5, 3.0, 200.0, 150.0, 3.0, -2.0)
    x = smooth_volume(grid).float()
    ours, astras = ConeProjector(grid, beam), AstraConeProjector(grid, beam, "cuda")
    y = ours(x)
    forward = float((astras(x.cuda()).cpu() - y).norm() / y.norm())
    back = float((astras.adjoint(y.cuda()).cpu() - ours.adjoint(y)).norm() / ours.adjoint(y).norm())
    mismatch = adjoint_error(astras, grid.shape, torch.float32)
    record_property("measured", f"forward {forward:.4f}, back {back:.4f} relative; adjoint mismatch {mismatch:.1e}")
    assert forward < 0.01
    assert back < 0.05
    assert math.isfinite(mismatch)
