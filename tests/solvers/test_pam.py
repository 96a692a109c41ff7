"""PaM against the exact posterior of Gaussian priors. Independent slices with the same data are independent samples."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from solvers.draws import Draws
from solvers.pam import PamSettings, pam, reflections
from solvers.run import run_solver
from solvers.slice_coupling import ar1_draw
from tests.solvers.problems import make_problem, stationary_prior

SAMPLES = 400
WHITE_ERROR = {"error_length_mm": 0.0, "error_pixels": 0.0}
SETTINGS = {
    "mode": "sample",
    "levels": 50,
    "sigma_min": 0.01,
    "trust": 1.0,
    "noise_length_mm": 0.0,
    "cg_iterations": 40,
    "cg_tolerance": 1e-4,
}


def posterior_problem(length, rows=24, sigma_y=0.05, dtype=torch.float32, sigma_init=1.0):
    """(problem with SAMPLES equal slices, prior, exact posterior mean, exact posterior variance per real component)."""
    side = 8
    prior = stationary_prior((side, side), 0.5, length, "mr" if dtype.is_complex else "ct")
    problem, _ = make_problem((1, side, side), rows, sigma_y, prior, dtype, sigma_init)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    columns = prior.draw(torch.eye(side**2).reshape(-1, side, side)).reshape(side**2, side**2).double()
    A = problem.A.matrix.to(wide)
    covariance = torch.linalg.inv(torch.linalg.inv(columns.T @ columns) + A.mH @ A / sigma_y**2)
    mean = covariance @ (A.mH @ problem.y[0].to(wide)) / sigma_y**2
    many = replace(
        problem,
        y=problem.y.expand(SAMPLES, -1).contiguous(),
        x_init=torch.zeros(SAMPLES, side, side, dtype=dtype),
        shape=None,
    )
    return many, prior, mean, covariance.diagonal().real


def against_posterior(estimate, mean, variance):
    """(rms error of the sample mean in posterior standard deviations, ratio of standard deviations)."""
    samples = estimate.reshape(SAMPLES, -1).to(mean.dtype)
    components = 2 if samples.is_complex() else 1
    error = (samples.mean(0) - mean).abs().square().mean() / components
    spread = (samples - samples.mean(0)).abs().square().sum(0) / (SAMPLES - 1) / components
    return float((error / variance.mean()).sqrt()), float((spread.mean() / variance.mean()).sqrt())


@pytest.mark.parametrize("levels", [10, 50])
def test_exact_where_the_error_model_is_exact(levels):
    """White prior and error: every step keeps the posterior, whatever the number of levels; Monte Carlo error .05."""
    problem, prior, mean, variance = posterior_problem(0.0)
    result = run_solver("pam", problem, prior, {**SETTINGS, **WHITE_ERROR, "levels": levels})
    error, ratio = against_posterior(result.estimate, mean, variance)
    assert error < 0.1
    assert ratio == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize(("rows", "sigma_y", "dtype"), [(40, 0.1, torch.float32), (24, 0.05, torch.complex64)])
def test_stationary_prior_with_correlated_error(rows, sigma_y, dtype):
    problem, prior, mean, variance = posterior_problem(1.0, rows, sigma_y, dtype)
    settings = {**SETTINGS, "error_length_mm": 0.0, "error_pixels": 1.0}
    error, ratio = against_posterior(run_solver("pam", problem, prior, settings).estimate, mean, variance)
    assert error <= 0.3
    assert 0.93 <= ratio <= 1.08


def test_the_mode_with_full_renoise_is_too_narrow_by_the_root_of_two():
    """Known law: taking the mode in place of the draw leaves 1/sqrt(2) of the posterior's standard deviation."""
    problem, prior, mean, variance = posterior_problem(0.0)
    settings = {**SETTINGS, **WHITE_ERROR, "mode": "point", "paths": 1, "residual_share": 0.0, "levels": 200}
    error, ratio = against_posterior(run_solver("pam", problem, prior, settings).estimate, mean, variance)
    assert error < 0.1
    assert ratio == pytest.approx(0.71, abs=0.03)


