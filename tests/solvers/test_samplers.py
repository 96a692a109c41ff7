"""DDS, DiffusionMBIR and DreamSampler: one level in closed form, the slice term, registry."""

from __future__ import annotations

import pytest
import torch

from operators.finite_difference import SliceDifference
from solvers.dds import DdsSettings, dds
from solvers.diffusion_mbir import DiffusionMbirSettings, diffusion_mbir, kaczmarz_step
from solvers.draws import Draws
from solvers.dreamsampler import DreamSamplerSettings, dreamsampler
from solvers.registry import SOLVERS, find_solver, solver_settings
from solvers.settings import SettingsError
from solvers.split_tv import SplitTv, data_step
from tests.solvers.problems import dense_slice, make_problem, normal, stationary_prior

SHAPE = (4, 4, 5)
PRIOR = stationary_prior(SHAPE[1:], 0.5, 1.0)
MR_PRIOR = stationary_prior(SHAPE[1:], 0.5, 1.0, "mr")
D = SliceDifference()


def first_state(solver, settings, problem, prior):
    return next(iter(solver(problem, prior, settings, Draws(3))))


def start_and_denoised(problem, prior, sigma):
    x = problem.x_init + sigma * Draws(3).normal(problem.shape, problem.dtype, 0, "noise")
    return x, prior.denoise(x, sigma).mean


@pytest.mark.parametrize(("dtype", "prior"), [(torch.float32, PRIOR), (torch.complex64, MR_PRIOR)])
def test_dds_level_is_the_closed_form(dtype, prior):
    """x^ = (I + gamma s^2 A^H W A)^-1 (h + gamma s^2 A^H W y) and x' = x^ + sigma' (eta z + sqrt(1 - eta^2) eps)."""
    problem, _ = make_problem(SHAPE, 9, 0.1, prior, dtype)
    settings = DdsSettings(levels=3, gamma=20.0, eta=0.6, cg_iterations=40, sigma_min=0.2)
    state = first_state(dds, settings, problem, prior)
    x, h = start_and_denoised(problem, prior, 1.0)
    gamma = 20.0 * 0.1**2
    system = torch.eye(20) + gamma * dense_slice(problem)
    right = (h + gamma * problem.A.adjoint(problem.weights * problem.y)).reshape(4, 20)
    exact = torch.linalg.solve(system, right.T).T.reshape(SHAPE)
    assert torch.allclose(state.estimate, exact, atol=1e-4)
    sigma = ((1 + 0.2 ** (1 / 7)) / 2) ** 7
    noise = 0.6 * Draws(3).normal(SHAPE, dtype, 1, "noise") + 0.8 * (x - h) / 1.0
    assert torch.allclose(state.x, exact + sigma * noise, atol=1e-4)
    assert state.network_calls == 1


def test_noise_free_dds_is_cg_on_the_normal_equations_from_h():
    problem, _ = make_problem(SHAPE, 9, 0.1, PRIOR)
    _, h = start_and_denoised(problem, PRIOR, 1.0)
    gram = dense_slice(problem) * 0.01

    def steepest(x):
        r = (problem.A.adjoint(problem.y) - problem.A.gram(x)).reshape(4, 20)
        step = (r * r).sum() / (r * (r @ gram.T)).sum()
        return x + step * r.reshape(SHAPE)

    x, _ = data_step(problem, h, None, 1)
    assert torch.allclose(x, steepest(h), atol=1e-3)


def test_slice_term_enters_the_quadratic_and_the_multipliers_follow():
    problem, _ = make_problem(SHAPE, 9, 0.1, PRIOR)
    tv = SplitTv(rho=0.5, threshold=0.1)
    h = normal(SHAPE, torch.float32, 5)
    split = {"d": normal((3, 4, 5), torch.float32, 6), "u": normal((3, 4, 5), torch.float32, 7)}
    x, new = data_step(problem, h, 30.0, 120, tv, split)
    rho = 0.5 / 0.1**2
    gradient = (
        (x - h) / (30.0 * 0.1**2)
        + problem.A.adjoint(problem.weights * (problem.A(x) - problem.y))
        + rho * D.adjoint(D(x) - split["d"] + split["u"])
    )
    assert float(gradient.abs().max()) < 1e-3 * float((h / (30.0 * 0.1**2)).abs().max())
    v = D(x) + split["u"]
    assert torch.allclose(new["d"], v.sign() * (v.abs() - 0.1).clamp_min(0), atol=1e-6)
    assert torch.allclose(new["u"], v - new["d"], atol=1e-6)


