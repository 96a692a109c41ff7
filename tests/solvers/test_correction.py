"""The shared correction against dense linear algebra: its mode, and the exact covariance of its draws."""

from __future__ import annotations

import math

import pytest
import torch

from solvers.correction import ErrorModel, correct, error_correlation
from tests.solvers.problems import make_problem, normal, stationary_prior

SHAPE = (3, 3, 4)
ROWS = 5
# (correlation, broad_share, broad_correlation)
CORRELATIONS = [
    ((0.0, 0.0, 0.0), 0.0, (0.0, 0.0, 0.0)),
    ((0.6, 0.0, 0.0), 0.0, (0.0, 0.0, 0.0)),
    ((0.5, 0.3, 0.2), 0.0, (0.0, 0.0, 0.0)),
    ((0.5, 0.3, 0.2), 0.4, (0.9, 0.8, 0.7)),
]


class FixedDraws:
    """Returns given tensors in place of noise, so that a draw can be read as a linear map of its noise."""

    def __init__(self, data: torch.Tensor, prior: torch.Tensor) -> None:
        self.tensors = {"data": data, "prior": prior}

    def normal(self, shape, dtype, *tags):
        return self.tensors[tags[-1]]


def problem_and_error(correlation, dtype=torch.float32):
    prior = stationary_prior(SHAPE[1:], 0.5, 1.0)
    problem, _ = make_problem(SHAPE, ROWS, 0.2, prior, dtype)
    r = 0.2 + 0.3 * normal(SHAPE, torch.float32, 11).abs()
    return problem, ErrorModel(r, *correlation)


def dense_terms(problem, error):
    """(A, W, S S^T) of the whole volume as float64 matrices."""
    size = torch.Size(SHAPE).numel()
    units = torch.eye(size, dtype=problem.dtype).reshape(size, *SHAPE)
    latent = error.latent_shape(SHAPE)
    v_units = torch.eye(torch.Size(latent).numel(), dtype=problem.dtype).unflatten(1, latent)
    wide = torch.complex128 if problem.dtype.is_complex else torch.float64
    A = torch.stack([problem.A(unit).flatten() for unit in units], 1).to(wide)
    S = torch.stack([error.factor(unit).flatten() for unit in v_units], 1).to(wide)
    W = problem.weights.expand(problem.y.shape).flatten().to(wide)
    return A, W, S @ S.mH


def covariance_by_lags(correlation, r):
    """r_i r_j sum over parts of share c_z^|dz| c_y^|dy| c_x^|dx|, written out."""
    near, share, broad = correlation
    covariance = 0
    for weight, lag_one in ((1 - share, near), (share, broad)):
        part = torch.ones(1, 1)
        for length, c in zip(SHAPE, lag_one, strict=True):
            lags = (torch.arange(length)[:, None] - torch.arange(length)[None, :]).abs()
            part = torch.kron(part, torch.tensor(c) ** lags)
        covariance = covariance + weight * part
    return covariance * r.flatten()[:, None] * r.flatten()[None, :]


@pytest.mark.parametrize("correlation", CORRELATIONS)
def test_error_covariance_is_a_mixture_of_separable_ar1(correlation):
    problem, error = problem_and_error(correlation)
    _, _, covariance = dense_terms(problem, error)
    assert torch.allclose(covariance.float(), covariance_by_lags(correlation, error.r), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("correlation", CORRELATIONS)
def test_factor_adjoint(correlation, dtype):
    _, error = problem_and_error(correlation, dtype)
    v, x = normal(error.latent_shape(SHAPE), dtype, 1), normal(SHAPE, dtype, 2)
    left = (x.conj() * error.factor(v)).sum()
    right = (error.factor_adjoint(x).conj() * v).sum()
    assert torch.allclose(left, right, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("correlation", CORRELATIONS)
def test_mode_matches_a_dense_solve(correlation, dtype):
    problem, error = problem_and_error(correlation, dtype)
    h = normal(SHAPE, dtype, 12)
    A, W, covariance = dense_terms(problem, error)
    precision = torch.linalg.inv(covariance) + A.mH @ (W[:, None] * A)
    right = torch.linalg.solve(covariance, h.flatten().to(A.dtype)) + A.mH @ (W * problem.y.flatten())
    exact = torch.linalg.solve(precision, right)
    x = correct(problem, h, error, iterations=60, tolerance=1e-7).flatten().to(A.dtype)
    assert torch.linalg.vector_norm(x - exact) <= 1e-4 * torch.linalg.vector_norm(exact)


@pytest.mark.parametrize("correlation", CORRELATIONS)
def test_draws_have_the_posterior_covariance(correlation):
    """x = mode + L xi for the noise xi that is put in; L L^T must be (C^-1 + A^T W A)^-1."""
    problem, error = problem_and_error(correlation)
    h = normal(SHAPE, torch.float32, 12)
    latent, measured = error.latent_shape(SHAPE), problem.y.numel()
    size = torch.Size(latent).numel()

    def draw(noise):
        fixed = FixedDraws(noise[:measured].reshape(problem.y.shape), noise[measured:].reshape(latent))
        return correct(problem, h, error, 80, 1e-7, fixed).flatten().double()

    mode = draw(torch.zeros(measured + size))
    columns = torch.stack([draw(unit) - mode for unit in torch.eye(measured + size)], 1)
    A, W, covariance = dense_terms(problem, error)
    exact = torch.linalg.inv(torch.linalg.inv(covariance) + A.mH @ (W[:, None] * A))
    assert torch.allclose(columns @ columns.T, exact, atol=1e-3 * float(exact.diagonal().max()))
    assert torch.allclose(mode, correct(problem, h, error, 80, 1e-7).flatten().double(), atol=1e-5)


def test_without_a_card_the_error_is_white():
    problem, _ = make_problem(SHAPE, ROWS, 0.1, stationary_prior(SHAPE[1:], 0.5, 1.0))
    assert error_correlation(problem, {}, "point") == ((0.0, 0.0, 0.0), 0.0, (0.0, 0.0, 0.0))


def test_on_pixels_finer_than_the_trainings_the_error_keeps_its_size_in_mm():
    prior = stationary_prior(SHAPE[1:], 0.5, 1.0)
    problem, _ = make_problem(SHAPE, ROWS, 0.1, prior)
    card = {"error": {"sample": {"length_mm": 6.0, "pixels": 1.0, "broad_pixels": 8.0}}}
    dz, _, pixel = problem.spacing_mm
    for trained, factor in ((pixel, 1.0), (pixel / 2, 1.0), (2 * pixel, 2.0)):
        card["pixel_mm"] = [trained, 10 * trained]
        near, _, broad = error_correlation(problem, card, "sample")
        assert near == pytest.approx((math.exp(-dz / 6), *2 * [math.exp(-1 / factor)]))
        assert broad[1] == pytest.approx(math.exp(-1 / (8 * factor)))
        assert error_correlation(problem, card, "sample", pixels=1.0)[0][1] == pytest.approx(math.exp(-1))
