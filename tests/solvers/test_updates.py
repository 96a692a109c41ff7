"""Update rules against the closed-form ODE of Gaussian volumes, and the solver that runs them by name."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from models.gaussian import GaussianPrior
from solvers.dds import DdsSettings
from solvers.dds import dds as dds_solver
from solvers.draws import Draws
from solvers.ode import UPDATES, OdeSettings, ode
from solvers.run import run_solver
from solvers.settings import SettingsError
from solvers.split_tv import data_step
from solvers.updates import Point, ddim, dds, dpmpp_2m, evodiff, full, least_slope
from tests.solvers.posteriors import against, gaussian_posterior
from tests.solvers.problems import make_problem, normal, stationary_prior

STD, TOP, BOTTOM = 0.5, 2.0, 0.05
PRIOR = stationary_prior((4, 4), STD, 1.0)
SHAPE = (3, 4, 4)


def no_noise():
    raise AssertionError("a deterministic rule drew noise")


def levels(count):
    return [TOP * (BOTTOM / TOP) ** (i / count) for i in range(count + 1)]


def flow(rule, count):
    """End at sigma = BOTTOM of the path of a Gaussian volume from sigma = TOP by `count` steps of the rule, float64."""
    prior = GaussianPrior(PRIOR.power.double())
    x = math.hypot(TOP, STD) * normal(SHAPE, torch.float64, 1)
    points = []
    for sigma, following in pairwise(levels(count)):
        points.append(Point(sigma, x, prior.denoise(x, sigma).mean))
        here, before, earlier = points[-1], *([*points[-2::-1], None, None][:2])
        if rule == "ddim":
            x = ddim(here, following, 0.0, no_noise)
        elif rule == "dpmpp_2m":
            x = dpmpp_2m(here, before, following)
        else:
            refined, x = evodiff(here, before, earlier, following)
            points[-1] = here._replace(x=refined)
    return x


def exact_flow():
    """x_sigma has variance S + sigma^2 in every frequency and the ODE keeps each one's quantile."""
    power = PRIOR.power.double()
    x = math.hypot(TOP, STD) * normal(SHAPE, torch.float64, 1)
    return torch.fft.ifft2(torch.fft.fft2(x) * ((power + BOTTOM**2) / (power + TOP**2)).sqrt()).real


@pytest.mark.parametrize(("rule", "order"), [("ddim", 1), ("dpmpp_2m", 2), ("evodiff", 2)])
def test_order_on_the_gaussian_ode(rule, order):
    errors = [float((flow(rule, count) - exact_flow()).abs().max()) for count in (40, 80, 160)]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.3)


def test_second_order_beats_first_at_few_steps():
    errors = {rule: float((flow(rule, 10) - exact_flow()).abs().max()) for rule in ("ddim", "dpmpp_2m", "evodiff")}
    assert errors["dpmpp_2m"] < 0.5 * errors["ddim"]
    assert errors["evodiff"] < 0.5 * errors["ddim"]


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_keeps_the_marginals(eta):
    """500 levels of the unconditional sampler on white Gaussian volumes end with the prior's standard deviation."""
    prior, draws = GaussianPrior.independent(STD), Draws(2)
    sigmas = levels(500)
    shape = (1, 64, 64)
    x = math.hypot(TOP, STD) * draws.normal(shape, torch.float32, 0, "start")
    for i, (sigma, following) in enumerate(pairwise(sigmas)):
        here = Point(sigma, x, prior.denoise(x, sigma).mean)
        x = ddim(here, following, eta, lambda i=i: draws.normal(shape, torch.float32, i, "noise"))
    assert float(x.std()) == pytest.approx(math.hypot(STD, BOTTOM), rel=0.03)


def test_dds_and_full_renoise_do_not_keep_them():
    """Known: a posterior mean under full re-noise ends with 1/sqrt(2) of the spread; DDS's eta .85 also loses."""
    prior, draws = GaussianPrior.independent(STD), Draws(2)
    sigmas, shape, spread = levels(500), (1, 64, 64), {}
    for rule in ("dds", "full"):
        x = math.hypot(TOP, STD) * draws.normal(shape, torch.float32, 0, "start")
        for i, (sigma, following) in enumerate(pairwise(sigmas)):
            here = Point(sigma, x, prior.denoise(x, sigma).mean)
            noise = lambda i=i: draws.normal(shape, torch.float32, i, "noise")  # noqa: E731
            if rule == "dds":
                x = dds(here, here.estimate, following, 0.85, noise)
            else:
                x = full(here, following, noise)
        spread[rule] = float((x.std() ** 2 - BOTTOM**2) ** 0.5) / STD
    assert spread["full"] == pytest.approx(2**-0.5, abs=0.05)
    assert spread["full"] - 0.02 < spread["dds"] < 0.9


def test_dds_rule_is_the_dds_solvers():
    problem, _ = make_problem(SHAPE, 9, 0.1, PRIOR)
    state = next(iter(dds_solver(problem, PRIOR, DdsSettings(levels=3, sigma_min=0.2, eta=0.6), Draws(3))))
    x = problem.x_init + problem.sigma_init * Draws(3).normal(SHAPE, torch.float32, 0, "noise")
    h = PRIOR.denoise(x, problem.sigma_init).mean
    estimate, _ = data_step(problem, h, 30.0, 5)
    sigma = ((1 + 0.2 ** (1 / 7)) / 2) ** 7
    following = dds(Point(1.0, x, estimate), h, sigma, 0.6, lambda: Draws(3).normal(SHAPE, torch.float32, 1, "noise"))
    assert torch.allclose(state.x, following, atol=1e-6)


