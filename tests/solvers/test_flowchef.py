"""FlowChef: its level in closed form and in the flow's own coordinates, what it is known to do to the posterior."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from solvers.flowchef import FlowChefSettings, flowchef
from solvers.run import run_solver
from solvers.settings import SettingsError
from tests.solvers.exact_posterior import first_level, gaussian_case, mixture_case
from tests.solvers.problems import make_problem, stationary_prior

SHAPE = (4, 4, 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_level_is_eulers_step_of_the_steered_flow(dtype):
    """x_t' = x_t + d + (t' - t) v with v = n - x0^ and d two Landweber steps, in the flow's coordinates."""
    prior = stationary_prior(SHAPE[1:], 0.5, 1.0, "mr" if dtype.is_complex else "ct")
    problem, _ = make_problem(SHAPE, 9, 0.1, prior, dtype)
    settings = FlowChefSettings(levels=3, descents=2, step=0.7, sigma_min=0.2)
    state, x, h, sigma, after = first_level(flowchef, settings, problem, prior)
    s = prior.sigma_data
    t, then = sigma / (sigma + s), after / (after + s)
    clean, point = h / s, x / (sigma + s)
    noise = (point - (1 - t) * clean) / t
    first = 0.7 * problem.A.adjoint(problem.y - problem.A(h))
    move = first + 0.7 * problem.A.adjoint(problem.y - problem.A(h + first))
    expected = point + move / s + (then - t) * (noise - clean)
    assert torch.allclose(state.x, (after + s) * expected, atol=1e-4)
    assert torch.allclose(state.estimate, h + move, atol=1e-5)
    assert state.network_calls == 1


def test_no_descent_is_the_prior():
    case = gaussian_case(0.0)
    settings = {"levels": 200, "descents": 0, "sigma_max": 8.0, "sigma_min": 0.005}
    result = run_solver("flowchef", case.problem, case.prior, settings)
    assert float(result.estimate.std()) == pytest.approx(0.5, rel=0.03)


def test_unequal_weights_do_not_diverge():
    prior = stationary_prior(SHAPE[1:], 0.5, 1.0)
    problem, _ = make_problem(SHAPE, 9, 0.1, prior)
    uneven = problem.weights * torch.linspace(0.1, 30.0, problem.y.shape[-1])
    result = run_solver("flowchef", replace(problem, weights=uneven), prior, {"descents": 200})
    assert float(result.estimate.abs().max()) < 10


def test_known_failure_measured_directions_collapse():
    """The step knows neither sigma_y nor the error of h: what was measured is far too narrow."""
    case = gaussian_case(0.0)
    fit = case.fit(run_solver("flowchef", case.problem, case.prior, {}).estimate)
    assert fit.error < 0.1
    assert fit.null == pytest.approx(0.85, abs=0.07)
    assert fit.row < 0.01


def test_known_failure_the_smaller_mode_is_lost():
    case = mixture_case(scale=0.2, seed=9)
    weight = case.mode_weight(run_solver("flowchef", case.problem, case.prior, {"pure_noise": True}).estimate)
    assert float(case.posterior.weights[0]) == pytest.approx(0.855, abs=0.01)
    assert weight > 0.91


def test_settings_are_checked():
    with pytest.raises(SettingsError, match="step must lie"):
        FlowChefSettings(step=2.5)
    with pytest.raises(SettingsError, match="descents must not"):
        FlowChefSettings(descents=-1)