def dual_reference(problem, h, variance, strength, steps=6000):
    """argmin |x-h|^2/(2 v) + |y-Ax|^2_W/2 + t |Dz x|_1 by projected gradient on its dual, float64."""
    n = SHAPE[1] * SHAPE[2]
    precision = torch.eye(n, dtype=torch.float64) / variance + dense_slice(problem).double()
    inverse = torch.linalg.inv(precision)
    right = (h / variance + problem.A.adjoint(problem.weights * problem.y)).reshape(SHAPE[0], n).double()
    p = torch.zeros(SHAPE[0] - 1, n, dtype=torch.float64)
    step = 1 / (4 * float(torch.linalg.matrix_norm(inverse, 2)))
    for _ in range(steps):
        x = (right - D.adjoint(p)) @ inverse
        p = (p + step * D(x)).clamp(-strength, strength)
    return ((right - D.adjoint(p)) @ inverse).reshape(SHAPE)


def objective(problem, h, variance, strength, x):
    residual = problem.weights * (problem.y - problem.A(x)).square()
    return float((x - h).square().sum() / (2 * variance) + residual.sum() / 2 + strength * D(x).abs().sum())


def test_repeated_sweeps_reach_the_minimum_of_the_slice_tv_objective():
    problem, _ = make_problem(SHAPE, 9, 0.1, PRIOR)
    h = normal(SHAPE, torch.float32, 5) * 0.4
    tv = SplitTv(rho=0.1, threshold=0.2)
    variance, strength = 10.0 * 0.1**2, 0.1 / 0.1**2 * 0.2
    split, values = tv.start(h), []
    for _ in range(200):
        x, split = data_step(problem, h, 10.0, 40, tv, split)
        values.append(objective(problem, h, variance, strength, x))
    exact = dual_reference(problem, h, variance, strength)
    best = objective(problem, h, variance, strength, exact.float())
    assert values[-1] == pytest.approx(best, rel=1e-4)
    assert torch.allclose(x, exact.float(), atol=2e-3)
    assert values[0] > values[20] > best * (1 - 1e-6)
    assert float((D(exact).abs() < 1e-9).double().mean()) > 0.1


def test_dreamsampler_blends_by_the_signal_share():
    problem, _ = make_problem(SHAPE, 9, 0.1, PRIOR)
    settings = DreamSamplerSettings(levels=2, tv=False, data_weight=50.0, cg_iterations=40)
    state = first_state(dreamsampler, settings, problem, PRIOR)
    x, h = start_and_denoised(problem, PRIOR, 1.0)
    corrected, _ = data_step(problem, h, 50.0, 40)
    share = 1 / (1 + (1.0 / PRIOR.sigma_data) ** 2)
    assert torch.allclose(state.estimate, share * corrected + (1 - share) * h, atol=1e-5)
    noise = (1 - share) ** 0.5 * (x - h) + share**0.5 * Draws(3).normal(SHAPE, torch.float32, 1, "noise")
    assert torch.allclose(state.x, state.estimate + 0.01 * noise, atol=1e-5)


def test_diffusion_mbir_takes_the_ancestral_step():
    problem, _ = make_problem(SHAPE, 9, 0.1, PRIOR)
    settings = DiffusionMbirSettings(levels=2, sigma_min=0.5, eta=1.0)
    state = first_state(diffusion_mbir, settings, problem, PRIOR)
    x, h = start_and_denoised(problem, PRIOR, 1.0)
    fresh = 0.5 * (1 - 0.25) ** 0.5
    kept = (0.25 - fresh**2) ** 0.5
    expected = state.estimate + kept * (x - h) + fresh * Draws(3).normal(SHAPE, torch.float32, 1, "noise")
    assert torch.allclose(state.x, expected, atol=1e-5)
    assert set(state.extra) == {"d", "u"}


