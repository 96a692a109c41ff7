"""Finite differences with Neumann ends."""

from __future__ import annotations

import pytest
import torch

from operators.finite_difference import Gradient3D, SliceDifference
from tests.operators.helpers import seeded

SHAPE = (4, 5, 6)


@pytest.mark.parametrize("operator", [SliceDifference(), Gradient3D(), Gradient3D((0.3, 1.0, 2.0))])
def test_difference_of_a_constant_is_zero(operator):
    assert torch.all(operator(torch.full(SHAPE, 3.5)) == 0)


def test_slice_difference_is_the_step_and_does_not_wrap():
    steps = torch.randn((3, 5, 6), generator=seeded())
    x = torch.cat([torch.zeros(1, 5, 6), steps.cumsum(0)])
    torch.testing.assert_close(SliceDifference()(x), steps)
    assert SliceDifference()(torch.zeros(1, 5, 6)).shape == (0, 5, 6)
    assert torch.all(SliceDifference().adjoint(torch.zeros(0, 5, 6)) == 0)


def test_gradient_of_a_linear_ramp_is_its_slope_except_at_the_ends():
    z, y, x = torch.meshgrid(*(torch.arange(float(n)) for n in SHAPE), indexing="ij")
    gradient = Gradient3D((0.5, 1.0, 2.0))(2 * z + 3 * y + 5 * x)
    for axis, slope in enumerate((1.0, 3.0, 10.0)):
        length = SHAPE[axis]
        assert torch.all(gradient[axis].narrow(axis, 0, length - 1) == slope)
        assert torch.all(gradient[axis].narrow(axis, length - 1, 1) == 0)


def test_gram_is_the_neumann_laplacian():
    n = 6
    x = torch.eye(n)[:, :, None]
    laplacian = 2 * torch.eye(n) - torch.diag(torch.ones(n - 1), 1) - torch.diag(torch.ones(n - 1), -1)
    laplacian[0, 0] = laplacian[-1, -1] = 1
    assert torch.equal(SliceDifference().gram(x)[:, :, 0], laplacian)
