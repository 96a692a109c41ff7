"""Solvers on cone-beam problems, where data couple the slices: dense linear algebra is the truth."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from models.gaussian import GaussianPrior
from operators.cone_geometry import VolumeGrid
from operators.linear import LinearOperator
from solvers.adaptation import split_measurement
from solvers.classical.registry import CLASSICAL
from solvers.classical.total_variation import TvSettings, total_variation, tv_objective
from solvers.correction import ErrorModel, correct
from solvers.draws import Draws
from solvers.null_space import support_maps
from solvers.problem import Problem
from solvers.run import run_solver
from solvers.settings import SettingsError
from tests.operators.ellipsoids import PHANTOM, voxels
from tests.operators.helpers import dense
from tests.solvers.cone_problems import cone_problem
from tests.solvers.problems import normal, stationary_prior

SHAPE = (4, 5, 6)
STD = 0.5


def posterior(problem: Problem, precision: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean (z y x), covariance) for a Gaussian prior N(0, precision^-1), float64, by dense solves."""
    A = dense(problem.A, problem.shape, torch.float32).double()
    weight = float(problem.weights.max())
    covariance = torch.linalg.inv(precision + weight * A.T @ A)
    return (covariance @ A.T @ problem.y.flatten().double() * weight).reshape(problem.shape), covariance


@pytest.fixture(scope="module")
def problem():
    return cone_problem(STD * normal(SHAPE, torch.float32, 1), views=3, sigma_y=0.05)


@pytest.mark.parametrize("correlation", [(0.0, 0.0, 0.0), (0.5, 0.3, 0.2)])
def test_correction_is_the_posterior_mode(problem, correlation):
    error = ErrorModel(0.2 + 0.3 * normal(SHAPE, torch.float32, 3).abs(), correlation)
    h = 0.3 * normal(SHAPE, torch.float32, 4)
    units = torch.eye(h.numel()).reshape(-1, 1, *SHAPE)
    S = torch.stack([error.factor(unit).flatten() for unit in units], 1).double()
    A = dense(problem.A, SHAPE, torch.float32).double()
    weight = float(problem.weights.max())
    precision = torch.linalg.inv(S @ S.T) + weight * A.T @ A
    residual = problem.y.flatten().double() - A @ h.flatten().double()
    exact = h.double() + torch.linalg.solve(precision, A.T @ residual * weight).reshape(SHAPE)
    ours = correct(problem, h, error, iterations=200, tolerance=1e-6)
    torch.testing.assert_close(ours.double(), exact, rtol=1e-3, atol=1e-3)


class Stored(LinearOperator):
    """A cone-beam operator as the matrix that it is, so that many small solves take no time."""

    def __init__(self, problem: Problem) -> None:
        self.matrix = dense(problem.A, problem.shape, torch.float32)
        self.shape_x, self.shape_y = problem.shape, problem.y.shape

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.matrix @ x.flatten()).reshape(self.shape_y)

    def _adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return (self.matrix.T @ y.flatten()).reshape(self.shape_x)


def test_pam_samples_the_exact_posterior(problem):
    mean, covariance = posterior(problem, torch.eye(torch.Size(SHAPE).numel()).double() / STD**2)
    settings = {"mode": "sample", "levels": 6, "sigma_min": 0.05, "noise_length_mm": 0.0, "error_length_mm": 0.0}
    settings |= {"error_pixels": 0.0, "cg_iterations": 60, "cg_tolerance": 1e-4}
    prior, stored = GaussianPrior.independent(STD), replace(problem, A=Stored(problem), sigma_init=2.0)
    draws = torch.stack([run_solver("pam", stored, prior, settings, seed=k).estimate for k in range(80)]).double()
    variance = covariance.diagonal().reshape(SHAPE)
    error = float(((draws.mean(0) - mean).square().mean() / variance.mean()).sqrt())
    assert error < 2 / 80**0.5
    assert float(draws.var(0).mean() / variance.mean()) == pytest.approx(1, abs=0.08)


def test_pam_samples_agree_with_the_data(problem):
    settings = {"mode": "sample", "levels": 3, "noise_length_mm": 0.0, "error_length_mm": 0.0, "error_pixels": 0.0}
    sample = run_solver("pam", problem, GaussianPrior.independent(STD), settings).estimate
    assert problem.chi2(sample) == pytest.approx(1, abs=0.35)


def test_pam_point_estimate_beats_least_squares_and_fits_the_data():
    prior = stationary_prior((10, 12), STD, 1.5)
    truth = prior.draw(normal((6, 10, 12), torch.float32, 5))
    problem = cone_problem(truth, views=6, sigma_y=0.05)
    estimate = run_solver("pam", problem, prior, {"mode": "point", "noise_length_mm": 0.0}).estimate
    cgls = CLASSICAL["cgls"](problem, {"iterations": 20})
    assert (estimate - truth).norm() < 0.9 * (cgls - truth).norm()
    assert 0.5 < problem.chi2(estimate) < 1.2


def test_tv_reaches_the_minimum():
    grid_like = torch.from_numpy(voxels(PHANTOM, VolumeGrid(8, 8, 8, 9.0, 9.0), fine=2)).float()
    problem = cone_problem(grid_like - 1, views=6, sigma_y=0.02, pixel_mm=9.0)
    problem = replace(problem, A=Stored(problem))
    settings = {"weight": 20.0, "step": 0.05, "cg_iterations": 6, "tolerance": 0.0}
    some, many = (total_variation(problem, TvSettings(iterations=n, **settings)) for n in (40, 160))
    values = [tv_objective(problem, x, 20.0) for x in (some, many)]
    assert values[0] == pytest.approx(values[1], rel=1e-3)
    for direction in (normal(problem.shape, torch.float32, 8), many - grid_like):
        assert tv_objective(problem, many + 0.02 * direction, 20.0) > values[1]


def test_support_is_lower_where_the_cone_leaves_the_volume():
    """A detector of half the rows: the slices at the ends are measured by few rays or none."""
    truth = STD * normal((12, 12, 12), torch.float32, 2)
    whole = cone_problem(truth, views=16, sigma_y=0.02)
    rows = torch.zeros(whole.y.shape[1])
    rows[len(rows) // 4 : -(len(rows) // 4)] = 1
    problem = Problem(
        whole.A, whole.y, whole.weights * rows[None, :, None], whole.x_init, 0.5, whole.spacing_mm,
        geometry=whole.geometry,
    )  # fmt: skip
    samples = torch.stack([truth + 0.3 * normal(truth.shape, torch.float32, k) for k in (3, 4, 5)])
    maps = support_maps(problem, samples.mean(0), samples)
    middle, ends = maps["support"][5:7].mean(), maps["support"][[0, -1]].mean()
    assert middle > ends + 0.1
    assert maps["sd_null"][[0, -1]].mean() > 1.3 * maps["sd_null"][5:7].mean()


def test_views_are_split_along_the_right_axis(problem):
    fit, test = split_measurement(problem, 0.34, Draws(0))
    kept, held = (p.weights.expand(problem.y.shape) > 0 for p in (fit, test))
    assert bool((kept ^ held).all())
    assert held.flatten(1).all(1).sum() == held.flatten(1).any(1).sum() == 1


def test_stacked_particles_are_refused(problem):
    settings = {"particles": 2, "stacked": True}
    with pytest.raises(SettingsError, match="single slices"):
        run_solver("afdps", problem, GaussianPrior.independent(STD), settings)
