"""Denoisers smoothed along z: exact proximal steps against independent solutions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.gaussian import GaussianPrior
from operators.finite_difference import SliceDifference
from solvers.smoothed import QuadraticSmoothedPrior, TvSmoothedPrior, quadratic_prox, tv_prox
from tests.solvers.problems import normal

D = SliceDifference()
DTYPES = [torch.float32, torch.complex64]


def tv_objective(m, h, weight):
    return float(((m - h).abs() ** 2).double().sum() / 2 + weight * D(m).abs().double().sum())


def taut_string(h, weight):
    """Exact one-dimensional total-variation prox by dynamic programming over knots (Johnson 2013), in float64.

    The derivative of the value function is piecewise linear; it is kept as a list of (knot, slope, offset) pieces.
    """
    n, low, high = len(h), np.zeros(len(h) - 1), np.zeros(len(h) - 1)
    pieces = [(-np.inf, 1.0, -h[0])]
    for i in range(n - 1):
        low[i], high[i] = (_root(pieces, level) for level in (-weight, weight))
        inner = [(max(start, low[i]), a, b) for start, a, b, end in _spans(pieces) if end > low[i] and start < high[i]]
        clipped = [(-np.inf, 0.0, -weight), *inner, (high[i], 0.0, weight)]
        pieces = [(start, a + 1, b - h[i + 1]) for start, a, b in clipped]
    m = np.zeros(n)
    m[-1] = _root(pieces, 0.0)
    for i in range(n - 2, -1, -1):
        m[i] = min(max(m[i + 1], low[i]), high[i])
    return m


def _spans(pieces):
    ends = [piece[0] for piece in pieces[1:]] + [np.inf]
    return [(*piece, end) for piece, end in zip(pieces, ends, strict=True)]


def _root(pieces, level):
    for _, a, b, end in _spans(pieces):
        if a * end + b >= level if np.isfinite(end) else True:
            return (level - b) / a
    raise AssertionError


@pytest.mark.parametrize("weight", [0.05, 0.5, 3.0])
def test_tv_prox_is_the_exact_one(weight):
    h = normal((24, 2, 3), torch.float32, 4)
    m = tv_prox(h, weight, accuracy=1e-4)
    columns = h.flatten(1).double().numpy().T
    exact = np.stack([taut_string(column, weight) for column in columns]).T
    assert np.sqrt(np.mean((m.flatten(1).numpy() - exact) ** 2)) < 2e-4 * weight + 1e-6


def test_tv_prox_of_a_step_moves_its_sides_and_of_two_complex_slices_their_difference():
    """A step of height t over n + n slices becomes one of t - 2 weight / n; a pair moves along its difference."""
    h = torch.zeros(8, 1, 1)
    h[4:] = 1.0
    assert torch.allclose(tv_prox(h, 0.4, 1e-5).flatten(), torch.tensor([0.1] * 4 + [0.9] * 4), atol=1e-5)
    pair = torch.tensor([0.0, 3.0 + 4.0j]).reshape(2, 1, 1)
    moved = tv_prox(pair, 0.5, 1e-5)
    assert torch.allclose(moved.flatten(), torch.tensor([0.3 + 0.4j, 2.7 + 3.6j]), atol=1e-5)
    assert torch.allclose(tv_prox(pair, 9.0, 1e-5), pair.mean(0, keepdim=True).expand(2, 1, 1), atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tv_prox_comes_as_near_as_it_promises(dtype):
    h = normal((40, 4, 4), dtype, 5)
    fine, coarse = tv_prox(h, 0.7, 1e-4, 5000), tv_prox(h, 0.7, 0.05)
    assert float((fine - coarse).abs().square().mean().sqrt()) <= 0.05 * 0.7
    assert tv_objective(fine, h, 0.7) <= tv_objective(coarse, h, 0.7) + 1e-4


def test_tv_prox_keeps_means_constants_and_single_slices():
    h = normal((9, 4, 4), torch.float32, 6)
    assert torch.allclose(tv_prox(h, 0.3).mean(0), h.mean(0), atol=1e-6)
    flat = h[:1].expand(9, 4, 4)
    assert torch.allclose(tv_prox(flat, 0.3), flat, atol=1e-6)
    assert torch.equal(tv_prox(h[:1], 0.3), h[:1])
    assert torch.equal(tv_prox(h, 0.0), h)


def test_tv_prox_has_the_jacobian_of_its_pieces():
    h, v, direction = (normal((10, 2, 2), torch.float64, seed) for seed in (7, 8, 9))
    h.requires_grad_()
    with torch.enable_grad():
        gradient = torch.autograd.grad(tv_prox(h, 0.4, 1e-6, 20000), h, v)[0]
    step = 1e-4
    ends = [tv_prox(h.detach() + sign * step * direction, 0.4, 1e-7, 50000) for sign in (1, -1)]
    slope = float((v * (ends[0] - ends[1])).sum()) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(slope, abs=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_quadratic_prox_solves_its_system(dtype):
    h = normal((7, 3, 3), dtype, 10)
    m = quadratic_prox(h, 2.5)
    assert torch.allclose(m + 2.5 * D.adjoint(D(m)), h, atol=1e-5)
    assert torch.equal(quadratic_prox(h, 0.0), h)


@pytest.mark.parametrize("wrapper", [TvSmoothedPrior, QuadraticSmoothedPrior])
def test_smoothed_means_fade_with_the_predicted_variance(wrapper):
    """The prox weight is V times the setting: at a small sigma the mean is the plain one, the variance always."""
    prior = GaussianPrior.independent(0.5)
    x = normal((6, 4, 4), torch.float32, 11)
    for sigma in (1.0, 1e-3):
        plain, smoothed = prior.denoise(x, sigma), wrapper(prior, 2.0).denoise(x, sigma, (1.0, 1.0, 1.0))
        v = float(plain.variance.mean())
        prox = tv_prox if wrapper is TvSmoothedPrior else quadratic_prox
        assert torch.equal(smoothed.mean, prox(plain.mean, 2.0 * v))
        assert torch.equal(smoothed.variance, plain.variance)
        moved = float((smoothed.mean - plain.mean).abs().max())
        assert moved > 0.05 if sigma == 1.0 else moved < 1e-4


def test_quadratic_coupling_of_a_gaussian_prior_is_the_posterior_mean_of_a_tied_volume():
    """Denoised and smoothed = argmax of N(x; m, sigma^2) N(m; 0, s^2) exp(-weight |Dz m|^2 / 2), white slices."""
    s, sigma, weight = 0.5, 0.3, 4.0
    x = normal((6, 2, 2), torch.float32, 12)
    m = QuadraticSmoothedPrior(GaussianPrior.independent(s), weight).denoise(x, sigma, (1.0, 1.0, 1.0)).mean
    assert torch.allclose(m / s**2 + (m - x) / sigma**2 + weight * D.adjoint(D(m)), torch.zeros_like(m), atol=1e-4)
