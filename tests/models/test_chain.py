"""Crops of chain states: reflections, phases, edges, and training on them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.chain import ChainSlab, chain_batch, random_chain_crop
from models.network import SliceNetwork
from models.preconditioning import scalings
from models.training import TrainingSettings, blend, mixed_batch, new_state, train_step
from models.volumes import CropSettings, TrainingVolume

SPACING = (2.0, 1.5, 1.5)


def slab(channels: int = 1, levels: int = 3, side: int = 12, offset: float = 0.25) -> ChainSlab:
    """Random clean slices; every noisy volume is the clean one plus `offset` times its level's number."""
    draw = np.random.default_rng(0)
    shape = (4, side, side) if channels == 1 else (4, side, side, 2)
    clean = draw.normal(size=shape).astype(np.float16)
    noisy = np.stack([clean + np.float16(offset * level) for level in range(levels)])
    sigma = np.linspace(1, 0.1, levels, dtype=np.float32)
    return ChainSlab(noisy, clean, sigma, np.linspace(0, 0.5, levels, dtype=np.float32), SPACING)


@pytest.mark.parametrize("transpose", [False, True])
def test_clean_and_noisy_stay_together_and_carry_their_level(transpose):
    made, draw, seen = slab(), np.random.default_rng(1), set()
    for _ in range(40):
        crop = random_chain_crop([made], 8, transpose, draw)
        level = int(np.argmin(abs(made.sigma - crop.sigma)))
        seen.add(level)
        assert crop.clean.shape == (3, 8, 8)
        assert torch.allclose(crop.noisy - crop.clean, torch.full((3, 8, 8), 0.25 * level), atol=5e-3)
        assert torch.allclose(
            crop.conditions, torch.tensor([np.log(2.0), np.log(1.5), made.correlation[level]]).float()
        )
    assert seen == {0, 1, 2}


def test_a_complex_crop_turns_clean_and_noisy_by_one_phase():
    made = slab(channels=2)
    crop = random_chain_crop([made], 12, False, np.random.default_rng(2))
    assert crop.clean.shape == (6, 12, 12)
    clean, noisy = (torch.view_as_complex(t.unflatten(0, (3, 2)).permute(0, 2, 3, 1).contiguous()) for t in crop[:2])
    magnitudes = torch.view_as_complex(torch.from_numpy(made.clean.astype(np.float32))).abs()
    assert any(torch.allclose(clean[1].abs().sum(), m.sum(), rtol=1e-5) for m in magnitudes)
    added = noisy - clean
    assert torch.allclose(added, added.flatten()[0].expand(added.shape), atol=2e-2)


def test_a_small_slab_is_continued_by_its_edge():
    made = slab(side=6, levels=1)
    made = replace(made, clean=np.broadcast_to(np.arange(6, dtype=np.float16), (4, 6, 6)).copy())
    crop = random_chain_crop([made], 10, False, np.random.default_rng(3))
    rows = crop.clean[1]
    assert rows.shape == (10, 10)
    ascending = rows if rows[0, 0] < rows[0, -1] else rows.flip(1)
    assert ascending[0, -5:].tolist() == [5.0] * 5


def test_noise_of_a_batch_leads_back_to_the_noisy_volume():
    clean, noise, sigma, conditions = chain_batch([slab()], 5, 8, False, np.random.default_rng(4))
    assert clean.shape == noise.shape == (5, 3, 8, 8)
    assert conditions.shape == (5, 3)
    added = sigma[:, None, None, None] * noise
    assert torch.allclose(added, added[:, :1, :1, :1].expand(added.shape), atol=5e-3)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.5, 2), (1.0, 4)])
def test_a_batch_holds_its_share_of_chain_states(share, expected):
    settings = TrainingSettings("ct", 0.5, batch=4, crop=CropSettings(size=8), chain_share=share)
    volume = TrainingVolume("flat", np.full((4, 12, 12), -0.5, np.float16), SPACING)
    clean, _, sigma, _ = mixed_batch([volume], [slab()], settings, np.random.default_rng(5))
    assert len(clean) == len(sigma) == 4
    assert sum(float(item.std()) > 0.1 for item in clean) == expected
    white = mixed_batch([volume], [], settings, np.random.default_rng(5))
    assert len(white[0]) == 4
    assert float(white[0].std()) < 0.1


def test_training_on_chain_states_learns_what_the_chain_leaves():
    """States that are clean plus a constant are easily undone, though not by a denoiser of white noise."""
    settings = TrainingSettings("ct", 0.5, widths=(8, 16), batch=4, crop=CropSettings(size=12), chain_share=1.0)
    settings = replace(settings, learning_rate=3e-3, warmup_steps=5, ema=0.9)
    made = slab(levels=2, offset=0.5)
    made = replace(made, noisy=made.noisy[1:], sigma=made.sigma[1:], correlation=made.correlation[1:])
    state, draw = new_state(settings), np.random.default_rng(6)
    errors = [train_step(state, mixed_batch([], [made], settings, draw), settings) for _ in range(120)]
    untouched = 0.5**2 / float(scalings(torch.tensor([0.1]), 0.5).out) ** 2
    assert np.mean(errors[-10:]) < 0.25 * untouched


def test_training_begins_with_the_weights_it_is_given():
    settings = TrainingSettings("ct", 0.5, widths=(8, 16))
    start = SliceNetwork(1, (8, 16), 1, 2)
    state = new_state(settings, start)
    for name, value in start.state_dict().items():
        assert torch.equal(state.network.state_dict()[name], value)
        assert torch.equal(state.average.state_dict()[name], value)


def test_a_blend_lies_between_its_networks():
    one, other = (SliceNetwork(1, (8, 16), 1, 2) for _ in range(2))
    expected = [0.75 * a + 0.25 * b for a, b in zip(one.parameters(), other.parameters(), strict=True)]
    kept = [b.clone() for b in other.parameters()]
    blend(one, other, 0.25)
    assert all(torch.allclose(a, e, atol=1e-6) for a, e in zip(one.parameters(), expected, strict=True))
    assert all(torch.equal(b, k) for b, k in zip(other.parameters(), kept, strict=True))
