"""Fit of the error scale along reconstructions."""

import json

import numpy as np
import pytest
import torch
from tqdm import tqdm

from models.denoised import Denoised
from pipeline.calibrate import ERRORS, GRID, Fit, RecordingPrior, Task, best_factor, body, fit_table, score, settled
from tests.solvers.problems import make_problem, stationary_prior


class OffsetPrior:
    """Denoiser whose error is exactly twice the standard deviation that it predicts."""

    def __init__(self, truth):
        self.truth, self.card = truth, {}

    def denoise(self, x, sigma, spacing_mm, noise_correlation=0.0):
        return Denoised(self.truth + 2 * sigma, torch.full_like(self.truth, sigma**2))

    def r2_scale(self, sigma, purpose):
        return 3.0


@pytest.fixture
def truth():
    volume = torch.full((2, 16, 16), -1.0)
    volume[:, 4:12, 4:12] = 0.2
    return volume


def test_recorder_sees_the_ratio_of_error_and_variance(truth):
    recorder = RecordingPrior(OffsetPrior(truth), truth)
    for sigma in (0.5, 0.1):
        recorder.denoise(truth, sigma, (1.0, 1.0, 1.0))
    assert recorder.r2_scale(0.1, "point") == 3.0
    for sigma, error, variance in recorder.rows:
        assert error == pytest.approx(4 * sigma**2, rel=1e-5)
        assert variance == pytest.approx(sigma**2, rel=1e-5)
    table = fit_table([recorder.rows])
    assert table["sigma"] == list(GRID)
    assert np.allclose(table["scale"], 4.0, rtol=1e-3)


def test_table_is_the_geometric_mean_over_tasks():
    rows = [[(0.01, ratio, 1.0), (2.0, ratio, 1.0)] for ratio in (1.0, 9.0)]
    assert np.allclose(fit_table(rows)["scale"], 3.0, rtol=1e-3)


def test_body_leaves_air_out(truth):
    assert torch.equal(body(truth), truth > 0)


def test_sample_score_is_zero_for_exchangeable_draws():
    generator = torch.Generator().manual_seed(0)
    shape = (8, 64, 64)
    centre = 1 + 0.1 * torch.randn(shape, generator=generator)
    truth, *draws = (centre + 0.05 * torch.randn(shape, generator=generator) for _ in range(5))
    task = Task("t", None, truth)
    assert score(task, draws, "sample") == pytest.approx(0, abs=0.05)
    wide = [centre + 2 * (d - centre) for d in draws]
    assert score(task, wide, "sample") > 0.5


def test_factor_maximises_psnr_or_balances_spread():
    assert best_factor({0.5: [20.0], 1.0: [22.0], 2.0: [21.0]}, "point") == 1.0
    assert best_factor({0.5: [-1.0], 2.0: [1.0]}, "sample") == pytest.approx(1.0, rel=1e-3)
    assert settled({"sigma": [1.0], "scale": [2.0], "factor": 1.5})["scale"] == [3.0]


def test_fit_keeps_the_best_of_what_it_tried():
    prior = stationary_prior((12, 12), 0.5, 1.5)
    problem, truth = make_problem((6, 12, 12), 60, 0.05, prior)
    with tqdm(disable=True) as bar:
        fit = Fit(prior, [Task("t", problem, truth)], {"levels": 3, "cg_iterations": 10}, 3, bar)
        point, sample = fit.point(), fit.sample()
    best = {name: scores[0] for name, scores in point["errors"].items()}
    assert len(best) == len(ERRORS)
    assert json.dumps(prior.card["error"]["point"]) == max(best, key=best.get)
    assert point["scores"][str(point["factor"])][0] == max(scores[0] for scores in point["scores"].values())
    spread = [sample["scores"][str(factor)][0] for factor in sorted(map(float, sample["scores"]))]
    assert spread == sorted(spread)


@pytest.mark.parametrize(("length", "found"), [(0.0, 1.0), (1.5, 0.27)])
def test_measured_is_one_where_the_error_is_as_white_as_the_prior_says(length, found):
    """Of an error that is smooth, more is seen than a white one of the same variance would show."""
    prior = stationary_prior((12, 12), 0.5, length)
    prior.card["error"] = {"sample": {"length_mm": 0.0, "pixels": 0.0}}
    problem, truth = make_problem((40, 12, 12), 60, 0.05, prior)
    with tqdm(disable=True) as bar:
        fit = Fit(prior, [Task("t", problem, truth)], {"levels": 6, "cg_iterations": 20}, 3, bar)
        assert fit.measured("sample") == pytest.approx(found, rel=0.25)
