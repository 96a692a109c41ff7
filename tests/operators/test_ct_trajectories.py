"""Shifted detectors and trajectories by vectors: against ASTRA's own geometries and closed-form chords of discs."""

from __future__ import annotations

import math

import astra
import numpy as np
import pytest
import skimage.transform
import torch

from operators.ct_geometry import FanBeam, ImageGrid, ParallelBeam, VectorBeam, beam_from_dict, view_angles
from operators.ct_projector import CtProjector, astra_geometry, estimate_matrix_bytes, system_matrix
from solvers.classical.fbp import FbpSettings, backproject_filtered
from solvers.classical.fbp_weights import angular_cells, shifted_weights
from tests.operators.discs import chords
from tests.operators.helpers import adjoint_error, seeded

GRID = ImageGrid(96, 96, 2.0)
PARALLEL = ParallelBeam(view_angles(150, 180), 144, 1.5, 13.0)
FAN = FanBeam(view_angles(240, 360), 260, 2.0, 400.0, 300.0, -17.0)
DISCS = ((0.0, 0.0, 70.0, 1.0), (35.0, 15.0, 18.0, 0.3), (-20.0, -30.0, 14.0, -0.5))


def jittered(beam: ParallelBeam | FanBeam, seed: int = 0) -> VectorBeam:
    """A trajectory near the beam's own: every detector moved and stretched a little."""
    rows, rng = beam.vectors(), np.random.default_rng(seed)
    rows[:, 2:4] += rng.normal(0, 1.5, (beam.views, 2))
    rows[:, 4:] *= 1 + rng.normal(0, 0.02, (beam.views, 1))
    return VectorBeam("fanflat_vec" if isinstance(beam, FanBeam) else "parallel_vec", rows, beam.bins)


BEAMS = {
    "parallel": PARALLEL,
    "fan": FAN,
    "parallel_vec": jittered(PARALLEL),
    "fanflat_vec": jittered(FAN),
    "fan_half_detector": FanBeam(view_angles(240, 360), 160, 2.0, 400.0, 300.0, 110.0),
    "parallel_half_detector": ParallelBeam(view_angles(240, 360), 90, 1.2, 40.0),
}


def painted(discs=DISCS, grid: ImageGrid = GRID, samples: int = 6) -> np.ndarray:
    n = np.arange(grid.columns * samples)
    x = ((n + 0.5) / samples - grid.columns / 2) * grid.pixel_mm
    image = sum(v * (np.hypot(x[None] - cx, -x[:, None] - cy) < r) for cx, cy, r, v in discs)
    return image.reshape(grid.rows, samples, grid.columns, samples).mean(axis=(1, 3)).astype(np.float32)


@pytest.mark.parametrize("name", BEAMS)
def test_line_integrals_are_the_chords_of_discs(name):
    beam = BEAMS[name]
    ours = CtProjector(GRID, beam, "line")(torch.from_numpy(painted())[None])[0].numpy()
    truth = chords(beam, DISCS)
    assert np.sqrt(np.mean((ours - truth) ** 2)) < 0.02 * truth.max()
    assert np.abs((ours - truth).mean(1)).max() < 0.005 * truth.max()


@pytest.mark.parametrize("name", BEAMS)
def test_adjoint_is_exact(name):
    projector = CtProjector(GRID, BEAMS[name].of_views(range(0, BEAMS[name].views, 10)), "line")
    assert adjoint_error(projector, (2, 96, 96), torch.float64) < 1e-12
    assert adjoint_error(projector, (2, 96, 96), torch.float32) < 1e-5


@pytest.mark.oracle
@pytest.mark.parametrize(("beam", "kind"), [(PARALLEL, "parallel"), (FAN, "fanflat")])
def test_offset_is_astras_shift_of_the_detector(beam, kind):
    distances = (beam.source_axis_mm, beam.axis_detector_mm) if kind == "fanflat" else ()
    centred = astra.create_proj_geom(kind, beam.bin_mm, beam.bins, np.asarray(beam.angles_rad), *distances)
    shifted = astra.functions.geom_postalignment(centred, beam.offset_mm / beam.bin_mm)
    rows = beam.vectors()
    same = np.isclose(rows, shifted["Vectors"], atol=1e-9)
    assert same.all(), np.flatnonzero(~same.all(0))


