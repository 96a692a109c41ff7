"""CT projector against ASTRA's own calls and against chords of a disc."""

from __future__ import annotations

import astra
import numpy as np
import pytest
import scipy.sparse
import torch

from operators import ct_projector
from operators.ct_geometry import FanBeam, ImageGrid, ParallelBeam, beam_from_dict, view_angles
from operators.ct_projector import CtProjector, estimate_matrix_bytes, require_memory, system_matrix
from tests.operators.helpers import seeded

GRID = ImageGrid(9, 7, 2.5)
BEAMS = {
    "parallel": ParallelBeam.covering(GRID, view_angles(6, 180, 10), 1.9),
    "fan": FanBeam.covering(GRID, view_angles(6, 360, 10), 50.0, 20.0),
}
KERNELS = [
    ("parallel", "linear", "linear"),
    ("parallel", "line", "line"),
    ("parallel", "strip", "strip"),
    ("fan", "linear", "line_fanflat"),
    ("fan", "line", "line_fanflat"),
    ("fan", "strip", "strip_fanflat"),
]


def astra_forward(image: np.ndarray, beam: ParallelBeam | FanBeam, kernel: str) -> np.ndarray:
    """ASTRA's own FP algorithm with its 2D CPU projector, in mm."""
    volume = astra.create_vol_geom(GRID.rows, GRID.columns)
    distances = [d / GRID.pixel_mm for d in (beam.source_axis_mm, beam.axis_detector_mm)] if "fan" in kernel else []
    kind = "fanflat" if "fan" in kernel else "parallel"
    angles, spacing = np.asarray(beam.angles_rad), beam.bin_mm / GRID.pixel_mm
    projection = astra.create_proj_geom(kind, spacing, beam.bins, angles, *distances)
    projector = astra.create_projector(kernel, projection, volume)
    volume_id = astra.data2d.create("-vol", volume, image)
    sinogram_id = astra.data2d.create("-sino", projection, 0)
    settings = astra.astra_dict("FP")
    settings |= {"ProjectorId": projector, "VolumeDataId": volume_id, "ProjectionDataId": sinogram_id}
    algorithm = astra.algorithm.create(settings)
    astra.algorithm.run(algorithm)
    sinogram = astra.data2d.get(sinogram_id) * GRID.pixel_mm
    astra.algorithm.delete(algorithm)
    astra.data2d.delete([volume_id, sinogram_id])
    astra.projector.delete(projector)
    return sinogram


