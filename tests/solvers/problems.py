"""Small linear problems with known answers, shared by the tests of the solvers."""

from __future__ import annotations

import torch
from torch import Tensor

from models.gaussian import GaussianPrior
from operators.linear import LinearOperator
from solvers.problem import Problem

SPACING_MM = (2.0, 1.0, 1.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """White noise of unit variance in every real component."""
    if dtype.is_complex:
        return torch.view_as_complex(torch.randn((*shape, 2), dtype=dtype.to_real(), generator=seeded(seed)))
    return torch.randn(shape, dtype=dtype, generator=seeded(seed))


class SliceMatrix(LinearOperator):
    """The same dense matrix on every slice: (z y x) -> (z m)."""

    def __init__(self, matrix: Tensor, shape_yx: tuple[int, int]) -> None:
        self.matrix, self.shape_yx = matrix, shape_yx

    def _forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], -1) @ self.matrix.T

    def _adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.matrix.conj()).reshape(y.shape[0], *self.shape_yx)


def slice_matrix(rows: int, shape_yx: tuple[int, int], dtype: torch.dtype, seed: int = 0) -> SliceMatrix:
    """A random matrix of spectral norm one."""
    matrix = normal((rows, shape_yx[0] * shape_yx[1]), dtype, seed)
    return SliceMatrix(matrix / torch.linalg.matrix_norm(matrix, 2), shape_yx)


def stationary_prior(shape_yx: tuple[int, int], std: float, length: float, modality: str = "ct") -> GaussianPrior:
    """Gaussian slices with power spectrum proportional to exp(-(length k)^2), standard deviation `std`."""
    ky, kx = (torch.fft.fftfreq(n, dtype=torch.float64) * 2 * torch.pi for n in shape_yx)
    power = torch.exp(-(length**2) * (ky[:, None] ** 2 + kx[None, :] ** 2)) + 1e-4
    power = power * std**2 / power.mean()
    return GaussianPrior(power.float(), modality=modality)


def make_problem(
    shape: tuple[int, int, int],
    rows: int,
    sigma_y: float,
    prior: GaussianPrior,
    dtype: torch.dtype = torch.float32,
    sigma_init: float = 1.0,
    seed: int = 0,
) -> tuple[Problem, Tensor]:
    """(problem, truth): truth drawn from the prior, measured by a random matrix with white noise."""
    A = slice_matrix(rows, shape[1:], dtype, seed)
    truth = prior.draw(normal(shape, dtype, seed + 1))
    y = A(truth)
    y = y + sigma_y * normal(tuple(y.shape), dtype, seed + 2)
    weights = torch.full((1, 1), sigma_y**-2, dtype=dtype.to_real())
    return Problem(A, y, weights, A.adjoint(y), sigma_init, SPACING_MM), truth


def dense_slice(problem: Problem) -> Tensor:
    """A^H W A of one slice as a matrix."""
    matrix = problem.A.matrix
    return matrix.mH @ matrix * problem.weights.flatten()[0]
