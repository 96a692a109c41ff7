"""The error scale that the residual tells, where the error is drawn from the model with a known scale."""

from dataclasses import replace

import pytest
import torch

from solvers.correction import ErrorModel
from solvers.draws import Draws
from solvers.measured_error import LEAST, MOST, error_scale, measured_trust
from solvers.run import run_solver
from tests.solvers.problems import make_problem, stationary_prior


def wrong_by(scale, dtype, sigma_y=0.05):
    """(problem, denoised volume whose error has covariance scale S S^H, error model): 64 slices of 8 x 8."""
    prior = stationary_prior((8, 8), 0.5, 0.0, "mr" if dtype.is_complex else "ct")
    problem, _ = make_problem((64, 8, 8), 24, sigma_y, prior, dtype, 1.0)
    draws = Draws(3)
    truth = draws.normal((64, 8, 8), dtype, "truth")
    noise = draws.normal(problem.y.shape, dtype, "noise")
    error = ErrorModel(0.2 * (1 + torch.rand(64, 8, 8, generator=draws.generator("r"))), (0.5, 0.3, 0.3))
    h = truth - scale**0.5 * error.factor(draws.normal((1, *truth.shape), dtype, "error"))
    return replace(problem, y=problem.A(truth) + sigma_y * noise), h, error


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_scale_that_the_error_was_drawn_with(scale, dtype):
    problem, h, error = wrong_by(scale, dtype)
    found = [error_scale(problem, h, error, Draws(seed)) for seed in range(4)]
    assert sum(found) / 4 == pytest.approx(scale, rel=0.1)


def test_a_residual_of_noise_alone_measures_nothing_and_trust_stays_within_bounds():
    problem, h, error = wrong_by(0.0, torch.float32)
    assert abs(error_scale(problem, h, error, Draws(0))) < 0.02
    for purpose in ("point", "sample"):
        assert measured_trust(problem, h, error, 1.0, purpose, Draws(0)) == LEAST[purpose]
    assert LEAST["sample"] == 1.0
    problem, h, error = wrong_by(100.0, torch.float32)
    assert measured_trust(problem, h, error, 1.0, "sample", Draws(0)) == MOST


def test_pam_measures_only_where_the_card_says_how_and_nothing_is_asked_for():
    prior = stationary_prior((8, 8), 0.5, 0.0, "ct")
    problem, _ = make_problem((2, 8, 8), 24, 0.05, prior, torch.float32, 1.0)

    def estimate(card, **settings):
        prior.card.clear()
        prior.card.update(card)
        return run_solver("pam", problem, prior, {"mode": "sample", "levels": 4, **settings}).estimate

    plain, measured = {"name": "a"}, {"name": "a", "measured": {"sample": 100.0}}
    assert torch.equal(estimate(plain), estimate(plain, trust=1.0))
    assert torch.equal(estimate(measured, trust=1.0), estimate(plain))
    assert not torch.equal(estimate(measured), estimate(plain))
