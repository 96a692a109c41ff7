"""Options of the trainer: neighbours, rectified flow, residual start."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.network import SliceNetwork
from models.preconditioning import denoise_middle, flow_scalings, scalings, training_loss
from models.prior import SlicePrior
from models.training import TrainingSettings, draw_batch, load_state, new_state, residual_share, save_state, train_step
from models.volumes import CropSettings, TrainingVolume, random_crop

TINY = TrainingSettings("ct", 0.5, widths=(8, 16), batch=4, crop=CropSettings(size=32, zoom_probability=0.0))
CARD = {"modality": "ct", "sigma_data": 0.5}


def network(**options) -> SliceNetwork:
    torch.manual_seed(0)
    return SliceNetwork(1, (8, 16), 1, 2, **options).eval()


def ramp(rows: int = 40, columns: int = 48) -> TrainingVolume:
    """A slice whose value tells its place: y + 10 x, both from -1 to 1 at the pixels' centres."""
    y = (np.arange(rows) + 0.5) / rows * 2 - 1
    x = (np.arange(columns) + 0.5) / columns * 2 - 1
    return TrainingVolume("ramp", np.repeat((0.1 * y[:, None] + x)[None], 4, axis=0), (2.0, 1.5, 1.5))


def test_a_configuration_without_options_is_the_same_network(tmp_path):
    made = network()
    made.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for key in ("neighbours", "preconditioning"):
        del config[key]
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = SliceNetwork.from_pretrained(tmp_path, use_safetensors=True, local_files_only=True)
    arguments = (torch.randn(1, 3, 16, 16), torch.tensor([0.3]), torch.zeros(1, 3))
    assert loaded.config.neighbours == 3
    assert torch.equal(made(*arguments)[0], loaded(*arguments)[0])


@pytest.mark.parametrize(("neighbours", "seen"), [(1, False), (3, True)])
def test_a_single_slice_network_does_not_see_its_neighbours(neighbours, seen):
    made, triplet = network(neighbours=neighbours), torch.randn(1, 3, 16, 16)
    other = triplet.clone()
    other[:, [0, 2]] += 1
    outputs = [made(t, torch.tensor([0.3]), torch.zeros(1, 3))[0] for t in (triplet, other)]
    assert torch.equal(*outputs) is not seen


@pytest.mark.parametrize("transpose", [False, True])
def test_crops_are_flipped_every_way_and_transposed_where_asked(transpose):
    settings, generator = replace(TINY.crop, transpose=transpose, zoom_probability=0.0), np.random.default_rng(0)
    seen = set()
    for _ in range(100):
        middle = random_crop([ramp()], settings, generator).slices[1]
        down, across = float(middle[1, 0] - middle[0, 0]), float(middle[0, 1] - middle[0, 0])
        seen.add((down > 0, across > 0, abs(down) > abs(across)))
    # the ramp is steeper along x
    assert {key[:2] for key in seen if not key[2]} == {(a, b) for a in (False, True) for b in (False, True)}
    assert any(key[2] for key in seen) is transpose


def test_flow_scalings_turn_a_velocity_into_the_clean_slice():
    sigma_data, sigma = 0.5, torch.tensor([0.02, 0.5, 3.0])
    x, n = torch.randn(3, 1, 4, 4), torch.randn(3, 1, 4, 4)
    s = flow_scalings(sigma, sigma_data)
    t = (sigma / (sigma + sigma_data))[:, None, None, None]
    noisy = x + sigma[:, None, None, None] * n
    assert torch.allclose(s.input * noisy, (1 - t) * x / sigma_data + t * n, atol=1e-6)
    assert torch.allclose(s.skip * noisy + s.out * (x / sigma_data - n), x, atol=1e-5)


def test_flow_weighs_the_mean_by_its_own_scaling_and_the_variance_by_the_common_one():
    made, clean, noise = network(preconditioning="flow"), torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16)
    noise /= noise.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    sigma, conditions = torch.tensor([0.1, 0.5]), torch.zeros(2, 3)
    loss, error2 = training_loss(made, clean, noise, sigma, conditions, 0.5)
    noisy = clean + sigma[:, None, None, None] * noise
    mean, log_variance = denoise_middle(made, noisy, sigma, conditions, 0.5)
    squares = (mean - clean[:, 1:2]) ** 2
    ratio = squares / scalings(sigma, 0.5).out ** 2
    likelihood = 0.5 * (ratio * (-log_variance).exp() + log_variance).mean()
    assert torch.allclose(error2, ratio.mean(dim=(1, 2, 3)))
    assert torch.allclose(loss, (squares / flow_scalings(sigma, 0.5).out ** 2).mean() + 0.1 * likelihood, rtol=1e-5)


@pytest.mark.parametrize("options", [{"neighbours": 1}, {"preconditioning": "flow"}])
def test_options_train_resume_and_denoise_whole_volumes(options, tmp_path):
    settings, generator = replace(TINY, **options), np.random.default_rng(0)
    state = new_state(settings)
    train_step(state, draw_batch([ramp()], settings, generator), settings)
    save_state(state, tmp_path)
    resumed = load_state(new_state(settings), tmp_path)
    prior = SlicePrior(resumed.average, CARD)
    volume = torch.randn(5, 20, 24)
    denoised = prior.denoise(volume, 0.3, (2.0, 1.5, 1.5))
    assert denoised.mean.shape == denoised.variance.shape == volume.shape
    assert torch.equal(denoised.mean, SlicePrior(state.average, CARD).denoise(volume, 0.3, (2.0, 1.5, 1.5)).mean)


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_residual_start_shifts_the_noisy_slice_towards_the_degraded_one(modality):
    clean = ramp()
    pair = replace(clean, degraded=clean.slices + 0.25)
    settings = replace(TINY, modality=modality, residual_sigma=0.3)
    batch = draw_batch([pair], settings, np.random.default_rng(3))
    plain = draw_batch([clean], replace(settings, residual_sigma=0.0), np.random.default_rng(3))
    for ours, theirs in zip((batch[0], *batch[2:]), (plain[0], *plain[2:]), strict=True):
        assert torch.allclose(ours, theirs)
    sigma = batch[2][:, None, None, None]
    shift = (sigma * (batch[1] - plain[1])).unflatten(1, (3, -1)).square().sum(dim=2).sqrt()
    size = residual_share(batch[2], 0.3)[:, None, None, None] * 0.25
    ratio = shift / size
    # the magnitude that the random phase of MR multiplies is scaled by 0.8 to 1.2
    assert (ratio - ratio.mean(dim=(1, 2, 3), keepdim=True)).abs().max() < 1e-3
    assert ((ratio > 0.79) & (ratio < 1.21)).all()
    if modality == "ct":
        assert torch.allclose(ratio, torch.ones(()), atol=1e-3)


def test_a_residual_start_is_the_degraded_volume_from_its_level_on():
    share = residual_share(torch.tensor([0.0, 0.15, 0.3, 3.0]), 0.3)
    assert torch.allclose(share, torch.tensor([0.0, 0.5, 1.0, 1.0]))