@pytest.mark.parametrize("beam", [PARALLEL, FAN], ids=["parallel", "fan"])
def test_vectors_of_a_circular_scan_make_the_same_matrix(beam):
    kind = "fanflat_vec" if isinstance(beam, FanBeam) else "parallel_vec"
    few = beam.of_views(range(0, beam.views, 30))
    by_vectors = VectorBeam(kind, few.vectors(), beam.bins)
    assert abs(system_matrix(GRID, few, "line") - system_matrix(GRID, by_vectors, "line")).max() < 1e-3
    assert by_vectors.magnification == pytest.approx(getattr(beam, "magnification", 1.0))
    assert beam_from_dict(by_vectors.to_dict()) == by_vectors
    assert beam_from_dict(beam.to_dict()) == beam


def test_a_beam_written_before_there_were_offsets_still_reads():
    values = FanBeam((0.0,), 4, 1.0, 10.0, 5.0).to_dict()
    del values["offset_mm"]
    assert beam_from_dict(values).offset_mm == 0


@pytest.mark.parametrize("name", BEAMS)
def test_fbp_recovers_discs(name):
    beam = BEAMS[name]
    sinogram = torch.from_numpy(chords(beam, DISCS)).float()[None]
    image = backproject_filtered(sinogram, GRID, beam, FbpSettings("hann", 1.0))[0].numpy()
    for value, disc in ((1.0, (0, 50, 8)), (1.0, (-50, 5, 8)), (1.3, (35, 15, 12)), (0.5, (-20, -30, 8))):
        inside = painted((*[(*disc, 1.0)],)) == 1
        assert image[inside].mean() == pytest.approx(value, abs=0.02)


def test_fbp_shares_the_angle_of_a_view_that_was_measured_twice():
    angles = np.deg2rad(np.arange(0, 360.25, 1.5))
    once, twice = (FanBeam(tuple(a), 260, 2.0, 400.0, 300.0) for a in (angles[:-1], angles))
    sinograms = [torch.from_numpy(chords(beam, DISCS)).float()[None] for beam in (once, twice)]
    images = [backproject_filtered(s, GRID, b, FbpSettings()) for s, b in zip(sinograms, (once, twice), strict=True)]
    assert float((images[0] - images[1]).abs().max()) < 1e-4
    cells, _, covered = angular_cells(angles, 2 * math.pi)
    assert cells.sum() == pytest.approx(2 * math.pi)
    assert covered == pytest.approx(2 * math.pi)


def test_angular_cells_do_not_mind_order_or_the_place_of_the_gap():
    start = np.deg2rad(np.arange(300, 430, 2.0))
    cells, first, covered = angular_cells(np.random.default_rng(0).permutation(start), 2 * math.pi)
    assert np.allclose(cells, math.radians(2))
    assert first == pytest.approx(math.radians(300))
    assert covered == pytest.approx(math.radians(130))


def test_weights_of_a_shifted_detector_add_up_to_two():
    gamma = torch.linspace(-0.1, 0.4, 501, dtype=torch.float64)
    weights = shifted_weights(gamma)
    overlap = weights[gamma <= 0.1]
    assert torch.allclose(overlap + overlap.flip(0), torch.full_like(overlap, 2.0))
    assert weights[0] == pytest.approx(0.0)
    assert torch.allclose(weights[gamma >= 0.1], torch.full_like(weights[gamma >= 0.1], 2.0))


def test_continuing_cut_projections_removes_the_bright_rim():
    beam = ParallelBeam(view_angles(150, 180), 60, 1.5)
    sinogram = torch.from_numpy(chords(beam, ((0.0, 0.0, 90.0, 1.0),))).float()[None]
    radius = np.hypot(*np.meshgrid(*[(np.arange(96) - 47.5) * 2.0] * 2))
    cut, smooth = (
        backproject_filtered(sinogram, GRID, beam, FbpSettings("hann", 1.0, extrapolate))[0].numpy()
        for extrapolate in (False, True)
    )
    rim, middle = (radius > 36) & (radius < 42), radius < 15
    assert cut[rim].mean() - cut[middle].mean() > 0.3
    assert abs(smooth[rim].mean() - smooth[middle].mean()) < 0.06


