"""Regularisers by name: values, derivatives, and the minimiser of the regularised data step."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from operators.finite_difference import SliceDifference
from solvers.regularisers import REGULARISERS, huber_3d, regularised_data_step, slice_quadratic, slice_tv
from tests.solvers.problems import dense_slice, make_problem, normal, stationary_prior

SHAPE = (4, 4, 5)
SPACING = (2.0, 1.0, 1.0)
D = SliceDifference()
NAMES = sorted(REGULARISERS)


def problem_and_denoised(dtype=torch.float32):
    prior = stationary_prior(SHAPE[1:], 0.5, 1.0, "mr" if dtype.is_complex else "ct")
    return make_problem(SHAPE, 9, 0.1, prior, dtype)[0], normal(SHAPE, dtype, 5) * 0.4


@pytest.mark.parametrize("name", NAMES)
def test_constant_volumes_cost_nothing_and_the_ends_do_not_touch(name):
    ramp = torch.arange(4.0)[:, None, None].expand(SHAPE)
    function = REGULARISERS[name]
    assert float(function(torch.full(SHAPE, 3.0), SPACING, 0.01)) == pytest.approx(0.0, abs=1e-4)
    once = float(function(ramp, SPACING, 1e-3))
    twice = float(function(torch.cat([ramp, ramp + 4]), SPACING, 1e-3))
    assert twice == pytest.approx(once * 7 / 3, rel=1e-3)


def test_values_of_a_step_along_z():
    """20 jumps of .5: |d|, |d|^2 / 2, and half the jump (pixel / slice distance) less half the smoothing."""
    x = torch.zeros(SHAPE)
    x[2:] = 0.5
    assert float(slice_tv(x, SPACING, 1e-4)) == pytest.approx(20 * 0.5, rel=1e-3)
    assert float(slice_quadratic(x, SPACING, 1e-4)) == pytest.approx(20 * 0.125)
    assert float(huber_3d(x, SPACING, 0.1)) == pytest.approx(20 * (0.25 - 0.05))
    assert float(huber_3d(x, SPACING, 1.0)) == pytest.approx(20 * 0.25**2 / 2)


@pytest.mark.parametrize("name", NAMES)
def test_first_and_second_derivatives(name):
    x = normal((3, 3, 2), torch.float64, 1).requires_grad_()
    function = partial(REGULARISERS[name], spacing_mm=SPACING, smoothing=0.3)
    assert torch.autograd.gradcheck(function, (x,))
    assert torch.autograd.gradgradcheck(function, (x,))


@pytest.mark.parametrize("name", NAMES)
def test_a_complex_volume_counts_by_its_modulus(name):
    """A global phase changes nothing, and a real volume costs the same as a complex one without imaginary part."""
    function, x = REGULARISERS[name], normal(SHAPE, torch.complex64, 2)
    turned = x * torch.exp(torch.tensor(0.7j))
    assert float(function(turned, SPACING, 0.1)) == pytest.approx(float(function(x, SPACING, 0.1)), rel=1e-5)
    real = x.real.contiguous()
    assert float(function(real + 0j, SPACING, 0.1)) == pytest.approx(float(function(real, SPACING, 0.1)), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_a_quadratic_is_minimised_in_one_step(dtype):
    """(I / gamma + s^2 A^H W A + w Dz^T Dz) x = h / gamma + s^2 A^H W y, dense over all slices."""
    problem, h = problem_and_denoised(dtype)
    x = regularised_data_step(problem, h, 30.0, lambda v: 0.4 * slice_quadratic(v, SPACING, 1.0), 1, 150)
    slices = D(torch.eye(4)[:, :, None])[..., 0]
    system = torch.eye(80, dtype=dtype) / 30 + torch.kron(torch.eye(4), 0.01 * dense_slice(problem))
    system = system + 0.4 * torch.kron(slices.T @ slices, torch.eye(20))
    right = h / 30 + 0.01 * problem.backprojection()
    exact = torch.linalg.solve(system, right.reshape(80)).reshape(SHAPE)
    assert torch.allclose(x, exact, atol=2e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("function", [slice_tv, huber_3d])
def test_newton_reaches_the_stationary_point(function, dtype):
    problem, h = problem_and_denoised(dtype)
    x = regularised_data_step(problem, h, 10.0, lambda v: 0.02 * function(v, SPACING, 0.05), 25, 80)
    point = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(0.02 * function(point, SPACING, 0.05), point)
    data = 0.01 * problem.A.adjoint(problem.weights * (problem.A(x) - problem.y))
    assert float((x - h).abs().max()) > 0.1
    assert float(((x - h) / 10 + data + slope).abs().max()) < 1e-4


def test_the_objective_never_rises_even_where_the_regulariser_is_not_convex():
    problem, h = problem_and_denoised()

    def bumpy(v):
        return 0.05 * torch.cos(6 * D(v)).sum()

    def objective(x):
        residual = 0.01 * (problem.weights * (problem.y - problem.A(x)).square()).sum()
        return float((x - h).square().sum() / 20 + residual / 2 + bumpy(x))

    values = [objective(h)] + [objective(regularised_data_step(problem, h, 10.0, bumpy, k, 20)) for k in (1, 2, 4, 8)]
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[0] - 0.1
