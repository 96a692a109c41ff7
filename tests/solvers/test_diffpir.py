"""DiffPIR: one level in closed form, statistics against exact posteriors, its known narrowness."""

from __future__ import annotations

import pytest
import torch

from solvers.diffpir import DiffPirSettings, diffpir
from solvers.draws import Draws
from solvers.registry import solver_settings
from solvers.run import run_solver
from solvers.settings import SettingsError
from tests.solvers.posteriors import against, gaussian_posterior, share_of_first_mode, two_modes
from tests.solvers.problems import dense_slice, make_problem, stationary_prior

SHAPE = (3, 4, 5)
EXACT = {"zeta": 1.0, "penalty": 1.0, "cg_iterations": 40, "cg_tolerance": 1e-5}


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_level_is_the_closed_form(dtype):
    prior = stationary_prior(SHAPE[1:], 0.5, 1.0, "mr" if dtype.is_complex else "ct")
    problem, _ = make_problem(SHAPE, 9, 0.1, prior, dtype)
    settings = DiffPirSettings(levels=2, sigma_min=0.2, penalty=4.0, zeta=0.36, cg_iterations=60, cg_tolerance=1e-7)
    state = next(iter(diffpir(problem, prior, settings, Draws(3))))
    x = problem.x_init + Draws(3).normal(SHAPE, dtype, 0, "noise")
    h = prior.denoise(x, 1.0).mean
    right = (4.0 * h + problem.A.adjoint(problem.weights * problem.y)).flatten(1)
    exact = torch.linalg.solve(4.0 * torch.eye(20) + dense_slice(problem), right.T).T.reshape(SHAPE)
    assert torch.allclose(state.estimate, exact, atol=1e-4)
    noise = 0.8 * (x - exact) + 0.6 * Draws(3).normal(SHAPE, dtype, 1, "noise")
    assert torch.allclose(state.x, exact + 0.2 * noise, atol=1e-4)
    assert state.network_calls == 1


@pytest.mark.parametrize(("length", "dtype"), [(0.0, torch.float32), (1.0, torch.float32), (0.0, torch.complex64)])
def test_mode_and_full_renoise_leave_the_mean_right_and_the_spread_too_narrow_by_the_root_of_two(length, dtype):
    """Known law: half of the posterior's variance is lost wherever the proximal mode stands for a draw."""
    posterior = gaussian_posterior(length, dtype=dtype)
    found = against(
        run_solver("diffpir", posterior.problem, posterior.prior, {**EXACT, "levels": 200}).estimate, posterior
    )
    assert found.error < 0.25
    assert found.ratio == pytest.approx(0.71, abs=0.03)
    assert found.rows == pytest.approx(0.71, abs=0.04)


def test_a_large_penalty_distrusts_the_data():
    """Known failure: r^2 = sigma^2 / 7 is smaller than the denoiser's error, so measured directions stay too wide."""
    posterior = gaussian_posterior()
    settings = {**EXACT, "penalty": 7.0, "levels": 50}
    found = against(run_solver("diffpir", posterior.problem, posterior.prior, settings).estimate, posterior)
    assert found.rows > 1.3
    assert found.null < 0.75


def test_mixture_modes_get_their_weights_and_too_little_width():
    problem, prior, exact = two_modes()
    estimate = run_solver("diffpir", problem, prior, {**EXACT, "levels": 200}).estimate
    assert share_of_first_mode(estimate, exact) == pytest.approx(float(exact.weights[0]), abs=0.08)
    near = estimate[(estimate * prior.means[0]).sum((1, 2)) > 0].flatten(1)
    assert float((near.var(0).mean() / exact.covariance.diagonal().mean()).sqrt()) == pytest.approx(0.71, abs=0.06)


def test_settings_that_make_no_sense_are_refused():
    for wrong in ({"zeta": 1.5}, {"penalty": 0}, {"levels": 0}):
        with pytest.raises(SettingsError):
            solver_settings("diffpir", wrong)