def test_independent_slices_do_not_share_noise():
    problem, prior, mean, _ = posterior_problem(0.0)
    result = run_solver("pam", problem, prior, {**SETTINGS, **WHITE_ERROR, "levels": 10})
    deviation = result.estimate.reshape(SAMPLES, -1) - mean.float()
    correlation = (deviation[1:] * deviation[:-1]).mean() / deviation.square().mean()
    assert abs(float(correlation)) < 0.03


def test_correlated_renoise_keeps_the_posterior_of_every_slice_and_ties_neighbours():
    """Noise that is AR(1) along z has the same marginal in every slice: per-slice moments stay exact."""
    problem, prior, mean, variance = posterior_problem(0.0)
    settings = {**SETTINGS, "levels": 10, "error_pixels": 0.0, "error_length_mm": 0.0, "noise_length_mm": 4.0}
    result = run_solver("pam", problem, prior, settings)
    error, ratio = against_posterior(result.estimate, mean, variance)
    assert error < 0.2
    assert ratio == pytest.approx(1.0, abs=0.05)


def test_error_correlated_along_z_makes_smoother_samples():
    """In directions that nothing measures the draw is the error model itself: lag-1 correlation along z is its c."""
    problem, prior, _, _ = posterior_problem(0.0, rows=2, sigma_y=10.0)
    settings = {**SETTINGS, "levels": 1, "error_pixels": 0.0, "error_length_mm": 4.0, "sigma_max": 5.0}
    x = run_solver("pam", problem, prior, settings).estimate
    c = float(torch.exp(torch.tensor(-2.0 / 4.0)))
    assert float((x[1:] * x[:-1]).mean() / x.square().mean()) == pytest.approx(c, abs=0.03)
    expected = ar1_draw(torch.randn(SAMPLES, 8, 8, generator=torch.Generator().manual_seed(0)), c).std() * 0.5
    assert float(x.std()) == pytest.approx(float(expected), rel=0.06)


def test_frames_are_all_reflections_and_a_symmetric_prior_does_not_see_them():
    frames = reflections(Draws(4))
    assert sorted(map(tuple, frames)) == sorted({(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)})
    prior = stationary_prior((4, 5), 0.5, 1.0)
    problem, _ = make_problem((4, 4, 5), 9, 0.1, prior)
    plain, reflected = (
        run_solver("pam", problem, prior, SETTINGS | WHITE_ERROR | {"reflect": value}).estimate
        for value in (False, True)
    )
    assert torch.allclose(plain, reflected, atol=1e-4)


def test_a_point_estimate_is_the_mean_of_its_paths_and_a_resumed_one_the_same():
    prior = stationary_prior((8, 8), 0.5, 1.5)
    problem, _ = make_problem((3, 8, 8), 24, 0.05, prior)
    settings = {"mode": "point", "levels": 3, "paths": 2}
    states = list(pam(problem, prior, PamSettings(**settings), Draws(0).child(0)))
    assert [state.network_calls for state in states] == [1, 2, 3, 4, 5, 6]
    first, second = states[2], states[3:]
    alone = run_solver("pam", problem, prior, {**settings, "paths": 1})
    assert torch.equal(first.estimate, alone.estimate)
    alone_of_second = replace(second[1], extra=second[1].extra | {"before": torch.zeros_like(first.estimate)})
    *_, half = pam(problem, prior, PamSettings(**settings), Draws(0).child(0), alone_of_second)
    torch.testing.assert_close(second[-1].estimate, first.estimate / 2 + half.estimate)
    assert not torch.allclose(2 * half.estimate, first.estimate, atol=1e-3)
    assert torch.equal(run_solver("pam", problem, prior, settings).estimate, states[-1].estimate)
    for state in states[:-1]:
        *_, last = pam(problem, prior, PamSettings(**settings), Draws(0).child(0), state)
        assert torch.equal(last.estimate, states[-1].estimate)


def test_samples_are_single_paths():
    prior = stationary_prior((8, 8), 0.5, 1.5)
    problem, _ = make_problem((3, 8, 8), 24, 0.05, prior)
    runs = [run_solver("pam", problem, prior, {"levels": 3, "paths": paths}) for paths in (1, 4)]
    assert runs[0].network_calls == runs[1].network_calls == 3
    assert torch.equal(runs[0].estimate, runs[1].estimate)
