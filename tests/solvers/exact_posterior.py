"""Problems whose posterior is known exactly. Equal slices with equal data are independent samples of one posterior."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from models.gaussian import GaussianPrior
from models.mixture import MixturePosterior, MixturePrior, mixture_posterior
from solvers.draws import Draws
from solvers.problem import Problem
from solvers.schedule import karras_levels
from tests.solvers.problems import SPACING_MM, dense_slice, make_problem, normal, slice_matrix, stationary_prior

SIDE = 8


class Fit(NamedTuple):
    """error: rms error of the sample mean in posterior standard deviations; the others are ratios of standard
    deviations to the posterior's: over all voxels, in the row space of A, in its null space."""

    error: float
    ratio: float
    row: float
    null: float


@dataclass(frozen=True, eq=False)
class Case:
    """problem (all slices equal), prior, posterior mean (n) and covariance (n n) of one slice, the matrix of A."""

    problem: Problem
    prior: GaussianPrior
    mean: Tensor
    covariance: Tensor
    matrix: Tensor

    def fit(self, estimate: Tensor) -> Fit:
        samples = estimate.reshape(estimate.shape[0], -1).to(self.mean.dtype)
        components = 2 if samples.is_complex() else 1
        variance = self.covariance.diagonal().real.mean()
        error = ((samples.mean(0) - self.mean).abs().square().mean() / components / variance).sqrt()
        centred = samples - samples.mean(0)
        basis = torch.linalg.svd(self.matrix, full_matrices=True)[2].mH
        rank = self.matrix.shape[0]

        def ratio(directions: Tensor) -> float:
            measured = (centred @ directions.conj()).abs().square().mean() / components
            exact = (directions.mH @ self.covariance @ directions).diagonal().real.mean()
            return float((measured / exact).sqrt())

        return Fit(float(error), ratio(basis), ratio(basis[:, :rank]), ratio(basis[:, rank:]))


@lru_cache(maxsize=8)
def gaussian_case(
    length: float = 1.0, dtype: torch.dtype = torch.float32, samples: int = 400, rows: int = 24, sigma_y: float = 0.05
) -> Case:
    """Stationary Gaussian slices of standard deviation .5 (length 0: white), `rows` of 64 directions measured."""
    prior = stationary_prior((SIDE, SIDE), 0.5, length, "mr" if dtype.is_complex else "ct")
    problem, _ = make_problem((1, SIDE, SIDE), rows, sigma_y, prior, dtype)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    columns = prior.draw(torch.eye(SIDE**2).reshape(-1, SIDE, SIDE)).reshape(SIDE**2, SIDE**2).double()
    A = problem.A.matrix.to(wide)
    covariance = torch.linalg.inv(torch.linalg.inv(columns.T @ columns) + A.mH @ A / sigma_y**2)
    mean = covariance @ (A.mH @ problem.y[0].to(wide)) / sigma_y**2
    y = problem.y.expand(samples, -1).contiguous()
    start = torch.zeros(samples, SIDE, SIDE, dtype=dtype)
    return Case(replace(problem, y=y, x_init=start, shape=None), prior, mean, covariance, A)


class MixtureCase(NamedTuple):
    """problem (all slices equal), prior of two modes, exact posterior of one slice."""

    problem: Problem
    prior: MixturePrior
    posterior: MixturePosterior

    def mode_weight(self, estimate: Tensor) -> float:
        """Share of the samples that lie nearer to the posterior mean of the first mode."""
        samples = estimate.reshape(estimate.shape[0], -1).to(self.posterior.means.dtype)
        distance = (samples[:, None] - self.posterior.means).abs().square().sum(2)
        return float((distance[:, 0] < distance[:, 1]).double().mean())


def mixture_case(samples: int = 400, sigma_y: float = 0.3, scale: float = 0.7, seed: int = 7) -> MixtureCase:
    """Two modes in 16 dimensions, 4 directions measured, noisy enough that the data leave the mode open."""
    means = torch.stack([torch.ones(4, 4), -torch.ones(4, 4)]) * scale
    prior = MixturePrior(means, 0.3, (0.6, 0.4))
    A = slice_matrix(4, (4, 4), torch.float32, seed=5)
    y = sigma_y * normal((1, 4), torch.float32, seed)
    posterior = mixture_posterior(prior, A.matrix, y[0], sigma_y**-2)
    weights = torch.full((1, 1), sigma_y**-2)
    start = torch.zeros(samples, 4, 4)
    problem = Problem(A, y.expand(samples, -1).contiguous(), weights, start, 5.0, SPACING_MM)
    return MixtureCase(problem, prior, posterior)


def first_level(solver, settings, problem: Problem, prior, seed: int = 3):
    """(state after one level, x and D(x) that it started from, sigma, next sigma); x_init + sigma * noise at first."""
    draws = Draws(seed)
    state = next(iter(solver(problem, prior, settings, draws)))
    sigmas = karras_levels(settings.sigma_max or problem.sigma_init, settings.sigma_min, settings.levels)
    x = problem.x_init + sigmas[0] * draws.normal(problem.shape, problem.dtype, 0, "noise")
    return state, x, prior.denoise(x, sigmas[0]).mean, sigmas[0], sigmas[1] if len(sigmas) > 1 else 0.0


def filter_matrix(prior: GaussianPrior, shape_yx: tuple[int, int], sigma: float) -> Tensor:
    """J = dD/dx of one slice as a symmetric real matrix (n n), by denoising every unit vector."""
    n = shape_yx[0] * shape_yx[1]
    return prior.denoise(torch.eye(n).reshape(n, *shape_yx), sigma).mean.reshape(n, n)


def conditional_mean(problem: Problem, prior: GaussianPrior, x: Tensor, sigma: float) -> Tensor:
    """E[x | x_sigma, y] (z y x) of zero-mean Gaussian slices: (S^-1 + I/sigma^2 + A^H W A)^-1 (x_sigma/sigma^2 +
    A^H W y)."""
    n = x.shape[1] * x.shape[2]
    wide = torch.complex128 if x.is_complex() else torch.float64
    root = prior.draw(torch.eye(n).reshape(n, *x.shape[1:])).reshape(n, n).double()
    precision = torch.linalg.inv(root.T @ root) + torch.eye(n, dtype=torch.float64) / sigma**2
    precision = precision.to(wide) + dense_slice(problem).to(wide)
    right = (x / sigma**2 + problem.backprojection()).reshape(-1, n).to(wide)
    return torch.linalg.solve(precision, right.T).T.reshape(x.shape).to(x.dtype)
