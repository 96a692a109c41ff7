"""Network, preconditioning, training and the released prior folder."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.denoised import LARGEST_CORRELATION
from models.network import SliceNetwork
from models.preconditioning import denoise_middle, scalings, training_loss
from models.prior import CARD, WEIGHTS, PriorError, load_prior
from models.release import Provenance, release
from models.training import TrainingSettings, draw_batch, load_state, new_state, save_state, train, train_step
from models.volumes import CropSettings, TrainingVolume, neighbours, random_crop

TINY = TrainingSettings("ct", 0.5, widths=(8, 16), batch=4, crop=CropSettings(size=32), minutes=10)
TINY = replace(TINY, learning_rate=3e-3, warmup_steps=5, ema=0.9)


def phantom(count: int = 6, side: int = 40, seed: int = 0) -> TrainingVolume:
    """Discs of random radius: smooth slices with edges, in CT units."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - side / 2
    radii = rng.uniform(5, 15, count)
    slices = np.stack([np.where(x**2 + y**2 < r**2, 0.1, -1.0) for r in radii])
    return TrainingVolume("discs", slices.astype(np.float16), (2.0, 1.5, 1.5))


def unit(noise: torch.Tensor) -> torch.Tensor:
    """Every item of root mean square 1."""
    return noise / noise.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()


def test_scalings_have_unit_input_and_target_variance():
    sigma = torch.tensor([0.02, 0.5, 3.0])
    s = scalings(sigma, 0.5)
    noisy_variance = 0.25 + sigma**2
    assert torch.allclose(s.input.flatten() ** 2 * noisy_variance, torch.ones(3))
    # target (x - c_skip x_sigma) / c_out has variance ((1-c_skip)^2 s_d^2 + c_skip^2 s^2) / c_out^2 = 1
    skip, out = s.skip.flatten(), s.out.flatten()
    assert torch.allclose(((1 - skip) ** 2 * 0.25 + skip**2 * sigma**2) / out**2, torch.ones(3))


@pytest.mark.parametrize("shape", [(33, 40), (16, 17)])
def test_network_keeps_any_slice_shape(shape):
    network = SliceNetwork(2, (8, 16), 1, 2)
    mean, log_variance = network(torch.randn(2, 6, *shape), torch.tensor([0.1, 1.0]), torch.zeros(2, 3))
    assert mean.shape == (2, 2, *shape)
    assert log_variance.shape == (2, 1, *shape)


def test_the_mean_is_weighed_by_the_noise_that_is_there_and_the_variance_by_the_level_that_was_told():
    network = SliceNetwork(1, (8, 16), 1, 2)
    clean, noise = torch.randn(1, 3, 16, 16), unit(torch.randn(1, 3, 16, 16))
    told, carried, conditions = torch.tensor([0.05]), torch.tensor([0.4]), torch.zeros(1, 3)
    loss, error2 = training_loss(network, clean, 8 * noise, told, conditions, 0.5)
    mean, log_variance = denoise_middle(network, clean + carried * noise, told, conditions, 0.5)
    squares = (mean - clean[:, 1:2]) ** 2
    ratio = squares / scalings(told, 0.5).out ** 2
    likelihood = 0.5 * (ratio * (-log_variance).exp() + log_variance).mean()
    assert torch.allclose(error2, ratio.mean())
    assert torch.allclose(loss, (squares / scalings(carried, 0.5).out ** 2).mean() + 0.1 * likelihood, rtol=1e-5)


def test_loss_of_variance_head_leaves_the_mean_alone():
    network = SliceNetwork(1, (8, 16), 1, 2)
    clean, noise = torch.randn(2, 3, 16, 16), unit(torch.randn(2, 3, 16, 16))
    sigma, conditions = torch.tensor([0.1, 0.5]), torch.zeros(2, 3)
    loss, error2 = training_loss(network, clean, noise, sigma, conditions, 0.5)
    noisy = clean + sigma[:, None, None, None] * noise
    mean, log_variance = denoise_middle(network, noisy, sigma, conditions, 0.5)
    out = scalings(sigma, 0.5).out
    expected = ((mean - clean[:, 1:2]) / out) ** 2
    assert torch.allclose(error2.mean(), expected.mean())
    likelihood = 0.5 * (expected * (-log_variance).exp() + log_variance).mean()
    assert torch.allclose(loss, expected.mean() + 0.1 * likelihood, rtol=1e-5)


def test_neighbours_reflect_at_the_ends():
    assert neighbours(0, 1, 5) == [1, 0, 1]
    assert neighbours(4, 1, 5) == [3, 4, 3]
    assert neighbours(2, 2, 5) == [0, 2, 4]
    assert neighbours(0, 1, 1) == [0, 0, 0]


def test_crops_carry_their_spacing():
    settings = CropSettings(size=32, zoom=(0.8, 1.25), zoom_probability=1.0)
    generator = np.random.default_rng(0)
    for _ in range(20):
        crop, (log_dz, log_pixel), residual = random_crop([phantom()], settings, generator)
        assert residual is None
        assert crop.shape == (3, 32, 32)
        assert np.isclose(np.exp(float(log_dz)), 2.0) or np.isclose(np.exp(float(log_dz)), 4.0)
        assert 1.5 * 0.78 < np.exp(float(log_pixel)) < 1.5 * 1.3


