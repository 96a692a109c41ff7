"""Adaptation of a prior to one study: the split, the loss, when it stops, and the folder it writes."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from data.volume import Volume
from models.network import SliceNetwork
from models.prior import CARD, WEIGHTS, SlicePrior, load_prior
from operators.cartesian_mri import CartesianMri
from operators.linear import Identity
from pipeline import adapt as stage
from pipeline.measure_ct import simulate_ct
from pipeline.measurement import write_measurement
from pipeline.problem import with_start
from pipeline.settings import CtMeasureSettings
from solvers import adaptation
from solvers.adaptation import AdaptationSettings, adapt, consistent, split_measurement, step_loss
from solvers.draws import Draws
from solvers.problem import Problem
from solvers.settings import SettingsError

SPACING = (3.0, 4.0, 4.0)
QUICK = {"rounds": 2, "steps": 8, "slices": 2, "rank": 2, "pam": {"levels": 3}, "held_out": 0.2}


def tiny_network(channels=1):
    torch.manual_seed(0)
    return SliceNetwork(channels, (8, 16), 1, 2)


def tiny_prior():
    return SlicePrior(tiny_network(), {"name": "tiny", "modality": "ct", "sigma_data": 0.5})


def discs():
    at = (np.arange(24) - 11.5) * 4
    disc = np.where(np.hypot(at[None], at[:, None]) < 30, 0.0, -1000.0)
    return Volume.from_affine(np.repeat(disc[None], 3, axis=0), np.diag([-4.0, -4.0, 3.0, 1.0]))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(measurement folder, prior folder) of a disc from 20 views and an untrained network."""
    place = tmp_path_factory.mktemp("adapt")
    measurement, _ = simulate_ct(discs(), CtMeasureSettings(working_matrix=None, views=20, photons=1e4), "disc")
    write_measurement(place / "measure", with_start(measurement))
    prior = place / "prior"
    tiny_network().half().save_pretrained(prior)
    digest = hashlib.sha256((prior / WEIGHTS).read_bytes()).hexdigest()
    card = {"name": "tiny", "modality": "ct", "sigma_data": 0.5, "pixel_mm": [1, 8], "sha256": digest, "limits": "Few."}
    (prior / CARD).write_text(json.dumps(card))
    return place / "measure", prior


@pytest.fixture
def problem(folders):
    from pipeline.problem import load_problem

    return load_problem(folders[0])[0]


def test_ct_split_takes_every_nth_view_and_loses_none(problem):
    fit, test = split_measurement(problem, 0.2, Draws(0))
    assert torch.equal(fit.weights + test.weights, problem.weights.expand(problem.y.shape))
    views = (test.weights > 0).any(dim=2).any(dim=0)
    assert int(views.sum()) == 4
    assert set(np.diff(np.flatnonzero(views.numpy()))) == {5}
    assert not bool(((fit.weights > 0) & (test.weights > 0)).any())


@pytest.mark.parametrize("lines", [True, False])
def test_mr_split_keeps_lines_whole_and_the_centre(lines):
    columns = torch.rand(32, generator=torch.Generator().manual_seed(0)) < 0.6
    mask = columns[None, :].repeat(24, 1)
    if not lines:
        mask = torch.rand(24, 32, generator=torch.Generator().manual_seed(1)) < 0.5
    A = CartesianMri(mask, torch.ones(1, 2, 24, 32, dtype=torch.complex64))
    x = torch.zeros(2, 24, 32, dtype=torch.complex64)
    problem = Problem(A, A(x), mask.float()[None, None], x, 0.3, SPACING)
    fit, test = split_measurement(problem, 0.4, Draws(0))
    assert torch.equal(fit.weights + test.weights, problem.weights.expand(problem.y.shape))
    held = test.weights[0, 0] > 0
    assert bool(held.any())
    assert not bool(held[10:15, 13:20].any())
    if lines:
        assert torch.equal(held, held[:1].expand_as(held))


def test_consistent_slab_is_the_weighted_mean_of_network_and_data():
    """With A = I, P(h) = (h / V + w y) / (1 / V + w); slices outside the slab play no part."""
    white = torch.Generator().manual_seed(0)
    x, y = torch.randn(4, 6, 6, generator=white), torch.randn(4, 6, 6, generator=white)
    problem = Problem(Identity(), y, torch.full((1, 1, 1), 3.0), x, 0.3, SPACING)
    h, variance = torch.randn(2, 6, 6, generator=white), torch.full((2, 6, 6), 0.4)
    expected = (h / variance + 3 * y[1:3]) / (1 / variance + 3)
    assert torch.allclose(consistent(problem, x, slice(1, 3), h, variance), expected, atol=1e-5)


