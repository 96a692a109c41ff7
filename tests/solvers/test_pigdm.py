"""PiGDM: its guided estimate in closed form; exact for white volumes, wrong for correlated ones."""

from __future__ import annotations

import pytest
import torch

from solvers.pigdm import PigdmSettings, pigdm
from solvers.run import run_solver
from tests.solvers.exact_posterior import conditional_mean, filter_matrix, first_level, gaussian_case, mixture_case
from tests.solvers.problems import make_problem, stationary_prior

SHAPE = (4, 4, 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_level_is_the_closed_form(dtype):
    """x^ = h + g sigma^2 J^T A^H (r^2 A A^H + s_y^2 I)^-1 (y - A h)."""
    prior = stationary_prior(SHAPE[1:], 0.5, 1.0, "mr" if dtype.is_complex else "ct")
    problem, _ = make_problem(SHAPE, 9, 0.1, prior, dtype)
    settings = PigdmSettings(levels=3, guidance=0.8, cg_iterations=60, cg_tolerance=0.0, sigma_min=0.2)
    state, _, h, sigma, _ = first_level(pigdm, settings, problem, prior)
    r2 = 0.25 / (1 + 0.25)
    A = problem.A.matrix
    system = r2 * A @ A.mH + 0.01 * torch.eye(9)
    u = torch.linalg.solve(system, (problem.y - problem.A(h)).T).T
    pull = problem.A.adjoint(u).reshape(4, 20) @ filter_matrix(prior, SHAPE[1:], sigma).to(dtype)
    assert torch.allclose(state.estimate, h + 0.8 * pull.reshape(SHAPE), atol=1e-4)
    assert state.network_calls == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_white_volumes_get_the_exact_conditional_mean(dtype):
    prior = stationary_prior(SHAPE[1:], 0.5, 0.0, "mr" if dtype.is_complex else "ct")
    problem, _ = make_problem(SHAPE, 9, 0.1, prior, dtype)
    settings = PigdmSettings(levels=2, cg_iterations=60, cg_tolerance=0.0)
    state, x, _, sigma, _ = first_level(pigdm, settings, problem, prior)
    assert torch.allclose(state.estimate, conditional_mean(problem, prior, x, sigma), atol=1e-4)


def test_posterior_of_white_volumes():
    case = gaussian_case(0.0)
    fit = case.fit(run_solver("pigdm", case.problem, case.prior, {"levels": 50}).estimate)
    assert fit.error < 0.1
    assert fit.row == pytest.approx(0.95, abs=0.05)
    assert fit.null == pytest.approx(0.95, abs=0.05)


def test_known_failure_correlated_volumes():
    """r^2 I is not the covariance: sure directions are pulled too hard, the mean is off and the spread too wide."""
    case = gaussian_case(1.0)
    fit = case.fit(run_solver("pigdm", case.problem, case.prior, {"levels": 50}).estimate)
    assert fit.error > 0.6
    assert fit.ratio > 1.12


def test_mode_weights():
    case = mixture_case(scale=0.2, seed=9)
    result = run_solver("pigdm", case.problem, case.prior, {"pure_noise": True, "levels": 50})
    assert case.mode_weight(result.estimate) == pytest.approx(float(case.posterior.weights[0]), abs=0.06)