@pytest.mark.oracle
def test_fbp_agrees_with_scikit_image():
    """With an odd number of bins and pixels both have their origin in the middle of the middle pixel."""
    grid, angles = ImageGrid(97, 97, 1.0), view_angles(180, 180)
    discs = tuple((x / 2, y / 2, r / 2, v) for x, y, r, v in DISCS)
    beam = ParallelBeam(angles, 97, 1.0)
    sinogram = chords(beam, discs)
    ours = backproject_filtered(torch.from_numpy(sinogram).float()[None], grid, beam, FbpSettings("ramlak", 1.0))[0]
    theirs = skimage.transform.iradon(sinogram.T, np.rad2deg(angles), filter_name="ramp", circle=True)
    inside = np.hypot(*np.meshgrid(*[np.arange(97) - 48] * 2)) < 44
    assert np.abs(ours.numpy() - theirs)[inside].max() < 1e-5


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["parallel", "fanflat_vec"])
def test_sirt_by_astra_on_the_same_geometry_finds_the_same_discs(name):
    """ASTRA's own SIRT, with its own projector, from the closed-form data."""
    beam = BEAMS[name]
    volume, projection = astra_geometry(GRID, beam)
    projector = astra.create_projector("line_fanflat" if "fan" in name else "line", projection, volume)
    image_id = astra.data2d.create("-vol", volume, 0)
    sinogram_id = astra.data2d.create("-sino", projection, chords(beam, DISCS) / GRID.pixel_mm)
    settings = astra.astra_dict("SIRT")
    settings |= {"ProjectorId": projector, "ReconstructionDataId": image_id, "ProjectionDataId": sinogram_id}
    algorithm = astra.algorithm.create(settings)
    astra.algorithm.run(algorithm, 60)
    theirs = astra.data2d.get(image_id)
    astra.algorithm.delete(algorithm)
    astra.data2d.delete([image_id, sinogram_id])
    astra.projector.delete(projector)
    sinogram = torch.from_numpy(chords(beam, DISCS)).float()[None]
    ours = backproject_filtered(sinogram, GRID, beam, FbpSettings("hann", 0.8))
    error = np.sqrt(np.mean((theirs - ours[0].numpy()) ** 2))
    assert error < 0.06
    assert np.sqrt(np.mean((ours[0].numpy() - painted()) ** 2)) < 0.06


def test_strip_kernel_of_a_shifted_fan_is_refused_in_words():
    with pytest.raises(ValueError, match="use the model 'line'"):
        CtProjector(GRID, FAN, "strip")


@pytest.mark.parametrize("kind", ["parallel_vec", "fanflat_vec"])
@pytest.mark.parametrize("rows", [np.zeros((2, 6)), np.ones((2, 5)), np.full((1, 6), np.nan), np.zeros((0, 6))])
def test_vectors_that_make_no_beam_are_refused(kind, rows):
    with pytest.raises(ValueError, match=kind):
        VectorBeam(kind, tuple(map(tuple, rows)), 8)


@pytest.mark.parametrize("name", ["parallel", "fan", "parallel_vec", "fanflat_vec"])
def test_memory_is_estimated_from_above(name):
    matrix = system_matrix(GRID, BEAMS[name], "line")
    assert 2 * (matrix.data.nbytes + matrix.indices.nbytes) < estimate_matrix_bytes(GRID, BEAMS[name], "line")


def test_views_can_be_chosen():
    few = BEAMS["fanflat_vec"].of_views([3, 5])
    volume = torch.randn((1, 96, 96), generator=seeded())
    whole = CtProjector(GRID, BEAMS["fanflat_vec"], "line")(volume)
    assert torch.allclose(CtProjector(GRID, few, "line")(volume), whole[:, [3, 5]], atol=1e-4)
