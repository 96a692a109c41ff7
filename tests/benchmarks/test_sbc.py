from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import sbc
from benchmarks.sbc_page import margin, write_page
from models.gaussian import GaussianPrior
from solvers.draws import Draws

SETTING = sbc.Setting(side=12, views=5, replicates=300, samples=7, noise_of_largest=0.02)


@pytest.fixture(scope="module")
def gaussian():
    """Figures of the exact posterior, PaM and DDS on one measurement of a white Gaussian prior."""
    with torch.no_grad():
        return sbc.gaussian_part(SETTING)


def test_ranks_count_the_samples_below_the_truth():
    generator = torch.Generator().manual_seed(0)
    truth = torch.zeros(5, 16, 16)
    samples = [torch.full((5, 16, 16), v) + 1e-3 * torch.randn(5, 16, 16, generator=generator) for v in (-2, -1, 1)]
    rank = sbc.ranks(truth, samples)
    for name in ("voxel", "voxel off centre", "block mean", "slice mean"):
        np.testing.assert_array_equal(rank[name], 2)
    np.testing.assert_array_equal(rank["gradient energy"], 0)


def test_uniform_ranks_pass_and_a_u_or_a_hump_or_a_slope_does_not():
    rank = np.repeat(np.arange(8), 40)
    assert sbc.uniformity(rank, 7) == pytest.approx({"p": 1.0, "spread": 1.0, "mean": 0.5})
    u_shape = np.concatenate([rank, np.repeat([0, 7], 60)])
    hump = np.concatenate([rank, np.repeat([3, 4], 60)])
    slope = np.concatenate([rank, np.repeat([6, 7], 60)])
    assert sbc.uniformity(u_shape, 7)["spread"] > 1.3
    assert sbc.uniformity(hump, 7)["spread"] < 0.8
    assert sbc.uniformity(slope, 7)["mean"] > 0.6
    assert max(sbc.uniformity(r, 7)["p"] for r in (u_shape, hump, slope)) < 1e-6


def test_the_margin_is_two_standard_deviations_of_chance():
    rank = np.random.default_rng(0).integers(0, 8, (20000, 40))
    spreads = np.mean((rank - 3.5) ** 2, axis=1) / np.var(np.arange(8))
    assert sbc.uniformity(rank[0], 7)["spread"] == pytest.approx(spreads[0])
    assert margin(7, 40) == pytest.approx(2 * np.std(spreads), rel=0.03)


def test_the_exact_posterior_has_uniform_ranks(gaussian):
    row = gaussian["exact posterior"]
    assert min(u["p"] for u in row["uniformity"].values()) > 1e-3
    assert all(abs(u["spread"] - 1) < 1.6 * margin(7, 300) for u in row["uniformity"].values())
    assert row["calibration_ratio"] == pytest.approx(1, abs=0.03)


def test_pam_with_the_true_error_model_has_uniform_ranks(gaussian):
    row, exact = gaussian["pam"], gaussian["exact posterior"]
    assert min(u["p"] for u in row["uniformity"].values()) > 1e-3
    assert row["calibration_ratio"] == pytest.approx(1, abs=0.05)
    assert row["rmse"] == pytest.approx(exact["rmse"], rel=0.02)


def test_dds_is_told_apart_from_the_posterior(gaussian):
    row = gaussian["dds"]
    assert min(u["p"] for u in row["uniformity"].values()) < 1e-6
    assert row["calibration_ratio"] < 0.85


def test_exact_samples_have_the_posterior_of_the_dense_formula():
    setting = replace(SETTING, side=6, views=4, replicates=3)
    truth = sbc.EXACT_STD * Draws(0).normal((3, 6, 6), torch.float32, "truth")
    problem = sbc.make_problem(truth, setting)
    drawn = torch.stack(sbc.exact_samples(problem, sbc.EXACT_STD, 4000, Draws(1))).double()
    matrix = problem.A(torch.eye(36).reshape(36, 6, 6)).reshape(36, -1).T.double()
    precision = matrix.T @ matrix * float(problem.weights.flatten()[0]) + torch.eye(36) / sbc.EXACT_STD**2
    covariance = torch.linalg.inv(precision.double())
    mean = covariance @ problem.backprojection().reshape(3, -1).double().T
    torch.testing.assert_close(drawn.mean(0).reshape(3, -1).T, mean, atol=0.05, rtol=0)
    torch.testing.assert_close(torch.cov(drawn[:, 1].reshape(4000, -1).T), covariance, atol=0.02, rtol=0)


@pytest.mark.parametrize("levels", [5, 30])
def test_unconditional_draws_have_the_priors_variance_at_any_number_of_levels(levels):
    prior = GaussianPrior.independent(0.5, mean=0.2)
    x = sbc.prior_draws(prior, (40, 24, 24), Draws(0), levels)
    assert float(x.mean()) == pytest.approx(0.2, abs=0.02)
    assert float(x.std()) == pytest.approx(0.5, rel=0.02)
    other = sbc.prior_draws(prior, (40, 24, 24), Draws(1), levels)
    assert abs(float(torch.corrcoef(torch.stack([x.flatten(), other.flatten()]))[0, 1])) < 0.03


def test_replicates_do_not_see_each_other():
    class Recorder:
        card, sigma_data = {}, 0.5

        def denoise(self, x, sigma, spacing_mm, noise_correlation):
            assert x.shape[0] == 1
            assert spacing_mm == (2.5, 1.5, 1.5)
            return GaussianPrior.independent(0.5).denoise(x, sigma)

    stack = sbc.SeparateSlices(Recorder(), 2.5, 1.5, 0.5)
    x = Draws(0).normal((4, 8, 8), torch.float32)
    moments = stack.denoise(x, 0.3, (1e4, 1.0, 1.0), 0.0)
    torch.testing.assert_close(moments.mean, GaussianPrior.independent(0.5).denoise(x, 0.3).mean)
    assert moments.variance.shape == x.shape


def test_the_page_names_its_conditions(tmp_path, gaussian):
    truth = torch.zeros(3, 12, 12)
    conditions = {"command": "python -m benchmarks.sbc", "machine": "a machine", "prior": "0123456789abcdef"}
    write_page(tmp_path, conditions, {"gaussian": (SETTING, gaussian), "network": (SETTING, gaussian)}, truth)
    text = (tmp_path / "sbc.md").read_text()
    assert "python -m benchmarks.sbc" in text
    assert "a machine" in text
    assert "0123456789ab" in text
    assert "| exact posterior |" in text
    assert all((tmp_path / name).is_file() for name in ("sbc_gaussian.png", "sbc_network.png", "sbc_draws.png"))
