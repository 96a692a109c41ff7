"""Conjugate gradients, AR(1) noise, draws, schedules, checkpoints, settings and the problem itself."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from solvers.conjugate_gradient import conjugate_gradient
from solvers.draws import Draws
from solvers.problem import Problem
from solvers.schedule import geometric_levels, karras_levels
from solvers.settings import SettingsError, settings_from_dict
from solvers.slice_coupling import (
    ar1_draw,
    ar1_draw_adjoint,
    ar1_precision,
    ar1_solve,
    ar1_solve_adjoint,
    coupling_coefficient,
    soft_threshold,
)
from solvers.state import State
from tests.solvers.problems import make_problem, normal, stationary_prior

REAL, COMPLEX = torch.float32, torch.complex64


def positive_matrix(n: int, dtype: torch.dtype) -> torch.Tensor:
    a = normal((n, n), dtype, 3) / n**0.5
    return a @ a.mH + 0.3 * torch.eye(n, dtype=dtype)


@pytest.mark.parametrize("dtype", [REAL, COMPLEX])
@pytest.mark.parametrize("preconditioned", [False, True])
def test_cg_matches_a_dense_solve(dtype, preconditioned):
    matrix = positive_matrix(24, dtype)
    b = normal((24,), dtype, 4)
    diagonal = matrix.diagonal().real
    precondition = (lambda r: r / diagonal) if preconditioned else None
    x = conjugate_gradient(lambda v: matrix @ v, b, torch.zeros_like(b), 60, 1e-7, precondition)
    exact = torch.linalg.solve(matrix, b)
    assert torch.linalg.vector_norm(x - exact) <= 1e-5 * torch.linalg.vector_norm(exact)


def test_cg_leaves_its_inputs_alone_and_stops_at_the_tolerance():
    matrix = positive_matrix(24, REAL)
    b, x0 = normal((24,), REAL, 4), normal((24,), REAL, 5)
    b_before, x_before = b.clone(), x0.clone()
    calls = []

    def matvec(v):
        calls.append(1)
        return matrix @ v

    x = conjugate_gradient(matvec, b, x0, 100, 0.1)
    assert torch.equal(b, b_before)
    assert torch.equal(x0, x_before)
    assert torch.linalg.vector_norm(b - matrix @ x) <= 0.11 * torch.linalg.vector_norm(b)
    assert len(calls) < 20


def test_cg_at_the_solution_returns_it():
    b = torch.zeros(5)
    x = conjugate_gradient(lambda v: 2 * v, b, torch.zeros(5), 10, 0.0)
    assert torch.equal(x, torch.zeros(5))


def test_cg_preconditioned_by_the_inverse_needs_one_step():
    matrix = positive_matrix(24, COMPLEX)
    inverse = torch.linalg.inv(matrix)
    b = normal((24,), COMPLEX, 4)
    x = conjugate_gradient(lambda v: matrix @ v, b, torch.zeros_like(b), 1, 0.0, lambda r: inverse @ r)
    assert torch.allclose(x, torch.linalg.solve(matrix, b), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("c", [0.0, 0.3, 0.8, 0.95])
def test_ar1_factor_precision_and_adjoints_are_consistent(c):
    eye = torch.eye(7, dtype=torch.float64)
    factor = ar1_draw(eye, c)
    lags = (torch.arange(7)[:, None] - torch.arange(7)[None, :]).abs()
    covariance = factor @ factor.T
    assert torch.allclose(covariance, torch.tensor(c, dtype=torch.float64) ** lags, atol=1e-12)
    assert torch.allclose(ar1_precision(covariance, c), eye, atol=1e-12)
    assert torch.allclose(ar1_solve(factor, c), eye, atol=1e-12)
    assert torch.allclose(ar1_draw_adjoint(eye, c), factor.T, atol=1e-12)
    assert torch.allclose(ar1_solve_adjoint(eye, c), torch.linalg.inv(factor).T, atol=1e-12)


def test_ar1_noise_has_unit_variance_per_slice_and_the_right_lag_correlation():
    c = 0.8
    noise = ar1_draw(Draws(1).normal((6, 400, 400), REAL, "ar1"), c)
    assert torch.allclose(noise.flatten(1).var(1), torch.ones(6), atol=0.01)
    assert torch.allclose((noise[1:] * noise[:-1]).mean((1, 2)), torch.full((5,), c), atol=0.01)


def test_ar1_of_a_single_slice_is_white():
    white = normal((1, 4, 4), COMPLEX, 0)
    assert torch.equal(ar1_draw(white, 0.5), white)
    assert torch.equal(ar1_precision(white, 0.5), white)


def test_coupling_coefficient():
    assert coupling_coefficient(2.0, 0.0) == 0.0
    assert coupling_coefficient(2.0, 4.0) == pytest.approx(0.60653066)
    with pytest.raises(ValueError, match="spacing"):
        coupling_coefficient(0.0, 4.0)
    with pytest.raises(ValueError, match="coefficient"):
        ar1_draw(torch.ones(3), 1.0)


def test_soft_threshold_is_the_proximal_map_of_the_modulus():
    v = normal((500,), COMPLEX, 7)
    d = soft_threshold(v, 0.6)
    small = v.abs() <= 0.6
    assert bool((d[small] == 0).all())
    # Off zero the gradient d - v + t d/|d| vanishes.
    away = ~small
    assert torch.allclose(d[away] - v[away] + 0.6 * d[away] / d[away].abs(), torch.zeros(()).to(COMPLEX), atol=1e-5)
    assert torch.allclose(
        soft_threshold(torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0]), 1.0), torch.tensor([-1.0, 0, 0, 0, 1])
    )


def test_draws_depend_on_seed_and_tags_alone():
    draws = Draws(5)
    first = draws.normal((3, 4), REAL, 1, "noise")
    draws.normal((100,), REAL, 2, "noise")
    assert torch.equal(Draws(5).normal((3, 4), REAL, 1, "noise"), first)
    assert torch.equal(Draws(5).child(1).normal((3, 4), REAL, "noise"), first)
    others = [
        Draws(6).normal((3, 4), REAL, 1, "noise"),
        draws.normal((3, 4), REAL, 2, "noise"),
        draws.normal((3, 4), REAL, "1", "noise"),
        draws.normal((3, 4), REAL, 1, "noise", 0),
        draws.normal((3, 4), REAL, "1noise"),
    ]
    assert not any(torch.equal(first, other) for other in others)


def test_draws_leave_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    Draws(1).normal((8,), REAL, "x")
    assert torch.equal(torch.rand(3), expected)


def test_draws_are_standard_normal_and_independent_between_tags():
    a, b = (Draws(0).normal((200_000,), COMPLEX, tag) for tag in ("a", "b"))
    for part in (a.real, a.imag, b.real, b.imag):
        assert abs(float(part.mean())) < 0.01
        assert abs(float(part.var()) - 1) < 0.02
    for left, right in ((a.real, a.imag), (a.real, b.real), (a.imag, b.imag)):
        assert abs(float((left * right).mean())) < 0.01


def test_karras_levels_follow_the_formula():
    levels = karras_levels(3.0, 0.02, 9)
    assert levels[0] == 3.0
    assert levels[-1] == 0.02
    roots = torch.tensor(levels, dtype=torch.float64) ** (1 / 7)
    assert torch.allclose(roots.diff(), roots.diff()[:1].expand(8), rtol=1e-9)
    assert karras_levels(2.0, 0.1, 1) == [2.0]
    with pytest.raises(ValueError, match="sigma"):
        karras_levels(0.1, 0.2, 5)


def test_geometric_levels_have_a_constant_ratio():
    levels = torch.tensor(geometric_levels(10.0, 0.01, 7), dtype=torch.float64)
    assert torch.allclose(levels[1:] / levels[:-1], torch.tensor(0.1**0.5, dtype=torch.float64), rtol=1e-9)


def test_state_survives_a_file(tmp_path):
    x = normal((2, 3, 4), COMPLEX, 1)
    state = State(3, x, x, {"u": normal((1, 3, 4), REAL, 2)}, 6)
    state.save(tmp_path / "state.safetensors", "key")
    loaded = State.load(tmp_path / "state.safetensors", "key")
    assert (loaded.level, loaded.network_calls) == (3, 6)
    assert torch.equal(loaded.x, x)
    assert torch.equal(loaded.estimate, x)
    assert torch.equal(loaded.extra["u"], state.extra["u"])
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]


def test_state_refuses_other_runs_and_damaged_files(tmp_path):
    path = tmp_path / "state.safetensors"
    x = torch.zeros(1, 2, 2)
    State(1, x, x).save(path, "key")
    with pytest.raises(ValueError, match="other settings"):
        State.load(path, "another key")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        State.load(path, "key")


@dataclass(frozen=True)
class ExampleSettings:
    weight: float = 1.0
    levels: int = 3
    name: str | None = "a"
    fast: bool = False


def test_settings_are_converted_and_checked():
    made = settings_from_dict(ExampleSettings, {"weight": "1e5", "levels": 4.0, "name": None, "fast": True})
    assert made == ExampleSettings(1e5, 4, None, True)
    assert isinstance(made.levels, int)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weigth": 1}, "did you mean 'weight'"),
        ({"zzz": 1}, "known are: weight, levels"),
        ({"levels": 2.5}, "expected int"),
        ({"levels": None}, "expected int"),
        ({"fast": 1}, "expected bool"),
        ({"weight": True}, "expected float"),
        ({"weight": float("nan")}, "expected float"),
        ({"name": 3}, "expected str or null"),
    ],
)
def test_wrong_settings_are_named(values, message):
    with pytest.raises(SettingsError, match=message):
        settings_from_dict(ExampleSettings, values, "example")


@pytest.mark.parametrize("dtype", [REAL, COMPLEX])
def test_chi2_of_the_truth_is_one(dtype):
    prior = stationary_prior((8, 8), 0.5, 1.0)
    problem, truth = make_problem((60, 8, 8), 30, 0.05, prior, dtype)
    count = 60 * 30 * (2 if dtype.is_complex else 1)
    assert abs(problem.chi2(truth) - 1) < 4 * (2 / count) ** 0.5
    assert problem.noise_variance() == pytest.approx(0.05**2, rel=1e-5)


def test_chi2_counts_measured_samples_only():
    prior = stationary_prior((4, 4), 0.5, 1.0)
    problem, truth = make_problem((5, 4, 4), 8, 0.1, prior)
    mask = (torch.arange(8) < 4).float()
    y = (problem.A(truth) + 0.2) * mask
    masked = Problem(problem.A, y, mask[None] / 0.1**2, problem.x_init, 1.0, problem.spacing_mm)
    assert masked.chi2(truth) == pytest.approx(4.0, rel=1e-3)


def test_problem_refuses_parts_that_do_not_fit():
    prior = stationary_prior((4, 4), 0.5, 1.0)
    problem, _ = make_problem((5, 4, 4), 8, 0.1, prior)
    parts = (problem.A, problem.y, problem.weights, problem.x_init, 1.0, problem.spacing_mm)
    with pytest.raises(ValueError, match="shape"):
        Problem(*parts, shape=(5, 4, 3))
    with pytest.raises(ValueError, match="float32"):
        Problem(*parts, dtype=COMPLEX)
    with pytest.raises(ValueError, match="weights"):
        Problem(problem.A, problem.y, -problem.weights, *parts[3:])


def test_gaussian_prior_is_the_exact_posterior():
    prior = stationary_prior((4, 6), 0.7, 1.0)
    x = normal((2, 4, 6), REAL, 9)
    columns = prior.draw(torch.eye(24).reshape(24, 4, 6)).reshape(24, 24)
    covariance = columns.T @ columns
    gain = covariance @ torch.linalg.inv(covariance + 0.3**2 * torch.eye(24))
    mean, variance = prior.denoise(x, 0.3)
    assert torch.allclose(mean.reshape(2, 24), x.reshape(2, 24) @ gain.T, atol=1e-5)
    posterior = covariance - gain @ covariance
    assert torch.allclose(variance.reshape(2, 24), posterior.diagonal().expand(2, 24), atol=1e-5)
    assert prior.sigma_data == pytest.approx(0.7, rel=1e-4)
