"""Total variation: its objective, its proximal maps, its preconditioner, and when it stops."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from operators.linear import Identity
from solvers.classical.total_variation import (
    TvSettings,
    fourier_preconditioner,
    shrink_vectors,
    spacing_weights,
    total_variation,
    tv_objective,
    vector_length,
)
from solvers.problem import Problem
from tests.solvers.problems import make_problem, normal, stationary_prior

REAL, COMPLEX = torch.float32, torch.complex64


def tv_dual_reference(y, sigma, weight, spacing, steps=4000):
    """argmin |x - y|^2 / (2 sigma^2) + lambda TV(x) by accelerated projected gradient on the dual (Beck, Teboulle)."""
    factors = spacing_weights(spacing)

    def gradient(x):
        out = x.new_zeros((3, *x.shape))
        for axis, factor in enumerate(factors):
            out[axis].narrow(axis, 0, x.shape[axis] - 1).copy_(x.diff(dim=axis) * factor)
        return out

    x0 = y.clone().requires_grad_(True)
    limit = weight * sigma**2
    p = q = gradient(y.detach()) * 0
    t, step = 1.0, 1 / (4 * sum(f * f for f in factors))
    for _ in range(steps):
        (divergence,) = torch.autograd.grad(gradient(x0), x0, q)
        ascent = q + step * gradient(y - divergence)
        length = ascent.abs().square().sum(0).sqrt()
        new = ascent / (length / limit).clamp_min(1)
        following = (1 + (1 + 4 * t * t) ** 0.5) / 2
        q, p, t = new + (t - 1) / following * (new - p), new, following
    (divergence,) = torch.autograd.grad(gradient(x0), x0, p)
    return y - divergence


@pytest.mark.parametrize("dtype", [REAL, COMPLEX])
def test_tv_denoising_equals_the_dual_solution(dtype):
    spacing, sigma, weight = (2.5, 1.0, 1.0), 0.2, 3.0
    clean = torch.zeros((8, 8, 8), dtype=dtype)
    clean[2:6, 2:6, 2:6] = 1.0
    y = clean + sigma * normal((8, 8, 8), dtype, 4)
    problem = Problem(Identity(), y, torch.full((1, 1, 1), sigma**-2), y, 1.0, spacing)
    x = total_variation(problem, TvSettings(weight=weight, iterations=400, cg_iterations=6, tolerance=0.0))
    wide = torch.complex128 if dtype.is_complex else torch.float64
    exact = tv_dual_reference(y.to(wide), sigma, weight, spacing)
    assert torch.allclose(x.to(wide), exact, atol=2e-3)
    assert float((x - clean).abs().square().mean()) < 0.3 * float((y - clean).abs().square().mean())


@pytest.mark.parametrize("dtype", [REAL, COMPLEX])
def test_tv_objective_falls_to_a_long_runs_value(dtype):
    prior = stationary_prior((8, 8), 0.5, 2.0)
    problem, _ = make_problem((8, 8, 8), 24, 0.05, prior, dtype)
    values = []
    settings = TvSettings(weight=5.0, iterations=60, tolerance=0.0, cg_iterations=8)
    total_variation(problem, settings, lambda x: values.append(tv_objective(problem, x, 5.0)))
    long = total_variation(problem, replace(settings, iterations=800, step=0.02))
    best = tv_objective(problem, long, 5.0)
    assert values[0] > values[5] > values[20] >= best * (1 - 1e-4)
    assert values[-1] == pytest.approx(best, rel=2e-3)
    # Stationarity: no small step in a random direction lowers the objective.
    for seed in range(5):
        moved = long + 0.02 * normal((8, 8, 8), dtype, seed)
        assert tv_objective(problem, moved, 5.0) > best


def test_tv_stops_early_when_nothing_changes():
    y = torch.ones(3, 8, 8)
    problem = Problem(Identity(), y, torch.ones(1, 1, 1), y, 1.0, (1.0, 1.0, 1.0))
    calls = []
    x = total_variation(problem, TvSettings(weight=1.0), calls.append)
    assert len(calls) == 1
    assert torch.allclose(x, y, atol=1e-6)


def test_spacing_makes_differences_derivatives():
    """A ramp of unit slope per mm along each axis has the same length of gradient along each."""
    spacing = (5.0, 2.0, 2.0)
    assert spacing_weights(spacing) == (0.4, 1.0, 1.0)
    values = []
    for axis, width in enumerate(spacing):
        shape = [1, 1, 1]
        shape[axis] = 6
        ramp = (torch.arange(6.0) * width).reshape(shape).expand(6, 6, 6).contiguous()
        problem = Problem(Identity(), ramp, torch.ones(1, 1, 1), ramp, 1.0, spacing)
        values.append(tv_objective(problem, ramp, 1.0))
    assert values == pytest.approx([values[0]] * 3)


@pytest.mark.parametrize("dtype", [REAL, COMPLEX])
def test_vector_shrinkage_is_the_proximal_map(dtype):
    v = normal((3, 4, 4, 4), dtype, 8)
    length = vector_length(v)
    assert torch.allclose(length, v.abs().square().sum(0).sqrt(), atol=1e-5)
    d = shrink_vectors(v.clone(), 1.2)
    assert torch.allclose(vector_length(d), (length - 1.2).clamp_min(0), atol=1e-5)
    assert torch.allclose(d * length, v * vector_length(d), atol=1e-4)


def test_preconditioner_inverts_a_shift_invariant_operator():
    """With A = I the symbol is flat and the inner system is diagonal in Fourier space up to the ends."""
    y = normal((16, 16, 16), REAL, 3)
    problem = Problem(Identity(), y, torch.full((1, 1, 1), 4.0), y, 1.0, (1.0, 1.0, 1.0))
    precondition = fourier_preconditioner(problem, rho=2.0)
    periodic = 4.0 * y
    for axis in range(3):
        periodic = periodic + 2.0 * (2 * y - torch.roll(y, 1, axis) - torch.roll(y, -1, axis))
    assert torch.allclose(precondition(periodic), y, atol=1e-4)
