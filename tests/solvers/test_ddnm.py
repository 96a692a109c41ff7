"""DDNM+: pseudo-inverse by conjugate gradients, one level in closed form, its over-confidence in what is measured."""

from __future__ import annotations

from math import sqrt

import pytest
import torch

from solvers.ddnm import DdnmSettings, ddnm, pseudo_inverse, pseudo_inverse_noise
from solvers.draws import Draws
from solvers.run import run_solver
from tests.solvers.posteriors import against, gaussian_posterior, share_of_first_mode, two_modes
from tests.solvers.problems import make_problem, normal, stationary_prior

SHAPE = (3, 4, 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_pseudo_inverse_is_the_dense_one(dtype):
    prior = stationary_prior(SHAPE[1:], 0.5, 1.0, "mr" if dtype.is_complex else "ct")
    problem, _ = make_problem(SHAPE, 9, 0.1, prior, dtype)
    b = normal((3, 9), dtype, 5)
    exact = b @ torch.linalg.pinv(problem.A.matrix).T
    assert torch.allclose(pseudo_inverse(problem, b, 60, 1e-5).flatten(1), exact, atol=1e-3)


def test_noise_of_the_pseudo_inverse_per_range_direction():
    posterior = gaussian_posterior(sigma_y=0.2)
    problem = posterior.problem
    spread = pseudo_inverse_noise(problem, lambda b: pseudo_inverse(problem, b, 60, 1e-5), Draws(0))
    exact = 0.2 * float(torch.linalg.matrix_norm(torch.linalg.pinv(problem.A.matrix))) / sqrt(24)
    assert float(spread) == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("sigma_y", [0.02, 0.5])
def test_level_is_the_closed_form_where_rows_are_orthonormal(sigma_y, dtype):
    """A^+ = A^H and s = sigma_y: the paper's own formula, with the full step (0.02) and with the shrunk one (0.5)."""
    posterior = gaussian_posterior(1.0, sigma_y=sigma_y, dtype=dtype, count=300, orthonormal=True)
    problem, A = posterior.problem, posterior.problem.A
    settings = DdnmSettings(levels=2, sigma_min=0.2, cg_iterations=30, cg_tolerance=1e-6)
    state = next(iter(ddnm(problem, posterior.prior, settings, Draws(3))))
    start = Draws(3).normal(problem.shape, dtype, 0, "noise")
    h = posterior.prior.denoise(start, 1.0).mean
    a = 1 - 0.2**2
    weight = min(1.0, 0.2 / (sqrt(a) * sigma_y))
    assert (weight < 1) == (sigma_y == 0.5)
    exact = h + weight * A.adjoint(problem.y - A(h))
    assert torch.allclose(state.estimate, exact, atol=0.01)
    z = Draws(3).normal(problem.shape, dtype, 1, "noise")
    gamma = sqrt(max(0.0, a * 0.2**2 - (a * weight * sigma_y) ** 2))
    fresh = sqrt(a) * 0.2 * (z - A.gram(z)) + gamma * A.gram(z)
    assert torch.allclose(state.x, 0.2**2 * start + a * exact + fresh, atol=0.01)


@pytest.mark.parametrize("noise_aware", [True, False])
def test_the_null_space_is_sampled_and_the_range_is_overfitted(noise_aware):
    """Known failure: the same noise A^+ n enters at every level as if it were fresh, so it is reproduced, not sampled.

    Orthonormal rows, where the noise-aware weights are the paper's: residuals are below the noise, and the spread of
    measured directions all but vanishes, whatever the number of levels.
    """
    posterior = gaussian_posterior(sigma_y=0.1, orthonormal=True)
    settings = {"levels": 100, "cg_iterations": 30, "noise_aware": noise_aware}
    result = run_solver("ddnm", posterior.problem, posterior.prior, settings)
    found = against(result.estimate, posterior)
    assert found.error < 0.15
    assert found.null == pytest.approx(0.95, abs=0.05)
    assert found.rows < 0.2
    assert result.chi2 < 0.5


def test_noise_awareness_tempers_an_ill_conditioned_inverse():
    """Singular values from 1 to 0.1 with much noise: the noise-aware form stays near the truth, DDNM does not."""
    posterior = gaussian_posterior(rows=48, sigma_y=0.3)
    errors = {}
    for aware in (True, False):
        settings = {"levels": 30, "cg_iterations": 60, "noise_aware": aware}
        errors[aware] = against(
            run_solver("ddnm", posterior.problem, posterior.prior, settings).estimate, posterior
        ).error
    assert errors[True] < 0.8 * errors[False]


def test_mixture_modes_get_about_their_weights():
    problem, prior, exact = two_modes()
    estimate = run_solver("ddnm", problem, prior, {"levels": 50, "cg_iterations": 30}).estimate
    assert share_of_first_mode(estimate, exact) == pytest.approx(float(exact.weights[0]), abs=0.12)
