"""MMPS: exact for Gaussian volumes, real and complex; what breaks it."""

from __future__ import annotations

import pytest
import torch

import solvers.mmps
from solvers.guidance import DenoiserJacobian
from solvers.mmps import MmpsSettings, covariance_shift, mmps
from solvers.run import run_solver
from tests.solvers.exact_posterior import conditional_mean, first_level, gaussian_case, mixture_case
from tests.solvers.problems import make_problem, normal, stationary_prior

SHAPE = (4, 4, 5)
CONVERGED = {"levels": 50, "cg_iterations": 24}


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_level_is_the_exact_conditional_mean(dtype):
    prior = stationary_prior(SHAPE[1:], 0.5, 1.0, "mr" if dtype.is_complex else "ct")
    problem, _ = make_problem(SHAPE, 9, 0.1, prior, dtype)
    settings = MmpsSettings(levels=2, cg_iterations=40, cg_tolerance=1e-6)
    state, x, _, sigma, _ = first_level(mmps, settings, problem, prior)
    assert torch.allclose(state.estimate, conditional_mean(problem, prior, x, sigma), atol=2e-4)


def test_truncated_iterations_cost_one_product_each_and_near_the_solution():
    prior = stationary_prior(SHAPE[1:], 0.5, 1.0)
    problem, _ = make_problem(SHAPE, 9, 0.1, prior)
    x = problem.x_init + normal(SHAPE, torch.float32, 4)
    exact = conditional_mean(problem, prior, x, 1.0)
    jacobian = DenoiserJacobian(prior, x, 1.0, problem.spacing_mm, 0.0)
    distances = []
    for k in (1, 3, 6):
        shift, products = covariance_shift(problem, jacobian, 1.0, k, 0.0)
        assert products == k
        distances.append(float((jacobian.mean + shift - exact).norm()))
    assert distances[0] > 2 * distances[1] > 4 * distances[2]


def test_unmeasured_data_have_no_say():
    prior = stationary_prior(SHAPE[1:], 0.5, 1.0)
    problem, _ = make_problem(SHAPE, 9, 0.1, prior)
    keep = torch.ones(1, 9)
    keep[:, 6:] = 0
    masked = problem.__class__(problem.A, problem.y, problem.weights * keep, problem.x_init, 1.0, problem.spacing_mm)
    spoilt = problem.__class__(
        problem.A, problem.y + 9 * (1 - keep), problem.weights * keep, problem.x_init, 1.0, problem.spacing_mm
    )
    settings = MmpsSettings(levels=2)
    estimates = [first_level(mmps, settings, p, prior)[0].estimate for p in (masked, spoilt, problem)]
    assert torch.equal(estimates[0], estimates[1])
    assert not torch.allclose(estimates[0], estimates[2], atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_posterior_of_correlated_volumes(dtype):
    case = gaussian_case(1.0, dtype)
    fit = case.fit(run_solver("mmps", case.problem, case.prior, CONVERGED).estimate)
    assert fit.error < 0.3
    assert fit.row == pytest.approx(0.95, abs=0.05)
    assert fit.null == pytest.approx(0.95, abs=0.05)


def test_default_number_of_iterations_is_enough_here():
    case = gaussian_case(1.0)
    fit = case.fit(run_solver("mmps", case.problem, case.prior, {"levels": 50}).estimate)
    assert fit.error < 0.3
    assert fit.ratio == pytest.approx(0.95, abs=0.05)


def test_known_failure_full_renoise_is_too_narrow(monkeypatch):
    """x^ + sigma' z drops the part of the error that x^ leaves open, as DDS's and DiffPIR's eta = 1 do."""

    def full(x, estimate, sigma, sigma_next, eta, noise):
        return estimate + sigma_next * noise() if sigma_next > 0 else estimate

    monkeypatch.setattr(solvers.mmps, "ddim_step", full)
    case = gaussian_case(0.0)
    fit = case.fit(run_solver("mmps", case.problem, case.prior, CONVERGED).estimate)
    assert fit.ratio == pytest.approx(0.70, abs=0.04)


def test_near_modes_keep_their_weights():
    case = mixture_case(scale=0.2, seed=9)
    result = run_solver("mmps", case.problem, case.prior, {"pure_noise": True, "levels": 50})
    assert case.mode_weight(result.estimate) == pytest.approx(float(case.posterior.weights[0]), abs=0.06)


def test_known_failure_far_modes_are_blurred_into_one_moment():
    """Two far modes have one covariance that spans both: the data seem to say less, and the wrong mode survives."""
    case = mixture_case(scale=0.7, seed=9)
    assert float(case.posterior.weights[0]) > 0.98
    result = run_solver("mmps", case.problem, case.prior, {"pure_noise": True, "levels": 50})
    assert case.mode_weight(result.estimate) < 0.85
