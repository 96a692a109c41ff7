"""Couplings between slices: noise, proximal steps, other planes and other neighbours, around any solver."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.denoised import Denoised
from models.gaussian import GaussianPrior
from operators.finite_difference import SliceDifference
from solvers.coupling import COUPLINGS, CoupledDraws, SliceCoupling, couple, find_coupling, slerp_draw
from solvers.dds import DdsSettings
from solvers.draws import Draws
from solvers.pam import PamSettings
from solvers.perpendicular import PerpendicularPrior, require_planes
from solvers.regrouped import RegroupedPrior, possible_strides
from solvers.run import noise_levels, run_solver
from solvers.schedule import karras_levels
from solvers.settings import SettingsError
from solvers.smoothed import QuadraticSmoothedPrior, TvSmoothedPrior, quadratic_prox, tv_prox
from solvers.wrapped_prior import levels_left
from tests.solvers.problems import make_problem, normal, stationary_prior

D = SliceDifference()
DTYPES = [torch.float32, torch.complex64]
SIGMAS = karras_levels(1.0, 0.01, 7)


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


# --- proximal steps ------------------------------------------------------------------------------------------------


def tv_objective(m, h, weight):
    return float(((m - h).abs() ** 2).double().sum() / 2 + weight * D(m).abs().double().sum())


def taut_string(h, weight):
    """Exact one-dimensional total-variation prox by dynamic programming over knots (Johnson 2013), in float64.

    The derivative of the value function is piecewise linear; it is kept as a list of (knot, slope, offset) pieces.
    """
    n, low, high = len(h), np.zeros(len(h) - 1), np.zeros(len(h) - 1)
    pieces = [(-np.inf, 1.0, -h[0])]
    for i in range(n - 1):
        low[i], high[i] = (_root(pieces, level) for level in (-weight, weight))
        inner = [(max(start, low[i]), a, b) for start, a, b, end in _spans(pieces) if end > low[i] and start < high[i]]
        clipped = [(-np.inf, 0.0, -weight), *inner, (high[i], 0.0, weight)]
        pieces = [(start, a + 1, b - h[i + 1]) for start, a, b in clipped]
    m = np.zeros(n)
    m[-1] = _root(pieces, 0.0)
    for i in range(n - 2, -1, -1):
        m[i] = min(max(m[i + 1], low[i]), high[i])
    return m


def _spans(pieces):
    ends = [piece[0] for piece in pieces[1:]] + [np.inf]
    return [(*piece, end) for piece, end in zip(pieces, ends, strict=True)]


def _root(pieces, level):
    for _, a, b, end in _spans(pieces):
        if a * end + b >= level if np.isfinite(end) else True:
            return (level - b) / a
    raise AssertionError


@pytest.mark.parametrize("weight", [0.05, 0.5, 3.0])
def test_tv_prox_is_the_exact_one(weight):
    h = normal((24, 2, 3), torch.float32, 4)
    m = tv_prox(h, weight, accuracy=1e-4)
    columns = h.flatten(1).double().numpy().T
    exact = np.stack([taut_string(column, weight) for column in columns]).T
    assert np.sqrt(np.mean((m.flatten(1).numpy() - exact) ** 2)) < 2e-4 * weight + 1e-6


def test_tv_prox_of_a_step_moves_its_sides_and_of_two_complex_slices_their_difference():
    """A step of height t over n + n slices becomes one of t - 2 weight / n; a pair moves along its difference."""
    h = torch.zeros(8, 1, 1)
    h[4:] = 1.0
    assert torch.allclose(tv_prox(h, 0.4, 1e-5).flatten(), torch.tensor([0.1] * 4 + [0.9] * 4), atol=1e-5)
    pair = torch.tensor([0.0, 3.0 + 4.0j]).reshape(2, 1, 1)
    moved = tv_prox(pair, 0.5, 1e-5)
    assert torch.allclose(moved.flatten(), torch.tensor([0.3 + 0.4j, 2.7 + 3.6j]), atol=1e-5)
    assert torch.allclose(tv_prox(pair, 9.0, 1e-5), pair.mean(0, keepdim=True).expand(2, 1, 1), atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tv_prox_comes_as_near_as_it_promises(dtype):
    h = normal((40, 4, 4), dtype, 5)
    fine, coarse = tv_prox(h, 0.7, 1e-4, 5000), tv_prox(h, 0.7, 0.05)
    assert float((fine - coarse).abs().square().mean().sqrt()) <= 0.05 * 0.7
    assert tv_objective(fine, h, 0.7) <= tv_objective(coarse, h, 0.7) + 1e-4


def test_tv_prox_keeps_means_constants_and_single_slices():
    h = normal((9, 4, 4), torch.float32, 6)
    assert torch.allclose(tv_prox(h, 0.3).mean(0), h.mean(0), atol=1e-6)
    flat = h[:1].expand(9, 4, 4)
    assert torch.allclose(tv_prox(flat, 0.3), flat, atol=1e-6)
    assert torch.equal(tv_prox(h[:1], 0.3), h[:1])
    assert torch.equal(tv_prox(h, 0.0), h)


def test_tv_prox_has_the_jacobian_of_its_pieces():
    h, v, direction = (normal((10, 2, 2), torch.float64, seed) for seed in (7, 8, 9))
    h.requires_grad_()
    with torch.enable_grad():
        gradient = torch.autograd.grad(tv_prox(h, 0.4, 1e-6, 20000), h, v)[0]
    step = 1e-4
    ends = [tv_prox(h.detach() + sign * step * direction, 0.4, 1e-7, 50000) for sign in (1, -1)]
    slope = float((v * (ends[0] - ends[1])).sum()) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(slope, abs=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_quadratic_prox_solves_its_system(dtype):
    h = normal((7, 3, 3), dtype, 10)
    m = quadratic_prox(h, 2.5)
    assert torch.allclose(m + 2.5 * D.adjoint(D(m)), h, atol=1e-5)
    assert torch.equal(quadratic_prox(h, 0.0), h)


@pytest.mark.parametrize("wrapper", [TvSmoothedPrior, QuadraticSmoothedPrior])
def test_smoothed_means_fade_with_the_predicted_variance(wrapper):
    """The prox weight is V times the setting: at a small sigma the mean is the plain one, the variance always."""
    prior = GaussianPrior.independent(0.5)
    x = normal((6, 4, 4), torch.float32, 11)
    for sigma in (1.0, 1e-3):
        plain, smoothed = prior.denoise(x, sigma), wrapper(prior, 2.0).denoise(x, sigma, (1.0, 1.0, 1.0))
        v = float(plain.variance.mean())
        prox = tv_prox if wrapper is TvSmoothedPrior else quadratic_prox
        assert torch.equal(smoothed.mean, prox(plain.mean, 2.0 * v))
        assert torch.equal(smoothed.variance, plain.variance)
        moved = float((smoothed.mean - plain.mean).abs().max())
        assert moved > 0.05 if sigma == 1.0 else moved < 1e-4


def test_quadratic_coupling_of_a_gaussian_prior_is_the_posterior_mean_of_a_tied_volume():
    """Denoised and smoothed = argmax of N(x; m, sigma^2) N(m; 0, s^2) exp(-weight |Dz m|^2 / 2), white slices."""
    s, sigma, weight = 0.5, 0.3, 4.0
    x = normal((6, 2, 2), torch.float32, 12)
    m = QuadraticSmoothedPrior(GaussianPrior.independent(s), weight).denoise(x, sigma, (1.0, 1.0, 1.0)).mean
    assert torch.allclose(m / s**2 + (m - x) / sigma**2 + weight * D.adjoint(D(m)), torch.zeros_like(m), atol=1e-4)


# --- other planes, other neighbours --------------------------------------------------------------------------------


def test_levels_left_is_the_place_in_the_schedule():
    assert [levels_left(sigma, SIGMAS) for sigma in SIGMAS] == [6, 5, 4, 3, 2, 1, 0]
    assert levels_left(50.0, SIGMAS) == 6
    assert levels_left(SIGMAS[3] * 1.02, SIGMAS) == 3


def test_perpendicular_planes_take_turns_and_end_axial():
    inner, calls = recording()
    prior = PerpendicularPrior(inner, 2, SIGMAS)
    for sigma in SIGMAS:
        prior.denoise(torch.zeros(3, 4, 5), sigma, (1.1, 0.9, 1.0))
    axial, coronal = ((3, 4, 5), (1.1, 0.9, 1.0)), ((4, 3, 5), (0.9, 1.1, 1.0))
    assert [(call[0], call[2]) for call in calls] == [axial, coronal, axial, coronal, axial, coronal, axial]


def test_perpendicular_denoising_is_the_inner_one_of_the_turned_volume():
    inner = stationary_prior((6, 7), 0.5, 1.5)
    prior = PerpendicularPrior(inner, 2, SIGMAS)
    x = normal((6, 5, 7), torch.float32, 13)
    expected = inner.denoise(x.transpose(0, 1), SIGMAS[1]).mean.transpose(0, 1)
    assert torch.equal(prior.denoise(x, SIGMAS[1], (1.0, 1.0, 1.0)).mean, expected)
    assert prior.denoise(x, SIGMAS[1], (1.0, 1.0, 1.0)).variance.shape == x.shape


def test_perpendicular_prior_smooths_along_z_where_the_slice_prior_alone_cannot():
    """Volumes smooth along z: alternating with coronal planes halves the error of slice-wise denoising, same levels."""
    shape, sigmas = (24, 24, 24), karras_levels(1.0, 0.05, 9)
    inner = stationary_prior((24, 24), 0.5, 3.0)
    truth = torch.fft.ifft2(
        torch.fft.fft2(inner.draw(normal(shape, torch.float32, 14)).transpose(0, 1))
        * torch.exp(-4.5 * (torch.fft.fftfreq(24) * 2 * torch.pi)[:, None] ** 2)
    ).real.transpose(0, 1)
    noisy = truth + normal(shape, torch.float32, 15)

    def flow(prior):
        x = noisy
        for sigma, following in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
            h = prior.denoise(x, sigma, (1.0, 1.0, 1.0)).mean
            x = h + following / sigma * (x - h)
        return float((x - truth).square().mean())

    assert flow(PerpendicularPrior(inner, 2, sigmas)) < 0.5 * flow(inner)


@pytest.mark.parametrize(
    ("shape", "spacing", "message"),
    [((40, 64, 64), (5.0, 1.0, 1.0), "stretched"), ((8, 64, 64), (1.0, 1.0, 1.0), "8 slices are too few")],
)
def test_perpendicular_refuses_volumes_without_coronal_images(shape, spacing, message):
    with pytest.raises(SettingsError, match=message):
        require_planes(shape, spacing)
    require_planes((16, 64, 64), (1.4, 1.0, 1.0))


def test_regrouped_slices_have_other_neighbours_and_distances():
    inner, calls = recording()
    prior = RegroupedPrior(inner, (1, 2, 3), SIGMAS)
    for sigma in SIGMAS[-3:]:
        prior.denoise(torch.zeros(8, 2, 2), sigma, (1.5, 1.0, 1.0), noise_correlation=0.5)
    sizes = [(call[0][0], call[2][0], call[3]) for call in calls]
    assert sizes == [*[(n, 4.5, 0.125) for n in (3, 3, 2)], *[(4, 3.0, 0.25)] * 2, (8, 1.5, 0.5)]


class Neighbours:
    """mean_i = x_{i-1} + 10 x_{i+1} with ends repeated: shows who the neighbours were."""

    card, sigma_data, modality = {}, 0.5, "ct"

    def denoise(self, x, sigma, spacing_mm, noise_correlation=0.0):
        padded = torch.cat([x[:1], x, x[-1:]])
        return Denoised(padded[:-2] + 10 * padded[2:], torch.ones_like(x))


def test_regrouped_means_come_back_in_their_places():
    x = torch.arange(7.0).reshape(7, 1, 1)
    prior = RegroupedPrior(Neighbours(), (1, 2), SIGMAS)
    mean = prior.denoise(x, SIGMAS[-2], (1.0, 1.0, 1.0)).mean.flatten().tolist()
    below, above = [0, 1, 0, 1, 2, 3, 4], [2, 3, 4, 5, 6, 5, 6]
    assert mean == [b + 10 * a for b, a in zip(below, above, strict=True)]


def test_possible_strides_follow_slices_and_distance():
    assert possible_strides(64, 1.0, 6.0) == (1, 2, 3)
    assert possible_strides(64, 2.5, 6.0) == (1, 2)
    assert possible_strides(8, 1.0, 6.0) == (1, 2)
    for slices, slice_mm in ((64, 4.0), (5, 1.0)):
        with pytest.raises(SettingsError, match="leave no second stride"):
            possible_strides(slices, slice_mm, 6.0)


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