@pytest.mark.parametrize(("beam", "model", "kernel"), KERNELS)
def test_equals_astras_own_forward_projection(beam, model, kernel):
    volume = torch.randn((40, GRID.rows, GRID.columns), generator=seeded())
    ours = CtProjector(GRID, BEAMS[beam], model)(volume)
    theirs = np.stack([astra_forward(image, BEAMS[beam], kernel) for image in volume.numpy()])
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("beam", "model", "kernel"), KERNELS)
def test_equals_a_scipy_matrix_built_column_by_column(beam, model, kernel):
    pixels = GRID.rows * GRID.columns
    units = np.eye(pixels, dtype=np.float32).reshape(pixels, GRID.rows, GRID.columns)
    columns = [astra_forward(unit, BEAMS[beam], kernel).ravel() for unit in units]
    matrix = scipy.sparse.csc_array(np.stack(columns, axis=1).astype(np.float64))
    operator = CtProjector(GRID, BEAMS[beam], model)
    x = torch.randn((2, GRID.rows, GRID.columns), dtype=torch.float64, generator=seeded(1))
    y = torch.randn((2, *operator.sinogram_shape), dtype=torch.float64, generator=seeded(2))
    forward = (matrix @ x.reshape(2, -1).numpy().T).T
    adjoint = (matrix.T @ y.reshape(2, -1).numpy().T).T
    np.testing.assert_allclose(operator(x).reshape(2, -1).numpy(), forward, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(operator.adjoint(y).reshape(2, -1).numpy(), adjoint, rtol=1e-5, atol=1e-5)


def disc(grid: ImageGrid, centre_xy_mm: tuple[float, float], radius_mm: float, samples: int = 8) -> np.ndarray:
    """Area of each pixel inside a disc, by supersampling; x to the right, y up."""
    x = ((np.arange(grid.columns * samples) + 0.5) / samples - grid.columns / 2) * grid.pixel_mm
    y = -((np.arange(grid.rows * samples) + 0.5) / samples - grid.rows / 2) * grid.pixel_mm
    inside = (x[None] - centre_xy_mm[0]) ** 2 + (y[:, None] - centre_xy_mm[1]) ** 2 < radius_mm**2
    return inside.reshape(grid.rows, samples, grid.columns, samples).mean(axis=(1, 3))


def ray_distances(beam: ParallelBeam | FanBeam, point: tuple[float, float]) -> np.ndarray:
    """Distance (views bins) of a point from the central ray of each bin."""
    theta = np.asarray(beam.angles_rad)[:, None]
    s = ((np.arange(beam.bins) - (beam.bins - 1) / 2) * beam.bin_mm)[None]
    if isinstance(beam, ParallelBeam):
        return np.abs(point[0] * np.cos(theta) + point[1] * np.sin(theta) - s)
    sx, sy = beam.source_axis_mm * np.sin(theta), -beam.source_axis_mm * np.cos(theta)
    bx = -beam.axis_detector_mm * np.sin(theta) + s * np.cos(theta)
    by = beam.axis_detector_mm * np.cos(theta) + s * np.sin(theta)
    cross = (bx - sx) * (point[1] - sy) - (by - sy) * (point[0] - sx)
    return np.abs(cross) / np.hypot(bx - sx, by - sy)


@pytest.mark.parametrize("model", ["linear", "line", "strip"])
@pytest.mark.parametrize("kind", ["parallel", "fan"])
def test_projection_of_a_disc_is_its_chord(kind, model):
    grid, centre, radius = ImageGrid(120, 100, 1.5), (22.0, 31.0), 35.0
    angles = view_angles(8, 360, 7.0)
    beam = ParallelBeam.covering(grid, angles) if kind == "parallel" else FanBeam.covering(grid, angles, 300.0, 200.0)
    image = torch.from_numpy(disc(grid, centre, radius)).float()[None]
    sinogram = CtProjector(grid, beam, model)(image)[0].numpy()
    distance = ray_distances(beam, centre)
    chord = 2 * np.sqrt(np.clip(radius**2 - distance**2, 0, None))
    # A ray misjudges each of the two edge pixels it leaves through by less than their size.
    well_inside = distance < 0.9 * radius
    assert np.abs(sinogram - chord)[well_inside].max() < 2 * grid.pixel_mm
    assert np.abs(sinogram - chord).mean() < 0.01 * chord.max()
    assert np.all(sinogram[distance > radius + 4 * grid.pixel_mm] == 0)


def test_slices_do_not_mix_and_batches_do_not_matter():
    operator = CtProjector(GRID, BEAMS["parallel"])
    volume = torch.randn((70, GRID.rows, GRID.columns), generator=seeded(3))
    sinogram = operator(volume)
    alone = torch.cat([operator(image[None]) for image in volume])
    torch.testing.assert_close(sinogram, alone, rtol=1e-5, atol=1e-5)
    stacked = operator(volume.reshape(2, 35, GRID.rows, GRID.columns))
    torch.testing.assert_close(stacked.reshape(sinogram.shape), sinogram, rtol=1e-5, atol=1e-5)


def test_blocks_of_views_make_one_matrix(monkeypatch):
    beam = ParallelBeam.covering(GRID, view_angles(7, 180))
    whole = system_matrix(GRID, beam)
    monkeypatch.setattr(ct_projector, "_VIEWS_PER_BLOCK", 2)
    assert abs(system_matrix(GRID, beam) - whole).max() == 0


@pytest.mark.parametrize("model", ["linear", "line", "strip"])
@pytest.mark.parametrize("bin_factor", [0.4, 1.0, 2.5])
@pytest.mark.parametrize("kind", ["parallel", "fan"])
def test_memory_estimate_is_an_upper_one_and_not_a_wild_one(kind, bin_factor, model):
    grid = ImageGrid(64, 48, 2.0)
    angles = view_angles(24, 360)
    if kind == "parallel":
        beam = ParallelBeam.covering(grid, angles, 2.0 * bin_factor)
    else:
        beam = FanBeam.covering(grid, angles, 120.0, 60.0, 3.0 * bin_factor)
    entries = system_matrix(grid, beam, model).nnz
    estimated = estimate_matrix_bytes(grid, beam, model) / 24
    assert entries <= estimated < 2 * entries


def test_more_views_than_memory_is_one_clear_sentence():
    grid = ImageGrid(512, 512, 0.7)
    beam = ParallelBeam.covering(grid, view_angles(2000, 180))
    with pytest.raises(ValueError, match=r"2000 views .* GB are free; use fewer views") as error:
        CtProjector(grid, beam, memory_limit_bytes=10**9)
    assert "\n" not in str(error.value)
    require_memory(GRID, BEAMS["fan"], "strip", limit_bytes=10**9)


def test_view_angles_exclude_the_end_point():
    np.testing.assert_allclose(np.degrees(view_angles(4, 180)), [0, 45, 90, 135])
    np.testing.assert_allclose(np.degrees(view_angles(3, 90, -45)), [-45, -15, 15])


@pytest.mark.parametrize("beam", BEAMS.values(), ids=BEAMS.keys())
def test_geometry_survives_a_dictionary(beam):
    assert beam_from_dict(beam.to_dict()) == beam
    assert ImageGrid.from_dict(GRID.to_dict()) == GRID
    assert hash(beam) == hash(beam_from_dict(beam.to_dict()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: view_angles(0, 180), "at least one view"),
        (lambda: view_angles(3, 0), "angular range"),
        (lambda: ImageGrid(0, 4, 1.0), "rows"),
        (lambda: ImageGrid(4, 4, float("nan")), "pixel_mm"),
        (lambda: ParallelBeam((), 4, 1.0), "view angle"),
        (lambda: ParallelBeam((0.0,), 4, -1.0), "bin_mm"),
        (lambda: FanBeam((0.0,), 4, 1.0, 0.0, 1.0), "source_axis_mm"),
        (lambda: FanBeam.covering(GRID, (0.0,), 5.0, 5.0), "inside the image"),
        (lambda: beam_from_dict({"type": "cone"}), "cone"),
        (lambda: CtProjector(GRID, BEAMS["fan"], "cubic"), "cubic"),
        (lambda: CtProjector(GRID, BEAMS["fan"])(torch.zeros(1, 3, 3)), "slices of shape"),
    ],
)
def test_bad_geometry_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_integer_volumes_are_refused():
    with pytest.raises(TypeError, match="float32"):
        CtProjector(GRID, BEAMS["fan"])(torch.zeros((1, GRID.rows, GRID.columns), dtype=torch.int32))
