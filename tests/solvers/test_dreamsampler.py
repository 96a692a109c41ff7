"""DreamSampler: regularisers by name, the score-distillation form. Its sampling form with ADMM: test_samplers.py."""

from __future__ import annotations

from math import exp, log

import pytest
import torch

from operators.finite_difference import SliceDifference
from solvers.draws import Draws
from solvers.dreamsampler import DreamSamplerSettings, dreamsampler
from solvers.run import run_solver
from solvers.settings import SettingsError
from solvers.split_tv import data_step
from tests.solvers.exact_posterior import first_level, gaussian_case
from tests.solvers.problems import make_problem, stationary_prior

SHAPE = (4, 4, 5)
PRIOR = stationary_prior(SHAPE[1:], 0.5, 1.0)
D = SliceDifference()


def test_a_regulariser_takes_the_place_of_the_admm_term():
    """x_y solves x - h + gamma (s^2 A^H W (A x - y) + w Dz^T Dz x) = 0; w in units of 1 / sigma_y^2, as rho."""
    problem, _ = make_problem(SHAPE, 9, 0.1, PRIOR)
    settings = DreamSamplerSettings(
        levels=2,
        regulariser="slice_quadratic",
        regulariser_weight=0.3,
        data_weight=50.0,
        cg_iterations=120,
        blend=False,
    )
    state, _, h, *_ = first_level(dreamsampler, settings, problem, PRIOR)
    x = state.estimate
    data = 0.01 * problem.A.adjoint(problem.weights * (problem.A(x) - problem.y))
    assert float((x - h + 50 * (data + 0.3 * D.adjoint(D(x)))).abs().max()) < 1e-3
    assert state.extra == {}


def test_no_weight_is_no_regulariser():
    problem, _ = make_problem(SHAPE, 9, 0.1, PRIOR)
    plain = DreamSamplerSettings(levels=2, tv=False, cg_iterations=60)
    for name in ("huber_3d", "slice_tv", "slice_quadratic"):
        named = DreamSamplerSettings(levels=2, regulariser=name, regulariser_weight=0.0, cg_iterations=60)
        states = [first_level(dreamsampler, s, problem, PRIOR)[0] for s in (plain, named)]
        assert torch.allclose(states[0].x, states[1].x, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_distillation_step_in_closed_form(dtype):
    """x - step (x - x^) with x^ of x + sigma z at a log-uniform sigma."""
    prior = stationary_prior(SHAPE[1:], 0.5, 1.0, "mr" if dtype.is_complex else "ct")
    problem, _ = make_problem(SHAPE, 9, 0.1, prior, dtype)
    settings = DreamSamplerSettings(
        levels=4, form="distillation", tv=False, step=0.3, data_weight=50.0, cg_iterations=40
    )
    draws = Draws(3)
    state = next(iter(dreamsampler(problem, prior, settings, draws)))
    share = float(torch.rand((), generator=draws.generator(0, "sigma")))
    sigma = exp(share * log(0.01))
    h = prior.denoise(problem.x_init + sigma * draws.normal(SHAPE, dtype, 0, "noise"), sigma).mean
    abar = 1 / (1 + (sigma / prior.sigma_data) ** 2)
    target = abar * data_step(problem, h, 50.0, 40)[0] + (1 - abar) * h
    assert torch.allclose(state.estimate, 0.7 * problem.x_init + 0.3 * target, atol=1e-5)
    assert torch.equal(state.x, state.estimate)
    assert state.network_calls == 1


def test_residual_of_the_denoised_volume_is_score_distillations():
    """x - D(x + sigma z) = sigma (eps - z) with eps = (x_sigma - D(x_sigma)) / sigma."""
    problem, _ = make_problem(SHAPE, 9, 0.1, PRIOR)
    sigma, x, z = 0.4, problem.x_init, Draws(1).normal(SHAPE, torch.float32, "z")
    noisy = x + sigma * z
    h = PRIOR.denoise(noisy, sigma).mean
    eps = (noisy - h) / sigma
    assert torch.allclose(x - h, sigma * (eps - z), atol=1e-5)


def test_distillation_forgets_where_it_began():
    problem, _ = make_problem(SHAPE, 9, 0.1, PRIOR)
    settings = {"form": "distillation", "levels": 60, "tv": False}
    kept = run_solver("dreamsampler", problem, PRIOR, settings)
    empty = run_solver("dreamsampler", problem, PRIOR, {**settings, "pure_noise": True})
    assert torch.allclose(kept.estimate, empty.estimate, atol=1e-3)


def test_known_failure_distillation_seeks_the_mode():
    """Score distillation shrinks towards the mode of what the data leave open: spread far below the posterior's."""
    case = gaussian_case(0.0)
    settings = {"form": "distillation", "levels": 100, "tv": False, "step": 0.1}
    fit = case.fit(run_solver("dreamsampler", case.problem, case.prior, settings).estimate)
    assert fit.null < 0.4
    sampled = case.fit(run_solver("dreamsampler", case.problem, case.prior, {"tv": False, "levels": 50}).estimate)
    assert sampled.null > 1.8 * fit.null


def test_known_failure_sampling_overfits_measured_directions():
    """The data step trusts the data 100 times more than the denoised volume, and the noise stays in the image."""
    case = gaussian_case(0.0)
    result = run_solver("dreamsampler", case.problem, case.prior, {"tv": False, "levels": 50, "cg_iterations": 40})
    assert result.chi2 < 0.05
    assert case.fit(result.estimate).row < 0.1


def test_settings_are_checked():
    with pytest.raises(SettingsError, match="regulariser must be one of slice_tv, slice_quadratic, huber_3d"):
        DreamSamplerSettings(regulariser="tv")
    with pytest.raises(SettingsError, match="form must be one of sampling, distillation"):
        DreamSamplerSettings(form="sds")