def test_ancestral_sampling_without_data_returns_the_prior():
    """The re-noise rule with eta = 1 keeps the marginals of the diffusion: it ends at the prior's variance."""
    prior = stationary_prior((8, 8), 0.5, 1.0)
    problem, _ = make_problem((300, 8, 8), 2, 1e4, prior)
    problem = problem.__class__(
        problem.A, problem.y, problem.weights, torch.zeros_like(problem.x_init), 30.0, problem.spacing_mm
    )
    settings = DiffusionMbirSettings(levels=500, gamma=1e-8, rho=1e-9, threshold=0.0, sigma_min=0.005)
    *_, state = diffusion_mbir(problem, prior, settings, Draws(0))
    assert float(state.estimate.var()) == pytest.approx(0.25, rel=0.03)


def test_paper_form_calls_the_network_twice_a_level_and_fits_the_data():
    prior = stationary_prior((6, 6), 0.5, 1.0)
    problem, truth = make_problem((5, 6, 6), 36, 0.01, prior)
    settings = solver_settings("diffusion_mbir", {"levels": 150}, "paper")
    states = list(diffusion_mbir(problem, prior, settings, Draws(0)))
    assert len(states) == 150
    assert states[-1].network_calls == 299
    error = (states[-1].estimate - truth).square().mean().sqrt()
    assert float(error) < 0.5 * float(truth.square().mean().sqrt())


def test_paper_preset_has_the_papers_length():
    settings = solver_settings("diffusion_mbir", None, "paper")
    assert (settings.levels, settings.form, settings.cg_iterations) == (2000, "noisy", 1)
    assert settings.gamma is None
    assert settings.pure_noise


def test_kaczmarz_step_averages_the_residual_over_its_rays():
    problem, truth = make_problem((2, 4, 4), 8, 0.1, stationary_prior((4, 4), 0.5, 1.0))
    matrix = problem.A.matrix.abs_()
    x = torch.zeros_like(truth)
    stepped = kaczmarz_step(problem, x)
    weights = matrix.T @ matrix @ torch.ones(16)
    expected = (problem.y @ matrix) / weights
    assert torch.allclose(stepped.reshape(2, 16), expected, atol=1e-4)


def test_pure_noise_start_ignores_the_initial_reconstruction():
    problem, _ = make_problem(SHAPE, 9, 0.1, PRIOR)
    other = problem.__class__(problem.A, problem.y, problem.weights, problem.x_init + 1, 1.0, problem.spacing_mm)
    settings = DdsSettings(levels=2, pure_noise=True, gamma=1.0)
    first, second = (first_state(dds, settings, p, PRIOR) for p in (problem, other))
    assert torch.equal(first.estimate, second.estimate)


def test_correlated_noise_is_told_to_the_prior():
    problem, _ = make_problem(SHAPE, 9, 0.1, PRIOR)
    told = []

    class Listening:
        sigma_data = 0.5

        def denoise(self, x, sigma, spacing_mm, noise_correlation=0.0):
            told.append(noise_correlation)
            return PRIOR.denoise(x, sigma)

    for solver, settings in ((dds, DdsSettings), (dreamsampler, DreamSamplerSettings)):
        list(solver(problem, Listening(), settings(levels=2, noise_length_mm=4.0), Draws(0)))
    list(diffusion_mbir(problem, Listening(), DiffusionMbirSettings(levels=2, noise_length_mm=4.0), Draws(0)))
    assert told == pytest.approx([0.60653066] * 6)


@pytest.mark.parametrize("name", sorted(SOLVERS))
def test_presets_are_valid_settings(name):
    for preset in (None, *SOLVERS[name].presets):
        assert solver_settings(name, {"levels": 3}, preset).levels == 3


def test_registry_names_what_is_wrong():
    with pytest.raises(SettingsError, match="choose one of pam"):
        find_solver("ddss")
    with pytest.raises(SettingsError, match="did you mean 'gamma'"):
        solver_settings("dds", {"gama": 1})
    with pytest.raises(SettingsError, match="unknown preset 'fast'"):
        solver_settings("dds", {}, "fast")
    with pytest.raises(SettingsError, match=r"eta must lie in \[0, 1\]"):
        solver_settings("dds", {"eta": 2})
