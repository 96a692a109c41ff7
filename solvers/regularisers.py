"""Differentiable regularisers R(x) by name: a new one is one function and one line in REGULARISERS.

Each takes a volume (z y x), real or complex, the voxel spacing (z, y, x) in mm and a smoothing length in image units,
and gives a scalar that can be differentiated twice in x. Differences have Neumann ends; of complex volumes the modulus
of the difference counts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from operators.finite_difference import Gradient3D, SliceDifference
from solvers.conjugate_gradient import conjugate_gradient, real_inner
from solvers.problem import Problem

Spacing = tuple[float, float, float]
Regulariser = Callable[[Tensor, Spacing, float], Tensor]
SHORTEST_STEP = 2.0**-12


def slice_tv(x: Tensor, spacing_mm: Spacing, smoothing: float) -> Tensor:
    """sum sqrt(|Dz x|^2 + s^2) - s: total variation between slices, smoothed below jumps of size s."""
    return (_modulus2(SliceDifference()(x)) + smoothing**2).sqrt().sub(smoothing).sum()


def slice_quadratic(x: Tensor, spacing_mm: Spacing, smoothing: float) -> Tensor:
    """sum |Dz x|^2 / 2; `smoothing` has no part in it. Minimised in one Newton step."""
    return _modulus2(SliceDifference()(x)).sum() / 2


def huber_3d(x: Tensor, spacing_mm: Spacing, smoothing: float) -> Tensor:
    """sum phi(|grad x|), phi(t) = t^2 / (2 s) up to s and t - s/2 above (Huber 1964).

    The gradient is taken over pixel lengths in all three directions: differences along z count by pixel / slice
    distance.
    """
    gradient = Gradient3D((spacing_mm[2] / spacing_mm[0], spacing_mm[2] / spacing_mm[1], 1.0))(x)
    square = _modulus2(gradient).sum(0)
    small = square <= smoothing**2
    length = torch.where(small, torch.ones_like(square), square).sqrt()
    return torch.where(small, square / (2 * smoothing), length - smoothing / 2).sum()


REGULARISERS: dict[str, Regulariser] = {
    "slice_tv": slice_tv,
    "slice_quadratic": slice_quadratic,
    "huber_3d": huber_3d,
}


def _modulus2(d: Tensor) -> Tensor:
    return torch.view_as_real(d).square().sum(-1) if d.is_complex() else d.square()


def regularised_data_step(
    problem: Problem, h: Tensor, gamma: float, penalty: Callable[[Tensor], Tensor], newton_steps: int, iterations: int
) -> Tensor:
    """argmin_x |x - h|^2 / (2 gamma) + sigma_y^2 |y - A x|^2_W / 2 + penalty(x), shape (z y x).

    Newton's method from h with `iterations` CG steps each (Hessian products by automatic differentiation) and step
    halving until the objective falls by a tenth of what its slope predicts (Armijo). A quadratic penalty is done in
    one step; a step that cannot lower the objective ends the search, so that it never rises.
    """
    noise_variance = problem.noise_variance()

    def objective(x: Tensor) -> Tensor:
        residual = problem.weights * (problem.y - problem.A(x)).abs().square()
        data = noise_variance * residual.sum(dtype=torch.float64) / 2
        return (x - h).abs().square().sum(dtype=torch.float64) / (2 * gamma) + data + penalty(x).double()

    x, value = h, objective(h)
    for _ in range(newton_steps):
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            slope = torch.autograd.grad(penalty(point), point, create_graph=True)[0]
        right = problem.A.adjoint(problem.weights * (problem.y - problem.A(x)))
        downhill = h - x + gamma * (noise_variance * right - slope.detach())

        def hessian(v: Tensor, slope: Tensor = slope, point: Tensor = point) -> Tensor:
            curved = torch.autograd.grad(slope, point, v, retain_graph=True)[0]
            return v + gamma * (noise_variance * problem.normal(v) + curved)

        move = conjugate_gradient(hessian, downhill, torch.zeros_like(x), iterations)
        expected, length = float(real_inner(downhill, move)) / gamma, 1.0
        while length >= SHORTEST_STEP:
            trial = objective(x + length * move)
            if trial <= value - 0.1 * length * expected:
                break
            length /= 2
        else:
            return x
        x, value = x + length * move, trial
    return x
