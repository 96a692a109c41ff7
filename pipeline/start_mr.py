"""The classical image that MR samplers start from, and the noise level that hides what it lacks."""

import torch
from torch import Tensor

from operators.linear import LinearOperator
from pipeline.start_level import natural_field, start_level
from solvers.conjugate_gradient import conjugate_gradient

# Relative error of the start up to which the least noise level will do.
MR_START_ERROR = 0.14
MR_RIDGE = 1e-3
MR_ITERATIONS = 10


def cg_sense_start(A: LinearOperator, y: Tensor, weights: Tensor, shape: tuple[int, ...]) -> Tensor:
    """argmin_x |y - A x|^2_W + lambda |x|^2 with lambda = MR_RIDGE * max(W), by CG."""
    ridge = MR_RIDGE * float(weights.max())
    b = A.adjoint(weights * y)
    start = torch.zeros(shape, dtype=b.dtype)
    return conjugate_gradient(lambda x: A.adjoint(weights * A(x)) + ridge * x, b, start, MR_ITERATIONS, 1e-4)


def mr_sigma_init(A: LinearOperator, weights: Tensor, shape_yx: tuple[int, int]) -> float:
    """Noise level that hides what the CG-SENSE start of one slice lacks (`start_level`).

    Its relative error on a noiseless random field is about MR_START_ERROR at R = 4 with eight coils, for which the
    least level is enough, and more where more lines are left out.
    """
    field = natural_field(shape_yx).to(torch.complex64)
    return start_level(field, cg_sense_start(A, A(field), weights, field.shape), MR_START_ERROR)
