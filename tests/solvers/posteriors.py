"""Problems with exact posteriors: equal slices with equal data, so that every slice is an independent sample."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from models.gaussian import GaussianPrior
from models.mixture import MixturePosterior, MixturePrior, mixture_posterior
from solvers.problem import Problem
from tests.solvers.problems import SPACING_MM, SliceMatrix, make_problem, normal, slice_matrix, stationary_prior


class Posterior(NamedTuple):
    """`problem` has many equal slices; mean (n) and covariance (n n, per real component) of one slice, float64."""

    problem: Problem
    prior: GaussianPrior
    mean: Tensor
    covariance: Tensor


class Statistics(NamedTuple):
    """Samples against the posterior: error of their mean in posterior standard deviations, ratios of standard deviation
    over all voxels, over the row space of A and over its null space."""

    error: float
    ratio: float
    rows: float
    null: float


def equal_slices(problem: Problem, count: int) -> Problem:
    """`count` copies of the problem's only slice, started from zero."""
    x_init = torch.zeros(count, *problem.shape[1:], dtype=problem.dtype)
    return replace(problem, y=problem.y.expand(count, -1).contiguous(), x_init=x_init, shape=None)


def gaussian_posterior(
    length: float = 0.0,
    rows: int = 24,
    sigma_y: float = 0.05,
    dtype: torch.dtype = torch.float32,
    sigma_init: float = 1.0,
    count: int = 300,
    side: int = 8,
    orthonormal: bool = False,
) -> Posterior:
    """Gaussian slices of standard deviation 0.5, correlated over `length` pixels, measured by a random matrix.

    `orthonormal` replaces the matrix by one with the same row space and A A^H = I.
    """
    prior = stationary_prior((side, side), 0.5, length, "mr" if dtype.is_complex else "ct")
    problem, truth = make_problem((1, side, side), rows, sigma_y, prior, dtype, sigma_init)
    if orthonormal:
        matrix = torch.linalg.svd(problem.A.matrix, full_matrices=False).Vh
        y = problem.y - problem.A(truth) + truth.flatten(1) @ matrix.T
        problem = replace(problem, A=SliceMatrix(matrix, (side, side)), y=y)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    columns = prior.draw(torch.eye(side**2).reshape(-1, side, side)).reshape(side**2, side**2).double()
    A = problem.A.matrix.to(wide)
    covariance = torch.linalg.inv(torch.linalg.inv(columns.T @ columns) + A.mH @ A / sigma_y**2)
    mean = covariance @ (A.mH @ problem.y[0].to(wide)) / sigma_y**2
    return Posterior(equal_slices(problem, count), prior, mean, covariance)


def against(estimate: Tensor, posterior: Posterior) -> Statistics:
    """Statistics of the slices of `estimate` (z y x)."""
    samples = estimate.flatten(1).to(posterior.mean.dtype)
    components = 2 if samples.is_complex() else 1
    centred = samples - samples.mean(0)
    covariance = centred.T @ centred.conj() / (len(samples) - 1) / components
    basis = torch.linalg.svd(posterior.problem.A.matrix.to(samples.dtype)).Vh
    rank = posterior.problem.A.matrix.shape[0]
    spans = (basis, basis[:rank], basis[rank:])
    found, exact = ([(v @ c @ v.mH).diagonal().real.sum() for v in spans] for c in (covariance, posterior.covariance))
    ratios = [float((f / e).sqrt()) for f, e in zip(found, exact, strict=True)]
    error = (samples.mean(0) - posterior.mean).abs().square().sum() / components
    return Statistics(float((error / exact[0]).sqrt()), *ratios)


def two_modes(
    count: int = 400, sigma_y: float = 0.3, sigma_init: float = 3.0
) -> tuple[Problem, MixturePrior, MixturePosterior]:
    """Slices of 4 x 4 voxels with modes at +m and -m, measured so weakly that both stay possible."""
    direction = normal((4, 4), torch.float32, 11)
    mean = direction / torch.linalg.vector_norm(direction) * 1.2
    prior = MixturePrior(torch.stack([mean, -mean]), 0.25, (0.5, 0.5))
    A = slice_matrix(6, (4, 4), torch.float32)
    y = A((0.3 * mean)[None])
    weights = torch.full((1, 1), sigma_y**-2)
    problem = Problem(A, y, weights, A.adjoint(y), sigma_init, SPACING_MM)
    exact = mixture_posterior(prior, A.matrix, y[0], sigma_y**-2)
    return equal_slices(problem, count), prior, exact


def share_of_first_mode(estimate: Tensor, exact: MixturePosterior) -> float:
    """Share of slices nearer to the first mode of a posterior with two."""
    distance = (estimate.flatten(1).double()[:, None] - exact.means).square().sum(2)
    return float((distance[:, 0] < distance[:, 1]).double().mean())
