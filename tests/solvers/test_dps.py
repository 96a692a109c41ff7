"""DPS: its step in closed form, what it is known to do to the posterior."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise
from math import sqrt

import pytest
import torch

from solvers.dps import DpsSettings, dps
from solvers.draws import Draws
from solvers.guidance import ddim_step
from solvers.run import run_solver
from solvers.settings import SettingsError
from tests.solvers.exact_posterior import filter_matrix, first_level, gaussian_case, mixture_case
from tests.solvers.problems import make_problem, normal, stationary_prior

SHAPE = (4, 4, 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_level_is_the_closed_form(dtype):
    """x' = DDIM(x, h) + zeta s_d sqrt(voxels / (abar abar')) J^T A^H r / |r| for white noise."""
    prior = stationary_prior(SHAPE[1:], 0.5, 1.0, "mr" if dtype.is_complex else "ct")
    problem, _ = make_problem(SHAPE, 9, 0.1, prior, dtype)
    settings = DpsSettings(levels=3, zeta=0.2, eta=0.5, sigma_min=0.2)
    state, x, h, sigma, after = first_level(dps, settings, problem, prior)
    fresh = 0.5 * after * sqrt(1 - (after / sigma) ** 2)
    z = Draws(3).normal(SHAPE, dtype, 1, "noise")
    ddim = h + sqrt(after**2 - fresh**2) / sigma * (x - h) + fresh * z
    r = problem.y - problem.A(h)
    pull = (problem.A.adjoint(r / r.norm()).reshape(4, 20) @ filter_matrix(prior, SHAPE[1:], sigma).to(dtype)).reshape(
        SHAPE
    )
    scale = 0.2 * 0.5 * sqrt(80 * (1 + (sigma / 0.5) ** 2) * (1 + (after / 0.5) ** 2))
    assert torch.allclose(state.x, ddim + scale * pull, atol=1e-4)
    assert torch.equal(state.estimate, h)
    assert state.network_calls == 3


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_update_keeps_the_marginal_of_an_exact_denoiser(eta):
    """White N(0, s^2) voxels: D = s^2 / (s^2 + sigma^2) x, and every eta must give variance s^2 + sigma'^2."""
    voxels, steps = 40_000, 150
    x = normal((voxels,), torch.float32, 0) * sqrt(0.25 + 1.0)
    sigmas = [1 - 0.8 * i / steps for i in range(steps + 1)]
    for i, (now, then) in enumerate(pairwise(sigmas), 1):
        noise = partial(normal, (voxels,), torch.float32, i)
        x = ddim_step(x, 0.25 / (0.25 + now**2) * x, now, then, eta, noise)
    assert float(x.var()) == pytest.approx(0.25 + 0.2**2, rel=0.03)


def test_one_step_moves_equal_slices_the_same_however_many_there_are():
    prior = stationary_prior((4, 4), 0.5, 1.0)
    one, _ = make_problem((1, 4, 4), 9, 0.1, prior)
    five = replace(
        one, y=one.y.expand(5, -1).contiguous(), x_init=one.x_init.expand(5, -1, -1).contiguous(), shape=None
    )
    settings = DpsSettings(levels=1, zeta=0.2, sigma_max=1e-5, sigma_min=1e-5)
    alone, *_ = first_level(dps, settings, one, prior)
    together, *_ = first_level(dps, settings, five, prior)
    assert torch.allclose(together.x, alone.x.expand(5, -1, -1), atol=2e-4)
    assert float((alone.x - one.x_init).abs().max()) > 0.01


def test_no_step_is_the_prior():
    case = gaussian_case(0.0)
    settings = {"levels": 200, "zeta": 0.0, "sigma_max": 8.0, "sigma_min": 0.005}
    result = run_solver("dps", case.problem, case.prior, settings)
    assert float(result.estimate.std()) == pytest.approx(0.5, rel=0.03)


def test_known_failure_measured_directions_collapse():
    """The step knows neither sigma_y nor the error of h: the null space is right, the row space far too narrow."""
    case = gaussian_case(0.0)
    fit = case.fit(run_solver("dps", case.problem, case.prior, {"zeta": 0.03}).estimate)
    assert fit.error < 0.15
    assert fit.null == pytest.approx(0.95, abs=0.05)
    assert fit.row < 0.25


def test_known_failure_zeta_decides_the_fit():
    """The same data are over-fitted or missed by an order of magnitude either way with zeta."""
    case = gaussian_case(0.0)
    chi2 = [run_solver("dps", case.problem, case.prior, {"zeta": zeta}).chi2 for zeta in (0.03, 0.3)]
    assert chi2[0] < 0.2
    assert chi2[1] > 3


def test_known_failure_the_smaller_mode_is_lost():
    case = mixture_case(scale=0.2, seed=9)
    assert float(case.posterior.weights[0]) == pytest.approx(0.855, abs=0.01)
    settings = {"pure_noise": True, "zeta": 0.1}
    weight = case.mode_weight(run_solver("dps", case.problem, case.prior, settings).estimate)
    assert weight > 0.95


def test_settings_are_checked():
    with pytest.raises(SettingsError, match="zeta must not be negative"):
        DpsSettings(zeta=-1.0)
    with pytest.raises(SettingsError, match="eta must lie"):
        DpsSettings(eta=1.5)
