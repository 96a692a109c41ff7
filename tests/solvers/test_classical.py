"""Classical reconstructions against closed forms, phantoms, PyWavelets and independent minimisers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import pywt
import torch

from operators.cartesian_mri import CartesianMri
from operators.coils import simulate_sensitivities
from operators.ct_geometry import FanBeam, ImageGrid, ParallelBeam, view_angles
from operators.ct_projector import CtProjector
from operators.linear import Identity
from operators.norm import Normalised
from solvers.classical.fbp import FbpSettings, backproject_filtered
from solvers.classical.fbp_weights import parker_weights
from solvers.classical.registry import CLASSICAL
from solvers.classical.wavelet import analysis, shifted_shrink, shrink, synthesis
from solvers.problem import Problem
from solvers.settings import SettingsError
from tests.solvers.cone_problems import cone_problem
from tests.solvers.problems import make_problem, normal, seeded, stationary_prior

GRID = ImageGrid(96, 96, 2.0)
REAL, COMPLEX = torch.float32, torch.complex64


def disc(centre_x, centre_y, radius, grid=GRID):
    x = (torch.arange(grid.columns) - (grid.columns - 1) / 2) * grid.pixel_mm
    y = ((grid.rows - 1) / 2 - torch.arange(grid.rows)) * grid.pixel_mm
    return ((x[None] - centre_x) ** 2 + (y[:, None] - centre_y) ** 2 < radius**2).float()


def phantom():
    return disc(0, 0, 70) + 0.3 * disc(35, 15, 18) - 0.5 * disc(-20, -30, 14)


BEAMS = {
    "parallel_180": ParallelBeam.covering(GRID, view_angles(150, 180)),
    "parallel_360_offset": ParallelBeam.covering(GRID, view_angles(150, 360, 20), 1.4),
    "fan_360": FanBeam.covering(GRID, view_angles(240, 360), 400.0, 300.0),
    "fan_short_scan": FanBeam.covering(GRID, view_angles(180, 240, 33), 400.0, 300.0),
}


@pytest.mark.parametrize("name", BEAMS)
def test_fbp_recovers_the_values_and_places_of_discs(name):
    beam = BEAMS[name]
    sinogram = CtProjector(GRID, beam, "strip")(phantom()[None])
    image = backproject_filtered(sinogram, GRID, beam, FbpSettings("hann", 1.0))[0]
    for expected, region in (
        (1.0, disc(0, 50, 8)),
        (1.0, disc(-50, 5, 8)),
        (1.3, disc(35, 15, 12)),
        (0.5, disc(-20, -30, 8)),
        (0.0, disc(80, 80, 8)),
    ):
        assert float(image[region > 0].mean()) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("window", ["ramlak", "hann"])
def test_fbp_of_ct_data_is_in_prior_units(window):
    """u = HU/1000: water disc 0 in air -1, from y = (p / mu - R 1) / |R|."""
    beam = BEAMS["parallel_180"]
    projector = CtProjector(GRID, beam, "linear")
    u = torch.stack([disc(0, 0, 70) - 1, phantom() - 1])
    problem = ct_problem(projector, u, beam)
    image = CLASSICAL["fbp"](problem, {"filter": window, "cutoff": 1.0})
    inside, outside = disc(0, 0, 55) > 0, disc(0, 0, 88) - disc(0, 0, 78) > 0
    assert float(image[0][inside].mean()) == pytest.approx(0.0, abs=0.01)
    assert float(image[0][outside].mean()) == pytest.approx(-1.0, abs=0.02)
    assert float(image[1][disc(35, 15, 12) > 0].mean()) == pytest.approx(0.3, abs=0.02)


def ct_problem(projector, u, beam, sigma=0.01, norm=50.0):
    A = Normalised(projector, norm)
    y = A(u)
    weights = torch.full((1, 1, 1), sigma**-2)
    geometry = {"grid": GRID, "beam": beam, "norm": norm}
    return Problem(A, y, weights, torch.zeros_like(u), 0.5, (2.0, 2.0, 2.0), geometry=geometry)


def test_fbp_needs_a_geometry():
    problem, _ = make_problem((2, 4, 4), 8, 0.1, stationary_prior((4, 4), 0.5, 1.0))
    with pytest.raises(ValueError, match="geometry"):
        CLASSICAL["fbp"](problem)


def test_parker_weights_of_conjugate_rays_add_up_to_one():
    delta = 0.3
    beta = torch.linspace(0.0, torch.pi + 2 * delta, 301, dtype=torch.float64)[:, None]
    gamma = torch.linspace(-0.29, 0.29, 41, dtype=torch.float64)[None, :]
    other = beta + torch.pi + 2 * gamma
    twice = other <= torch.pi + 2 * delta
    total = parker_weights(beta, gamma, delta) + parker_weights(other, -gamma, delta)
    assert torch.allclose(total[twice], torch.ones((), dtype=torch.float64), atol=1e-6)
    assert int(twice.sum()) > 500


def test_cgls_reaches_the_least_squares_solution():
    prior = stationary_prior((4, 4), 0.5, 1.0)
    problem, _ = make_problem((3, 4, 4), 30, 0.1, prior)
    ray_weights = (0.5 + torch.rand((1, 30), generator=seeded(3))) / 0.1**2
    problem = replace(problem, weights=ray_weights)
    x = CLASSICAL["cgls"](problem, {"iterations": 60})
    root = ray_weights[0].sqrt()
    exact = torch.linalg.lstsq(root[:, None] * problem.A.matrix, (root * problem.y).T).solution.T
    assert torch.allclose(x.reshape(3, 16), exact, atol=1e-3)


def test_cgls_keeps_air_where_no_ray_goes():
    beam = ParallelBeam(view_angles(4, 180), 20, 2.0)
    problem = ct_problem(CtProjector(GRID, beam), phantom()[None] - 1, beam)
    x = CLASSICAL["cgls"](problem, {"iterations": 5})
    assert torch.equal(x[0, 27:30, 0], torch.full((3,), -1.0))
    assert float(x.max()) > -0.5


def mr_problem(shape=(2, 24, 20), mask=None, sigma=1e-3, factor=1.25, coils=4):
    sensitivities = simulate_sensitivities(coils, shape, seeded(1))
    mask = torch.ones(shape[1:], dtype=torch.bool) if mask is None else mask
    A = Normalised(CartesianMri(mask, sensitivities), factor)
    truth = torch.zeros(shape, dtype=COMPLEX)
    truth[:, 5:18, 4:15] = 1.0
    truth[:, 9:13, 6:9] = 0.3 + 0.5j
    y = A(truth)
    y = y + sigma * normal(tuple(y.shape), COMPLEX, 5) * mask
    return Problem(A, y, mask[None, None].float() / sigma**2, A.adjoint(y), 0.3, (3.0, 1.0, 1.0)), truth


def test_zero_filled_of_fully_sampled_data_is_the_image():
    problem, truth = mr_problem(sigma=1e-4)
    assert torch.allclose(CLASSICAL["zero_filled"](problem), truth, atol=2e-3)


def test_cg_sense_is_exact_on_fully_sampled_data():
    problem, truth = mr_problem(sigma=1e-4)
    assert torch.allclose(CLASSICAL["cg_sense"](problem, {"weight": 0.0}), truth, atol=2e-3)


def test_cg_sense_unfolds_skipped_lines():
    mask = torch.zeros(24, 20, dtype=torch.bool)
    mask[:, ::2] = True
    problem, truth = mr_problem(mask=mask, sigma=1e-5)
    x = CLASSICAL["cg_sense"](problem, {"weight": 0.0, "iterations": 300, "tolerance": 1e-7})
    folded = CLASSICAL["zero_filled"](problem)
    assert float((x - truth).abs().max()) < 0.02
    assert float((folded - truth).abs().max()) > 0.2


def test_cg_sense_weight_is_in_units_of_the_noise():
    """Identity encoding: x = y / (1 + lambda), whatever the noise level."""
    y = normal((2, 4, 4), COMPLEX, 3)
    for sigma in (0.1, 3.0):
        problem = Problem(Identity(), y, torch.full((1, 1, 1), sigma**-2), y, 1.0, (1.0, 1.0, 1.0))
        assert torch.allclose(CLASSICAL["cg_sense"](problem, {"weight": 0.25}), y / 1.25, atol=1e-5)


@pytest.mark.parametrize("dtype", [REAL, COMPLEX])
def test_wavelet_transform_is_orthonormal_and_equals_pywavelets(dtype):
    x = normal((2, 32, 48), dtype, 0)
    approximation, details = analysis(x)
    expected, bands = pywt.dwt2(x.numpy(), "db4", mode="periodization", axes=(-2, -1))
    assert np.allclose(approximation.numpy(), expected, atol=1e-5)
    high_y, high_x, high_both = bands
    for ours, theirs in zip(details, (high_x, high_y, high_both), strict=True):
        assert np.allclose(ours.numpy(), theirs, atol=1e-5)
    assert torch.allclose(synthesis(approximation, details), x, atol=1e-5)


@pytest.mark.parametrize("dtype", [REAL, COMPLEX])
def test_wavelet_shrinkage_equals_pywavelets(dtype):
    x = normal((2, 64, 32), dtype, 1)
    coefficients = pywt.wavedec2(x.numpy(), "db4", mode="periodization", level=2, axes=(-2, -1))
    thresholded = [coefficients[0]] + [
        tuple(pywt.threshold(band, 0.7, "soft") for band in bands) for bands in coefficients[1:]
    ]
    expected = pywt.waverec2(thresholded, "db4", mode="periodization", axes=(-2, -1))
    assert np.allclose(shrink(x, 0.7, 2).numpy(), expected, atol=1e-5)


def test_shifted_shrinkage_commutes_with_shifts_and_takes_any_size():
    x = normal((2, 32, 32), REAL, 2)
    rolled = torch.roll(x, (3, 5), dims=(-2, -1))
    expected = torch.roll(shrink(rolled, 0.5, 2), (-3, -5), dims=(-2, -1))
    assert torch.allclose(shifted_shrink(x, 0.5, 2, (3, 5)), expected, atol=1e-6)
    odd = normal((2, 31, 25), COMPLEX, 2)
    assert torch.allclose(shifted_shrink(odd, 0.0, 3, (1, 2)), odd, atol=1e-5)


def test_wavelet_reconstruction_beats_its_start_on_undersampled_data():
    mask = torch.rand((1, 64), generator=seeded(0)).expand(64, 64) < 0.35
    mask = mask.clone()
    mask[:, 28:36] = True
    problem, truth = mr_problem((2, 64, 64), mask, 0.01)
    start = CLASSICAL["cg_sense"](problem)
    problem = replace(problem, x_init=start)
    x = CLASSICAL["wavelet"](problem, {"weight": 20.0, "iterations": 40})
    assert float((x - truth).abs().square().mean()) < 0.5 * float((start - truth).abs().square().mean())


def test_classical_methods_refuse_the_wrong_modality_and_settings():
    ct, _ = make_problem((2, 4, 4), 8, 0.1, stationary_prior((4, 4), 0.5, 1.0))
    with pytest.raises(SettingsError, match="does not reconstruct CT"):
        CLASSICAL["wavelet"](ct)
    with pytest.raises(SettingsError, match="did you mean 'weight'"):
        CLASSICAL["tv"](ct, {"wieght": 1})
    with pytest.raises(SettingsError, match="filter"):
        CLASSICAL["fbp"].settings({"filter": "box"})


@pytest.mark.parametrize("name", sorted(CLASSICAL))
def test_defaults_run_and_leave_the_problem_alone(name):
    if name == "fdk":
        problem = cone_problem(phantom()[::4, ::4].expand(6, 24, 24) - 1)
    elif CLASSICAL[name].modalities == ("ct",):
        beam = ParallelBeam.covering(GRID, view_angles(20, 180))
        problem = ct_problem(CtProjector(GRID, beam), phantom()[None] - 1, beam)
    else:
        problem, _ = mr_problem()
    before = [t.clone() for t in (problem.y, problem.x_init, problem.weights)]
    with torch.inference_mode():
        x = CLASSICAL[name](problem)
    assert tuple(x.shape) == problem.shape
    assert x.dtype == problem.dtype
    assert bool(torch.isfinite(torch.view_as_real(x) if x.is_complex() else x).all())
    assert all(torch.equal(a, b) for a, b in zip(before, (problem.y, problem.x_init, problem.weights), strict=True))
