"""SITCOM: Adam on the network's input, its limit in closed form, its narrow samples."""

from __future__ import annotations

import pytest
import torch

from solvers.draws import Draws
from solvers.run import run_solver
from solvers.settings import SettingsError
from solvers.sitcom import SitcomSettings, sitcom
from tests.solvers.exact_posterior import filter_matrix, first_level, gaussian_case, mixture_case
from tests.solvers.problems import dense_slice, make_problem, stationary_prior

SHAPE = (4, 4, 5)


def small(dtype):
    prior = stationary_prior(SHAPE[1:], 0.5, 1.0, "mr" if dtype.is_complex else "ct")
    return make_problem(SHAPE, 9, 0.1, prior, dtype)[0], prior


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_first_step_of_adam_is_a_sign_step(dtype):
    problem, prior = small(dtype)
    settings = SitcomSettings(levels=2, inner_steps=1, learning_rate=0.1, stop_chi2=0.0, sigma_min=0.2)
    state, x, h, sigma, after = first_level(sitcom, settings, problem, prior)
    G = filter_matrix(prior, SHAPE[1:], sigma).to(dtype)
    g = (problem.A.adjoint(problem.A(h) - problem.y).reshape(4, 20) @ G).reshape(SHAPE)
    sign = torch.view_as_complex(torch.view_as_real(g).sign()) if dtype.is_complex else g.sign()
    v = x - 0.1 * (sigma**2 + 0.25) ** 0.5 * sign
    expected = (v.reshape(4, 20) @ G).reshape(SHAPE)
    assert torch.allclose(state.estimate, expected, atol=1e-4)
    assert torch.allclose(state.x, expected + after * Draws(3).normal(SHAPE, dtype, 1, "noise"), atol=1e-4)
    assert state.network_calls == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_many_steps_reach_the_minimum_of_the_stated_objective(dtype):
    """(G A^H A G + lambda abar I) v = G A^H y + lambda abar x."""
    problem, prior = small(dtype)
    settings = SitcomSettings(levels=2, inner_steps=600, learning_rate=0.01, weight=0.5, stop_chi2=0.0)
    state, x, _, sigma, _ = first_level(sitcom, settings, problem, prior)
    G = filter_matrix(prior, SHAPE[1:], sigma).to(dtype)
    pull = 0.5 / (1 + (sigma / 0.5) ** 2)
    system = G @ (0.01 * dense_slice(problem)) @ G + pull * torch.eye(20)
    right = problem.A.adjoint(problem.y).reshape(4, 20) @ G + pull * x.reshape(4, 20)
    v = torch.linalg.solve(system, right.T).T
    exact = (v @ G).reshape(SHAPE)
    start = (x.reshape(4, 20) @ G).reshape(SHAPE)
    assert float((state.estimate - exact).norm()) < 0.02 * float((start - exact).norm())


def test_a_level_whose_denoised_volume_fits_is_left_alone():
    problem, prior = small(torch.float32)
    state, _, h, *_ = first_level(sitcom, SitcomSettings(levels=2, stop_chi2=1e9), problem, prior)
    assert torch.equal(state.estimate, h)
    assert state.network_calls == 1


def test_stopping_keeps_the_residual_at_the_noise():
    case = gaussian_case(0.0, samples=100)
    settings = {"levels": 20, "inner_steps": 20}
    stopped = run_solver("sitcom", case.problem, case.prior, settings)
    fitted = run_solver("sitcom", case.problem, case.prior, {**settings, "stop_chi2": 0.0})
    assert 0.7 < stopped.chi2 < 1.0
    assert fitted.chi2 < 0.05
    assert stopped.network_calls < 0.6 * fitted.network_calls


def test_known_failure_samples_are_too_narrow():
    """A mode under full re-noise: the null space has .73 of the posterior's spread (1/sqrt 2 in the limit of many
    levels)."""
    case = gaussian_case(0.0)
    fit = case.fit(run_solver("sitcom", case.problem, case.prior, {"levels": 50}).estimate)
    assert fit.null == pytest.approx(0.72, abs=0.04)


def test_mode_weights_are_roughly_kept():
    """The prior alone would give .6."""
    case = mixture_case(scale=0.2, seed=9)
    result = run_solver("sitcom", case.problem, case.prior, {"pure_noise": True, "levels": 20})
    assert case.mode_weight(result.estimate) == pytest.approx(float(case.posterior.weights[0]), abs=0.1)


def test_settings_are_checked():
    with pytest.raises(SettingsError, match="re-noise is always fresh"):
        SitcomSettings(eta=0.5)
