"""DiffPIR and DPS against an independent implementation, on priors in closed form."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from models.gaussian import GaussianPrior
from models.mixture import MixturePrior

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.skipif(
        importlib.util.find_spec("deepinv") is None,
        reason="deepinv is not installed: pip install --no-deps -r requirements-extra.txt",
    ),
]


@pytest.fixture(scope="module")
def deepinv():
    from benchmarks.deepinv_peer import import_deepinv

    return import_deepinv()


@pytest.fixture(scope="module")
def problem():
    from benchmarks.crosscheck import disc_problem

    return disc_problem()


def priors(truth):
    side = truth.shape[-1]
    k2 = torch.fft.fftfreq(side)[:, None] ** 2 + torch.fft.fftfreq(side)[None, :] ** 2
    flipped = torch.stack([truth[0], truth[0].flip(0), truth[0].flip(1)])
    return {
        "gaussian": GaussianPrior(0.05 / (1 + 400 * k2), mean=-0.3),
        "mixture": MixturePrior(flipped, 0.1, (0.5, 0.3, 0.2)),
    }


@pytest.mark.parametrize("name", ["gaussian", "mixture"])
def test_diffpir_gives_deepinvs_images(name, deepinv, problem):
    from benchmarks.crosscheck import Clipped, difference, diffpir_pair

    problem, truth = problem
    prior = Clipped(priors(truth)[name])
    assert difference(*diffpir_pair(deepinv, problem, prior, 8, 7.0, 0.3, 3.0)) < 2e-3


def test_diffpir_penalty_is_half_of_deepinvs(deepinv, problem, monkeypatch):
    """Taking deepinv's lambda as ours must be seen by the comparison."""
    import benchmarks.crosscheck as crosscheck

    problem, truth = problem
    prior = crosscheck.Clipped(priors(truth)["gaussian"])
    ours = crosscheck.our_levels
    doubled = lambda name, problem, prior, sigmas, start, values: ours(  # noqa: E731
        name, problem, prior, sigmas, start, values | {"penalty": 2 * values["penalty"]}
    )
    monkeypatch.setattr(crosscheck, "our_levels", doubled)
    assert crosscheck.difference(*crosscheck.diffpir_pair(deepinv, problem, prior, 8, 7.0, 0.3, 3.0)) > 1e-2


@pytest.mark.parametrize("name", ["gaussian", "mixture"])
def test_dps_gives_deepinvs_images(name, deepinv, problem):
    from benchmarks.crosscheck import difference, dps_pair, one_slice

    problem, truth = problem
    sigmas = [1.0, 0.5, 0.2, 0.08, 0.03]
    assert difference(*dps_pair(deepinv, one_slice(problem), priors(truth)[name], sigmas, 0.05)) < 1e-4
