"""The particle sampler: exact in two dimensions, collapsed in 64, weights that are one where they should be."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from models.gaussian import GaussianPrior
from models.mixture import MixturePrior, mixture_posterior
from solvers.afdps import AfdpsSettings, afdps
from solvers.draws import Draws
from solvers.particles import Ensemble, effective_size, systematic
from solvers.problem import Problem
from solvers.run import run_solver
from solvers.settings import SettingsError
from tests.solvers.posteriors import gaussian_posterior, two_modes
from tests.solvers.problems import SliceMatrix, make_problem, normal, stationary_prior


def last(problem, prior, settings, seed=0):
    with torch.no_grad():
        *_, state = afdps(problem, prior, settings, Draws(seed))
    return state


def moments(state):
    """Weighted mean and standard deviation (n) of the particles, and their weights (k)."""
    weights, x = torch.softmax(state.extra["log_weights"], 0), state.extra["x"].flatten(1).double()
    mean = weights @ x
    return mean, (weights @ (x - mean) ** 2).sqrt(), weights


def test_exact_form_samples_a_mixture_posterior_in_two_dimensions():
    means = torch.tensor([[[1.0, 0.4]], [[-0.6, 0.5]], [[0.2, -1.0]]])
    prior, s = MixturePrior(means, 0.25, (0.5, 0.3, 0.2)), 0.5
    A, y = SliceMatrix(torch.tensor([[0.8, -0.6]]), (1, 2)), torch.tensor([[0.1]])
    problem = Problem(A, y, torch.full((1, 1), s**-2), torch.zeros(1, 1, 2), 1.0, (1.0, 1.0, 1.0))
    settings = AfdpsSettings(levels=150, form="exact", particles=2000, stacked=True, sigma_min=0.01)
    state = last(problem, prior, settings)
    posterior = mixture_posterior(prior, A.matrix, y[0], s**-2)
    mean, std, weights = moments(state)
    exact = posterior.variance().sqrt()
    assert float(((mean - posterior.mean()) / exact).abs().max()) < 0.15
    assert (std / exact).tolist() == pytest.approx([1.0, 1.0], abs=0.1)
    x = state.extra["x"].flatten(1).double()
    mode = (x[:, None] - posterior.means).square().sum(2).argmin(1)
    shares = [float(weights[mode == k].sum()) for k in range(3)]
    assert shares == pytest.approx(posterior.weights.tolist(), abs=0.08)


def test_exact_form_collapses_in_64_dimensions():
    """Known limit: 24 measurements of 64 voxels leave a few of 300 particles, and a spread that is far too small."""
    posterior = gaussian_posterior(count=1)
    settings = AfdpsSettings(levels=80, form="exact", particles=300, stacked=True, sigma_min=0.02)
    state = last(posterior.problem, posterior.prior, settings)
    assert float(state.extra["sizes"].min()) < 0.03 * 300
    _, std, _ = moments(state)
    assert float((std.square().sum() / posterior.covariance.trace()).sqrt()) < 0.8


def test_twisted_weights_are_one_for_white_gaussian_volumes():
    """There p^(y | x') and p^(y | x, x') agree: no weight, no resampling, exact samples from few levels."""
    posterior = gaussian_posterior(length=0.0, count=1)
    settings = AfdpsSettings(levels=6, particles=300, stacked=True, cg_iterations=60, cg_tolerance=1e-6)
    problem = replace(posterior.problem, sigma_init=3.0)
    state = last(problem, posterior.prior, settings)
    assert float(state.extra["log_weights"].std()) < 0.02
    assert float(state.extra["sizes"].min()) > 299
    mean, std, _ = moments(state)
    assert float((std.square().sum() / posterior.covariance.trace()).sqrt()) == pytest.approx(1.0, abs=0.05)
    assert float(((mean - posterior.mean).square().sum() / posterior.covariance.trace()).sqrt()) < 0.15


def test_twisted_weights_collapse_where_the_error_is_not_white():
    """Known limit: correlated volumes, r^2 I for the error, 24 measurements; the first weighing leaves few of many."""
    posterior = gaussian_posterior(length=2.0, count=1)
    settings = AfdpsSettings(levels=6, particles=100, stacked=True)
    sizes = last(posterior.problem, posterior.prior, settings).extra["sizes"]
    assert float(sizes[0]) == pytest.approx(100)
    assert float(sizes.min()) < 10


def test_twisted_weights_move_mode_shares_towards_the_posterior():
    """Two modes: proposals alone (one particle) sit off the exact share, weighed ones nearer."""
    problem, prior, exact = two_modes(count=1)

    def share(particles, runs):
        settings = AfdpsSettings(levels=12, particles=particles, stacked=True)
        shares = []
        for seed in range(runs):
            state = last(problem, prior, settings, seed)
            x = state.extra["x"].flatten(1).double()
            first = (x[:, None] - exact.means).square().sum(2).argmin(1) == 0
            shares.append(float(torch.softmax(state.extra["log_weights"], 0)[first].sum()))
        return sum(shares) / runs

    assert abs(share(200, 4) - float(exact.weights[0])) < 0.1


def test_evidence_is_the_gaussian_density_of_the_data():
    prior = stationary_prior((3, 4), 0.5, 1.0)
    problem, _ = make_problem((2, 3, 4), 6, 0.2, prior)
    h, r2 = normal((3, 2, 3, 4), torch.float32, 5), 0.3
    A = problem.A.matrix.double()
    covariance = 0.2**2 * torch.eye(6, dtype=torch.float64) + r2 * A @ A.T
    residual = problem.y.double() - h.double().flatten(2) @ A.T
    exact = -0.5 * torch.einsum("kzi,ij,kzj->k", residual, torch.linalg.inv(covariance), residual)
    for stacked in (False, True):
        ensemble = Ensemble(problem, prior, 3, stacked, 60, 1e-7)
        assert ensemble.log_evidence(h, r2).tolist() == pytest.approx(exact.tolist(), rel=1e-3)
    plain = -0.5 * residual.square().sum((1, 2)) / 0.2**2
    assert Ensemble(problem, prior, 3, False, 60, 1e-7).log_evidence(h, 0.0).tolist() == pytest.approx(plain.tolist())


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_evidence_of_complex_volumes_counts_real_components(dtype):
    """White denoised error, A = a row: -|y - A h|^2 / (2 (s^2 + r^2 |a|^2)), |.|^2 over real and imaginary parts."""
    prior = GaussianPrior.independent(0.5)
    problem, _ = make_problem((1, 2, 2), 1, 0.2, prior, dtype)
    h = normal((1, 1, 2, 2), dtype, 6)
    residual = float((problem.y - problem.A(h[0])).abs().square().sum())
    found = Ensemble(problem, prior, 1, False, 60, 1e-7).log_evidence(h, 0.3)
    assert float(found) == pytest.approx(-residual / (2 * (0.04 + 0.3)), rel=1e-4)


def test_systematic_resampling_copies_by_weight():
    log_weights = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64).log()
    for offset in (0.0, 0.3, 0.99):
        assert Counter(systematic(log_weights, offset).tolist())[0] == 2
        assert Counter(systematic(log_weights, offset).tolist())[1] == 1
    assert effective_size(log_weights) == pytest.approx(1 / (0.25 + 0.0625 + 2 * 0.015625))
    assert effective_size(torch.tensor([0.0, -1e9], dtype=torch.float64)) == pytest.approx(1.0)


def test_runs_resume_count_calls_and_differ_by_mode(tmp_path):
    prior = stationary_prior((4, 4), 0.5, 1.0)
    problem, _ = make_problem((2, 4, 4), 6, 0.2, prior)
    sample = run_solver("afdps", problem, prior, {"levels": 4, "particles": 3})
    point = run_solver("afdps", problem, prior, {"levels": 4, "particles": 3, "mode": "point"})
    assert sample.network_calls == 12
    assert not torch.equal(sample.estimate, point.estimate)
    exact = run_solver("afdps", problem, prior, {"levels": 4, "particles": 3, "form": "exact"})
    assert exact.network_calls == 1 + 3 * 3


def test_settings_are_checked():
    for settings in ({"form": "magic"}, {"mode": "median"}, {"particles": 0}, {"kappa": -1.0}):
        with pytest.raises(SettingsError):
            AfdpsSettings(**settings)