def test_weights_of_the_loss_switch_its_parts_off():
    """Data that the denoised slab fits exactly leave the self-training term alone to move the network."""
    prior, x = tiny_prior(), torch.zeros(3, 16, 16)
    prior.bfloat16 = False
    problem = Problem(Identity(), x, torch.zeros(1, 1, 1), x, 0.3, SPACING)
    losses = {}
    for a, b in ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (2.0, 0.0)):
        settings = AdaptationSettings(self_training=a, consistency=b, slices=2)
        losses[a, b] = float(step_loss(problem, x, prior, settings, Draws(0)).detach())
    assert losses[1, 1] == pytest.approx(losses[1, 0], rel=1e-4)
    self_training = losses[2, 0] - losses[1, 0]
    assert self_training > 0
    assert losses[1, 0] - losses[0, 1] == pytest.approx(self_training, rel=1e-3)


def test_the_round_that_predicts_held_out_views_best_is_kept(problem, monkeypatch):
    """Reconstructions that come nearer to the truth twice and then move away: round 2 is kept, with its weights."""
    truth = torch.from_numpy(discs().array_zyx.astype(np.float32) / 1000)
    offsets, seen = iter((0.3, 0.2, 0.1, 0.15, 0.0)), []

    def reconstruct(fit, prior, settings, draws, index):
        seen.append([p.detach().clone() for p in prior.network.parameters() if p.requires_grad])
        return truth + next(offsets)

    kept = []
    monkeypatch.setattr(adaptation, "_reconstruct", reconstruct)
    monkeypatch.setattr(adaptation, "restore", lambda parameters, values: kept.extend(values))
    settings = AdaptationSettings(**QUICK | {"rounds": 4, "steps": 1})
    result = adapt(problem, tiny_prior(), settings, Draws(0))
    errors = result.heldout_chi2
    assert result.best_round == 2
    assert len(errors) == 4
    assert errors[2] == min(errors)
    by_shape = {tuple(p.shape): p for p in seen[2]}
    assert all(torch.equal(by_shape[tuple(p.shape)], p) for p in kept if sum(q.shape == p.shape for q in kept) == 1)
    assert any(not torch.equal(a, b) for a, b in zip(seen[2], seen[3], strict=True))


def test_tuning_lowers_the_loss_on_noise_it_has_not_seen(problem, monkeypatch):
    image = torch.from_numpy(discs().array_zyx.astype(np.float32) / 1000)
    settings = AdaptationSettings(**QUICK | {"rounds": 1, "steps": 20, "rank": 8, "least_gain": -99})
    settings = replace(settings, learning_rate=5e-3)

    def loss(prior):
        with torch.no_grad():
            fresh = [step_loss(problem, image, prior, settings, Draws(9).child(k)) for k in range(4)]
        return float(torch.stack(fresh).mean())

    monkeypatch.setattr(adaptation, "_reconstruct", lambda *_: image)
    result = adapt(problem, tiny_prior(), settings, Draws(0))
    assert result.best_round == 1
    assert loss(result.prior) < 0.9 * loss(tiny_prior())


def test_adapting_that_does_harm_leaves_the_prior_as_it_was(problem):
    """Known failure: a step far too large ruins the network, held-out views say so, and round 0 is kept."""
    result = adapt(problem, tiny_prior(), AdaptationSettings(**QUICK | {"learning_rate": 3.0}), Draws(0))
    assert result.best_round == 0
    assert len(result.heldout_chi2) == 2
    plain = tiny_network().state_dict()
    assert all(torch.equal(value, plain[name]) for name, value in result.prior.network.state_dict().items())


def test_written_prior_loads_and_says_where_it_comes_from(folders, tmp_path, capsys):
    measurement, prior = folders
    out = tmp_path / "adapted"
    arguments = ["--measurement", str(measurement), "--prior", str(prior), "--out", str(out)]
    config = tmp_path / "adapt.yaml"
    config.write_text(json.dumps({"adapt": QUICK | {"rounds": 9}}))
    changes = json.dumps({"rounds": 1, "seed": 2, "device": "cpu"})
    assert stage.main([*arguments, "--config", str(config), "--settings", changes]) == 0
    card = load_prior(out).card
    assert card["name"] == "tiny_adapted"
    assert card["adapted"]["from_sha256"] == load_prior(prior).card["sha256"]
    assert card["adapted"]["settings"]["rounds"] == 1
    assert len(card["adapted"]["heldout_chi2"]) == 2
    assert card["limits"].endswith("Few.")
    assert "kept round" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steeps": 3}, "did you mean 'steps'"),
        ({"kind": "prompt"}, "low_rank"),
        ({"held_out": 1.5}, "held_out must lie"),
        ({"self_training": 0, "consistency": 0}, "one of self_training"),
    ],
)
def test_settings_that_cannot_be_used_are_named(folders, tmp_path, capsys, settings, words):
    arguments = ["--measurement", str(folders[0]), "--prior", str(folders[1]), "--out", str(tmp_path / "out")]
    assert stage.main([*arguments, "--settings", json.dumps(settings)]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_settings_refuse_impossible_values():
    with pytest.raises(SettingsError, match="at least 1"):
        AdaptationSettings(steps=0)
