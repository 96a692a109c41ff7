"""The split into measured and unmeasured parts against dense algebra and planted details."""

import numpy as np
import pytest
import torch

from solvers.null_space import SupportSettings, details, measured_part, smooth, support_maps
from solvers.problem import Problem
from tests.solvers.problems import SPACING_MM, SliceMatrix, dense_slice, make_problem, normal, stationary_prior

SHAPE = (3, 6, 6)
EXACT = SupportSettings(cg_iterations=200, cg_tolerance=1e-7)


def lowpass_problem(side: int, keep: int, sigma_y: float, slices: int = 9) -> tuple[Problem, torch.Tensor]:
    """The data are the `keep` lowest Fourier pairs along x of every row; (problem, orthonormal basis (keep, side))."""
    frequencies = np.array([0, *np.repeat(np.arange(1, side), 2)])[:keep]
    phases = np.array([0, *np.tile([0, np.pi / 2], side)])[:keep]
    basis = np.cos(2 * np.pi * frequencies[:, None] * np.arange(side)[None] / side - phases[:, None])
    basis = torch.linalg.qr(torch.from_numpy(basis).T.float())[0].T
    A = SliceMatrix(torch.kron(torch.eye(side), basis), (side, side))
    start = torch.zeros(slices, side, side)
    return Problem(A, A(start), torch.full((1, 1), sigma_y**-2), start, 1.0, (1.0, 1.0, 1.0)), basis


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_measured_part_is_the_dense_resolution_matrix(dtype):
    prior = stationary_prior(SHAPE[1:], 0.5, 1.0)
    problem, truth = make_problem(SHAPE, 12, 0.02, prior, dtype)
    N = dense_slice(problem).to(torch.complex128 if dtype.is_complex else torch.float64)
    P = N @ torch.linalg.inv(N + 0.1**-2 * torch.eye(36, dtype=N.dtype))
    expected = (truth.reshape(3, 36).to(N.dtype) @ P.T).reshape(SHAPE)
    torch.testing.assert_close(measured_part(problem, truth, 0.1, EXACT).to(N.dtype), expected, atol=1e-4, rtol=1e-3)


def test_noise_free_projection_is_idempotent_and_loses_the_null_space():
    problem, basis = lowpass_problem(16, 5, 1e-4)
    x = normal((9, 16, 16), torch.float32, 0)
    seen = measured_part(problem, x, 0.1, EXACT)
    torch.testing.assert_close(seen, x @ basis.T @ basis, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(measured_part(problem, seen, 0.1, EXACT), seen, atol=1e-4, rtol=1e-4)


def test_noise_moves_what_is_measured_weakly_to_the_null_part():
    problem, _ = lowpass_problem(16, 5, sigma_y=0.1)
    x = problem.A.adjoint(problem.A(normal((9, 16, 16), torch.float32, 1)))
    torch.testing.assert_close(measured_part(problem, x, 0.1, EXACT), x / 2, atol=1e-5, rtol=1e-4)


def test_spreads_of_the_parts_are_those_of_the_samples():
    problem, basis = lowpass_problem(16, 5, 1e-4)
    samples = normal((6, 9, 16, 16), torch.float32, 2)
    maps = support_maps(problem, samples.mean(0), samples, EXACT)
    seen = samples @ basis.T @ basis
    np.testing.assert_allclose(maps["sd_measured"], seen.std(0), atol=1e-3)
    np.testing.assert_allclose(maps["sd_null"], (samples - seen).std(0), atol=1e-3)


def test_support_is_one_for_measured_detail_and_nought_for_invented():
    problem, basis = lowpass_problem(32, 11, 1e-4)
    x = torch.from_numpy(details(normal((9, 32, 32), torch.float32, 3).numpy(), (1.0, 1.0, 1.0))).float()
    seen = x @ basis.T @ basis
    samples = 0.01 * normal((3, 9, 32, 32), torch.float32, 4)
    settings = SupportSettings(fine_mm=0.5, cg_iterations=100, cg_tolerance=1e-6)
    assert support_maps(problem, seen, seen + samples, settings)["support"].min() > 0.98
    assert support_maps(problem, x - seen, x - seen + samples, settings)["support"].max() < 0.02


def spot(y: int, x: int, width: float = 1.0) -> torch.Tensor:
    """A Gaussian spot of height one through all nine slices of 32 by 32 pixels."""
    rows, columns = torch.arange(32.0)[:, None], torch.arange(32.0)[None]
    return torch.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * width**2)).repeat(9, 1, 1)


def test_sure_inventions_are_unsupported_and_doubted_or_measured_details_are_not():
    problem, basis = lowpass_problem(32, 9, 1e-4)
    invented, doubted = (s - s @ basis.T @ basis for s in (spot(8, 8), spot(24, 8)))
    measured = spot(16, 24) @ basis.T @ basis
    doubt = doubted * torch.linspace(-1, 1, 6)[:, None, None, None]
    samples = invented + doubted + measured + doubt + 0.02 * normal((6, 9, 32, 32), torch.float32, 5)
    settings = SupportSettings(fine_mm=0.7, cg_iterations=100, cg_tolerance=1e-6)
    unsupported = support_maps(problem, samples.mean(0), samples, settings)["unsupported"][4]
    assert unsupported[8, 8] > 5 * unsupported[24, 8]
    assert unsupported[8, 8] > 5 * unsupported[16, 24]


def test_scores_do_not_depend_on_the_unit_of_the_details():
    problem, _ = lowpass_problem(16, 5, 1e-4)
    samples = normal((4, 9, 16, 16), torch.float32, 7)
    one, other = (support_maps(problem, (k * samples).mean(0), k * samples, EXACT) for k in (1.0, 8.0))
    for name in ("support", "unsupported"):
        np.testing.assert_allclose(other[name], one[name], rtol=2e-2, atol=1e-3)
    np.testing.assert_allclose(other["sd_null"], 8 * one["sd_null"], rtol=2e-2, atol=1e-2)


def test_a_phase_changes_nothing():
    prior = stationary_prior(SHAPE[1:], 0.5, 1.0)
    problem, _ = make_problem(SHAPE, 12, 0.02, prior, torch.complex64)
    samples = normal((3, *SHAPE), torch.complex64, 6) + 3
    turn = torch.exp(torch.tensor(1j))
    settings = SupportSettings(signal_std=0.1, cg_iterations=200, cg_tolerance=1e-6)
    one = support_maps(problem, samples.mean(0), samples, settings)
    other = support_maps(problem, turn * samples.mean(0), (turn * samples).numpy(), settings)
    for name, array in one.items():
        np.testing.assert_allclose(other[name], array, rtol=2e-2, atol=1e-3)


def test_details_of_a_constant_are_nought_and_averages_are_in_mm():
    assert np.abs(details(np.full((4, 20, 20), 7.0), SPACING_MM)).max() < 1e-9
    impulse = np.zeros((21, 41, 41))
    impulse[10, 20, 20] = 1
    blurred = smooth(impulse, 3.0, SPACING_MM)
    z = np.arange(21) - 10
    assert np.sqrt((blurred.sum((1, 2)) * (z * SPACING_MM[0]) ** 2).sum()) == pytest.approx(3.0, rel=0.05)


def test_one_sample_or_another_grid_is_refused():
    problem, _ = lowpass_problem(8, 3, 0.1, 2)
    zeros = torch.zeros(2, 8, 8)
    for samples in (zeros[None], torch.zeros(3, 2, 8, 9)):
        with pytest.raises(ValueError, match="two samples"):
            support_maps(problem, zeros, samples)