def test_2m_and_ddim_are_exact_where_the_estimate_does_not_change():
    x, estimate = normal(SHAPE, torch.float64, 3), normal(SHAPE, torch.float64, 4)
    here, before = Point(0.5, x, estimate), Point(1.0, x, estimate)
    expected = estimate + 0.4 * (x - estimate)
    assert torch.allclose(dpmpp_2m(here, before, 0.2), expected)
    assert torch.allclose(ddim(here, 0.2, 0.0, no_noise), expected)


def test_2m_is_the_published_formula():
    x, now, then = (normal(SHAPE, torch.float64, seed) for seed in (3, 4, 5))
    q = math.log(1.0 / 0.5) / math.log(0.5 / 0.2)
    extrapolated = (1 + 1 / (2 * q)) * now - 1 / (2 * q) * then
    expected = 0.2 / 0.5 * x + (1 - 0.2 / 0.5) * extrapolated
    assert torch.allclose(dpmpp_2m(Point(0.5, x, now), Point(1.0, x, then), 0.2), expected)


@pytest.mark.parametrize("rule", ["ddim", "dds", "full", "dpmpp_2m", "evodiff"])
def test_the_step_to_zero_is_the_estimate(rule):
    here, before = (Point(s, normal(SHAPE, torch.float32, 6), normal(SHAPE, torch.float32, 7)) for s in (0.1, 0.3))
    end = {
        "ddim": lambda: ddim(here, 0.0, 1.0, no_noise),
        "dds": lambda: dds(here, here.x, 0.0, 0.85, no_noise),
        "full": lambda: full(here, 0.0, no_noise),
        "dpmpp_2m": lambda: dpmpp_2m(here, before, 0.0),
        "evodiff": lambda: evodiff(here, before, before._replace(sigma=0.9), 0.0)[1],
    }[rule]()
    assert torch.equal(end, here.estimate)


def test_evodiff_is_ddim_at_first_then_2m_and_stays_2m_for_estimates_linear_in_log_sigma():
    base, slope = normal(SHAPE, torch.float64, 8), normal(SHAPE, torch.float64, 9)
    sigmas = [1.0, 0.6, 0.3, 0.1]
    x, points = normal(SHAPE, torch.float64, 10), []
    for sigma, following in pairwise(sigmas):
        points.append(Point(sigma, x, base - math.log(sigma) * slope))
        here, before, earlier = points[-1], *([*points[-2::-1], None, None][:2])
        refined, x = evodiff(here, before, earlier, following)
        assert torch.allclose(refined, here.x)
        expected = ddim(here, following, 0.0, no_noise) if before is None else dpmpp_2m(here, before, following)
        assert torch.allclose(x, expected)


def test_least_slope_is_the_nearest_point_of_the_segment_to_zero():
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert torch.allclose(least_slope(a, b), torch.tensor([0.5, 0.5]))
    assert torch.allclose(least_slope(a, 3 * a), a)
    assert torch.allclose(least_slope(3 * a, a), a)
    assert torch.equal(least_slope(a, a), a)
    old, new = (normal((5, 4, 4), torch.complex64, seed) for seed in (1, 2))
    best = float(least_slope(old, new).abs().square().sum())
    for share in torch.linspace(0, 1, 21):
        assert best <= float(((1 - share) * old + share * new).abs().square().sum()) * (1 + 1e-5)


# --- the solver ----------------------------------------------------------------------------------------------------

EXACT = {"error_length_mm": 0.0, "error_pixels": 0.0, "cg_tolerance": 1e-5, "sigma_min": 0.02, "levels": 40}


@pytest.mark.parametrize(
    ("settings", "low", "high"),
    [
        ({"update": "ddim", "eta": 0.0}, 0.92, 1.08),
        ({"update": "ddim", "eta": 1.0}, 0.90, 1.05),
        ({"update": "dpmpp_2m"}, 0.95, 1.05),
        ({"update": "evodiff"}, 0.95, 1.05),
        ({"update": "full"}, 0.65, 0.77),
        ({"update": "dds", "eta": 0.85}, 0.55, 0.90),
    ],
)
def test_the_ode_samples_white_gaussian_posteriors(settings, low, high):
    """V is exact for white volumes. DDIM, 2M and EVODiff keep the spread; full re-noise and DDS's lose it, as known."""
    posterior = gaussian_posterior(length=0.0, sigma_init=3.0)
    found = against(run_solver("ode", posterior.problem, posterior.prior, {**EXACT, **settings}).estimate, posterior)
    assert low < found.ratio < high
    assert found.error < 0.3


def test_one_level_is_the_correction():
    problem, _ = make_problem(SHAPE, 9, 0.1, PRIOR)
    state = next(iter(ode(problem, PRIOR, OdeSettings(levels=1), Draws(0))))
    assert torch.equal(state.x, state.estimate)
    assert state.network_calls == 1


def test_settings_are_checked():
    assert set(UPDATES) == {"ddim", "dds", "full", "dpmpp_2m", "evodiff"}
    for settings in ({"update": "euler"}, {"eta": 2.0}, {"update": "full", "eta": 0.5}, {"trust": 0.0}):
        with pytest.raises(SettingsError):
            OdeSettings(**settings)