def test_training_noise_has_the_correlation_it_states():
    settings = replace(TINY, batch=64)
    _, noise, _, conditions = draw_batch([phantom()], settings, np.random.default_rng(1))
    measured = (noise[:, 0] * noise[:, 1]).mean(dim=(1, 2))
    assert torch.allclose(noise.var(dim=(2, 3)).mean(), torch.tensor(1.0), atol=0.02)
    assert (measured - conditions[:, 2]).abs().max() < 0.15
    assert (conditions[:, 2] > 0).any()
    assert (conditions[:, 2] == 0).any()


def test_training_lowers_the_error_and_resumes_exactly(tmp_path):
    generator = np.random.default_rng(0)
    batches = [draw_batch([phantom()], TINY, generator) for _ in range(40)]
    straight = new_state(TINY)
    errors = [train_step(straight, b, TINY) for b in batches]
    assert np.mean(errors[-10:]) < 0.8 * np.mean(errors[:5])
    resumed = new_state(TINY)
    for b in batches[:20]:
        train_step(resumed, b, TINY)
    save_state(resumed, tmp_path)
    resumed = load_state(new_state(TINY), tmp_path)
    for b in batches[20:]:
        train_step(resumed, b, TINY)
    for a, b in zip(straight.average.parameters(), resumed.average.parameters(), strict=True):
        assert torch.equal(a, b)


def test_training_stops_at_its_budget_and_saves(tmp_path):
    settings = replace(TINY, minutes=0.005)
    reported = []
    state = train([phantom()], settings, tmp_path, lambda state, error: reported.append(state.step))
    assert state.seconds >= 0.3
    assert reported == [state.step]
    assert load_state(new_state(settings), tmp_path).step == state.step


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("weights") / "tiny"
    state, generator = new_state(TINY), np.random.default_rng(0)
    for _ in range(60):
        train_step(state, draw_batch([phantom()], TINY, generator), TINY)
    release(state, TINY, [phantom(seed=1)], ["discs"], (1.0, 2.0), Provenance("train", "made here"), out)
    return out


def test_released_prior_denoises_and_keeps_its_card(folder):
    prior = load_prior(folder)
    clean = torch.from_numpy(phantom(seed=2).slices.astype(np.float32))
    noisy = clean + 0.5 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    denoised = prior.denoise(noisy, 0.5, (2.0, 1.5, 1.5))
    assert denoised.mean.shape == denoised.variance.shape == clean.shape
    assert (denoised.mean - clean).square().mean() < 0.5 * (noisy - clean).square().mean()
    assert (denoised.variance > 0).all()
    table = prior.card["validation"]
    assert len(table["sigma"]) == len(table["error_variance"]) == len(table["predicted_variance"]) == 12
    assert "made here" in (folder / "README.md").read_text()


def test_denoising_does_not_depend_on_the_batch(folder):
    prior = load_prior(folder)
    prior.bfloat16 = False
    x = torch.randn(5, 32, 32, generator=torch.Generator().manual_seed(0))
    whole = prior.denoise(x, 0.3, (2.0, 1.5, 1.5)).mean
    prior.batch = 2
    assert torch.allclose(whole, prior.denoise(x, 0.3, (2.0, 1.5, 1.5)).mean, atol=1e-5)


def test_the_noise_of_a_single_slice_is_told_to_be_alike_in_its_neighbours(folder):
    prior, spacing = load_prior(folder), (2.0, 1.5, 1.5)
    x = torch.randn(2, 32, 32, generator=torch.Generator().manual_seed(0))
    independent, alike = (prior.denoise(x[:1], 0.3, spacing, c).mean for c in (0.0, LARGEST_CORRELATION))
    assert torch.equal(independent, alike)
    twice = x[:1].repeat(2, 1, 1)
    assert torch.allclose(alike[0], prior.denoise(twice, 0.3, spacing, LARGEST_CORRELATION).mean[0], atol=1e-5)
    assert not torch.allclose(alike[0], prior.denoise(twice, 0.3, spacing).mean[0], atol=1e-4)


def test_r2_scale_interpolates_in_log_sigma(folder):
    prior = load_prior(folder)
    assert prior.r2_scale(0.1, "point") == 1.0
    prior.card["r2_scale"] = {"point": {"sigma": [0.01, 1.0], "scale": [1.0, 4.0]}}
    assert prior.r2_scale(0.1, "point") == pytest.approx(2.0)
    assert prior.r2_scale(5.0, "point") == pytest.approx(4.0)


def test_wrong_checksum_modality_and_pixel_are_refused(folder):
    prior = load_prior(folder)
    with pytest.raises(PriorError, match="trained for ct"):
        prior.check_fits("mr", 1.5)
    with pytest.raises(PriorError, match="pixels of 1 to 2 mm"):
        prior.check_fits("ct", 5.0)
    prior.card["usable_pixel_mm"] = [0.7, 2.0]
    prior.check_fits("ct", 0.8)
    with pytest.raises(PriorError, match=r"pixels of 0.7 to 2 mm"):
        prior.check_fits("ct", 0.6)
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps(card | {"sha256": "0" * 64}))
    try:
        with pytest.raises(PriorError, match="checksum"):
            load_prior(folder)
    finally:
        (folder / CARD).write_text(json.dumps(card))
    with pytest.raises(PriorError, match="missing"):
        load_prior(folder.with_name("nowhere"))
    assert (folder / WEIGHTS).stat().st_size < 1e6
