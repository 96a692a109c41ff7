"""Couplings between slices: noise, and couplings around solvers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.gaussian import GaussianPrior
from operators.finite_difference import SliceDifference
from solvers.coupling import COUPLINGS, CoupledDraws, SliceCoupling, couple, find_coupling, slerp_draw
from solvers.dds import DdsSettings
from solvers.draws import Draws
from solvers.pam import PamSettings
from solvers.run import noise_levels, run_solver
from solvers.schedule import karras_levels
from solvers.settings import SettingsError
from tests.solvers.problems import make_problem, normal, stationary_prior

D = SliceDifference()
DTYPES = [torch.float32, torch.complex64]


class Recording(GaussianPrior):
    """A Gaussian prior that writes down what it was asked."""

    def denoise(self, x, sigma, spacing_mm=(1.0, 1.0, 1.0), noise_correlation=0.0):
        self.card.setdefault("calls", []).append((tuple(x.shape), sigma, spacing_mm, noise_correlation))
        return super().denoise(x, sigma, spacing_mm, noise_correlation)


def recording(std=0.5):
    prior = Recording(torch.tensor(std**2), card={})
    return prior, prior.card.setdefault("calls", [])


def problem_of(shape=(6, 5, 5), dtype=torch.float32):
    prior = stationary_prior(shape[1:], 0.5, 1.0, "mr" if dtype.is_complex else "ct")
    return make_problem(shape, 12, 0.05, prior, dtype)[0], prior


# --- noise ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("noise", "c"), [("ar1", 0.7), ("slerp", None)])
def test_every_slice_of_coupled_noise_is_standard_normal_with_the_stated_correlation(noise, c, dtype):
    c = float(np.cos(np.pi / 8)) if c is None else c
    draws = CoupledDraws(3, (), noise, c)
    volume = draws.normal((5, 200, 200), dtype, 0, "noise").flatten(1)
    components = 2 if dtype.is_complex else 1
    assert volume.abs().square().mean(1) / components == pytest.approx([1.0] * 5, abs=0.03)
    lag = (volume[1:].conj() * volume[:-1]).real.mean(1) / components
    assert lag == pytest.approx([c] * 4, abs=0.03)


def test_slerp_noise_runs_along_a_quarter_of_a_circle():
    """Rank two, ends at the anchors, equal angles between neighbours; independent ends."""
    white = normal((9, 40, 40), torch.float32, 1)
    noise = slerp_draw(white)
    assert torch.equal(noise[0], white[0])
    assert torch.allclose(noise[-1], white[-1], atol=1e-6)
    assert torch.linalg.matrix_rank(noise.flatten(1), rtol=1e-4) == 2
    assert torch.allclose(noise[4], (white[0] + white[-1]) / 2**0.5, atol=1e-6)
    assert torch.equal(slerp_draw(white[:1]), white[:1])


def test_only_noise_is_coupled_and_children_stay_coupled():
    draws, plain = CoupledDraws(3, (), "ar1", 0.8), Draws(3)
    shape = (4, 3, 3)
    assert torch.equal(draws.normal(shape, torch.float32, 2, "data"), plain.normal(shape, torch.float32, 2, "data"))
    assert torch.equal(draws.normal((7,), torch.float32, "noise"), plain.normal((7,), torch.float32, "noise"))
    child = draws.child(5).normal(shape, torch.float32, 2, "noise")
    assert torch.equal(child, CoupledDraws(3, (5,), "ar1", 0.8).normal(shape, torch.float32, 2, "noise"))
    assert not torch.equal(child, plain.child(5).normal(shape, torch.float32, 2, "noise"))


def test_volumes_of_a_stack_are_coupled_one_by_one():
    stack = CoupledDraws(3, (), "slerp", 0.0).normal((2, 5, 4, 4), torch.float32, 0, "noise")
    white = Draws(3).normal((2, 5, 4, 4), torch.float32, 0, "noise")
    for coupled, volume in zip(stack, white, strict=True):
        assert torch.allclose(coupled, slerp_draw(volume))


def test_coupled_ar1_is_the_solvers_own_correlated_noise():
    """dds with noise_length_mm and dds inside the coupling ar1 give the same bits."""
    problem, prior = problem_of()
    own = run_solver("dds", problem, prior, {"levels": 4, "noise_length_mm": 3.0}, seed=2)
    coupled = run_solver("dds", problem, prior, {"levels": 4}, seed=2, coupling=SliceCoupling("ar1", 3.0))
    assert torch.equal(own.estimate, coupled.estimate)


def test_coupled_noise_replaces_the_solvers_own():
    settings = SliceCoupling("slerp").settings_of(PamSettings())
    assert settings.noise_length_mm == 0
    assert SliceCoupling().settings_of(PamSettings()) == PamSettings()


def test_the_prior_is_told_the_correlation_as_far_as_priors_know_it():
    problem, _ = problem_of()
    for coupling, told in ((SliceCoupling("ar1", 4.0), np.exp(-0.5)), (SliceCoupling("slerp"), 0.95)):
        prior, calls = recording()
        run_solver("dds", problem, prior, {"levels": 2}, coupling=coupling)
        assert [call[3] for call in calls] == pytest.approx([told] * 2)


# --- around solvers ------------------------------------------------------------------------------------------------


class Interruption(Exception):
    pass


@pytest.mark.parametrize("name", [name for name in COUPLINGS if name != "perpendicular"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_resumed_coupled_run_gives_the_same_bits(name, dtype, tmp_path):
    problem, prior = problem_of(dtype=dtype)
    settings, coupling = {"levels": 5}, COUPLINGS[name]

    def stop(done, total):
        if done == 3:
            raise Interruption

    unbroken = run_solver("dds", problem, prior, settings, coupling=coupling)
    path = tmp_path / "state.safetensors"
    with pytest.raises(Interruption):
        run_solver("dds", problem, prior, settings, checkpoint=path, progress=stop, coupling=coupling)
    resumed = run_solver("dds", problem, prior, settings, checkpoint=path, coupling=coupling)
    assert torch.equal(resumed.estimate, unbroken.estimate)
    assert resumed.network_calls == 5


def test_the_checkpoint_of_another_coupling_is_not_taken_up(tmp_path):
    problem, prior = problem_of()
    path, seen = tmp_path / "state.safetensors", []

    def stop(done, total):
        if done == 2:
            raise Interruption

    with pytest.raises(Interruption):
        run_solver("dds", problem, prior, {"levels": 4}, checkpoint=path, progress=stop, coupling=COUPLINGS["tv"])
    run_solver("dds", problem, prior, {"levels": 4}, checkpoint=path, progress=lambda done, total: seen.append(done))
    assert seen[0] == 0


def test_none_is_no_coupling():
    problem, prior = problem_of()
    plain = run_solver("pam", problem, prior, {"levels": 3})
    coupled = run_solver("pam", problem, prior, {"levels": 3}, coupling=COUPLINGS["none"])
    assert torch.equal(plain.estimate, coupled.estimate)


@pytest.mark.parametrize("solver", ["dps", "mmps", "sitcom"])
@pytest.mark.parametrize("name", ["tv", "quadratic", "regrouped", "slerp"])
def test_solvers_that_differentiate_the_denoiser_run_inside_couplings(solver, name):
    problem, prior = problem_of()
    coupled = run_solver(solver, problem, prior, {"levels": 3}, coupling=COUPLINGS[name]).estimate
    plain = run_solver(solver, problem, prior, {"levels": 3}).estimate
    assert bool(torch.isfinite(coupled).all())
    # A prior that sees one slice at a time does not notice other neighbours.
    assert torch.equal(coupled, plain) == (name == "regrouped")


@pytest.mark.parametrize("name", ["ar1", "slerp", "tv", "quadratic"])
def test_couplings_take_away_slice_jitter(name):
    """PaM on truth that is constant along z: every coupling lowers the jumps between slices of one sample."""
    shape = (8, 8, 8)
    prior = stationary_prior(shape[1:], 0.5, 1.0)
    problem, _ = make_problem(shape, 20, 0.05, prior)
    one = problem.y[:1].expand(problem.y.shape).contiguous()
    problem = type(problem)(problem.A, one, problem.weights, problem.A.adjoint(one), 1.0, problem.spacing_mm)

    def jump(coupling):
        settings = {"levels": 8, "noise_length_mm": 0.0, "error_length_mm": 0.0}
        return float(D(run_solver("pam", problem, prior, settings, coupling=coupling).estimate).square().mean())

    assert jump(COUPLINGS[name]) < 0.8 * jump(None)


def test_noise_levels_are_those_of_the_solver():
    problem, _ = problem_of()
    assert noise_levels(problem, DdsSettings(levels=4)) == karras_levels(problem.sigma_init, 0.01, 4)
    assert len(noise_levels(problem, PamSettings(levels=6))) == 6


def test_names_and_settings_are_checked():
    with pytest.raises(SettingsError, match="choose one of none, ar1, slerp"):
        find_coupling("slurp")
    assert find_coupling("tv") is COUPLINGS["tv"]
    for settings, message in (
        ({"noise": "pink"}, "noise must be one of"),
        ({"denoiser": "magic"}, "denoiser must be one of"),
        ({"tv_weight": -1.0}, "weights"),
        ({"every": 1}, "every"),
        ({"denoiser": "perpendicular"}, "white noise"),
    ):
        with pytest.raises(SettingsError, match=message):
            SliceCoupling(**settings)
    problem, prior = problem_of()
    with pytest.raises(SettingsError, match="perpendicular"):
        run_solver("dds", problem, prior, {"levels": 2}, coupling=COUPLINGS["perpendicular"])
    with pytest.raises(ValueError, match="needs the noise levels"):
        couple(problem, prior, Draws(0), COUPLINGS["regrouped"])
