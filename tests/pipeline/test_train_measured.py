"""A prior learnt from measurements: rounds, resuming, the card, and what is refused."""

import json

import numpy as np
import pytest
import torch

from data.volume import Volume
from models.prior import CARD, load_prior
from pipeline import train_measured
from pipeline.measure_ct import simulate_ct
from pipeline.measure_mr import simulate_mr
from pipeline.measurement import read_tensors, write_measurement
from pipeline.problem import with_start
from pipeline.settings import CtMeasureSettings, MrMeasureSettings

TRAINING = {
    "modality": "ct",
    "widths": [8, 16],
    "batch": 2,
    "crop": {"size": 16},
    "warmup_steps": 2,
    "ema": 0.5,
    "held_out": ["held"],
    "device": "cpu",
}
SETTINGS = {
    "rounds": 2,
    "steps": 3,
    "samples": 2,
    "start": {"cgls": {"iterations": 3}},
    "pam": {"levels": 2, "cg_iterations": 3},
    "training": TRAINING,
}


def disc(radius: float) -> Volume:
    at = (np.arange(24) - 11.5) * 4
    values = np.where(np.hypot(at[None], at[:, None]) < radius, 0.0, -1000.0)
    return Volume.from_affine(np.repeat(values[None], 2, axis=0), np.diag([-4.0, -4.0, 3.0, 1.0]))


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Folders of two CT measurements to learn from, one that is held out, and one of MR."""
    place = tmp_path_factory.mktemp("measured")
    for index, name in enumerate(("one", "two", "held")):
        settings = CtMeasureSettings(working_matrix=None, views=8, start_deg=5.0 * index, photons=1e4, seed=index)
        measurement, _ = simulate_ct(disc(20.0 + 10 * index), settings, name)
        write_measurement(place / name, with_start(measurement))
    magnitude = Volume.from_affine(disc(30.0).array_zyx + 1000.0, np.diag([-4.0, -4.0, 3.0, 1.0]))
    measurement, _ = simulate_mr(
        magnitude, MrMeasureSettings(coils=2, acceleration=2.0, calibration_fraction=0.3), "mr"
    )
    write_measurement(place / "kspace", with_start(measurement))
    return place


def run(measured, folder, names=("one", "two", "held"), **changes):
    arguments = ["--measurements", *(str(measured / name) for name in names), "--out", str(folder / "prior")]
    settings = json.dumps(SETTINGS | changes)
    return train_measured.main([*arguments, "--state", str(folder / "state"), "--settings", settings])


def weights(folder):
    return load_prior(folder / "prior").network.state_dict()


def test_more_rounds_go_on_from_the_last_and_end_with_the_same_bits(measured, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(measured, whole) == 0
    assert run(measured, parts, rounds=1) == 0
    first = weights(parts)
    assert run(measured, parts) == 0
    assert all(torch.equal(a, b) for a, b in zip(weights(whole).values(), weights(parts).values(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first.values(), weights(parts).values(), strict=True))


def test_a_run_stopped_within_a_round_ends_with_the_same_bits(measured, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(measured, whole) == 0
    real, calls = train_measured.train_step, []

    def stops(*arguments):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(train_measured, "train_step", stops)
        with pytest.raises(KeyboardInterrupt):
            run(measured, broken)
    assert run(measured, broken) == 0
    assert all(torch.equal(a, b) for a, b in zip(weights(whole).values(), weights(broken).values(), strict=True))


def test_volumes_of_the_rounds_and_the_card(measured, tmp_path):
    assert run(measured, tmp_path) == 0
    state = tmp_path / "state"
    assert sorted(path.name for path in (state / "round_1").iterdir()) == ["one.safetensors", "two.safetensors"]
    first, _ = read_tensors(state / "round_0" / "one.safetensors")
    second, metadata = read_tensors(state / "round_1" / "one.safetensors")
    assert first["volumes"].shape == (1, 2, 24, 24)
    assert second["volumes"].shape == (2, 2, 24, 24)
    assert not np.array_equal(*second["volumes"])
    assert second["volumes"].min() >= -1
    assert len(metadata["chi2"]) == 2
    card = json.loads((tmp_path / "prior" / CARD).read_text())
    assert set(card["learnt_from"]["measurements"]) == {"one", "two"}
    assert card["held_out"] == ["held (posterior sample)"]
    assert "without any clean volume" in card["limits"]
    assert "without any clean volume" in (tmp_path / "prior" / "README.md").read_text()


def test_kspace_is_learnt_from_in_magnitude(measured, tmp_path):
    training = TRAINING | {"modality": "mr", "held_out": []}
    start = {"cg_sense": {}}
    assert run(measured, tmp_path, ("kspace",), training=training, start=start, rounds=2) == 0
    tensors, _ = read_tensors(tmp_path / "state" / "round_1" / "kspace.safetensors")
    assert tensors["volumes"].dtype == np.float32
    assert tensors["volumes"].min() >= 0
    assert load_prior(tmp_path / "prior").modality == "mr"


def test_training_volumes_have_no_voxel_below_air():
    x = torch.tensor([[[-1.4, 0.2, 3.0]]])
    assert train_measured.as_training(x, "ct").flatten().tolist() == pytest.approx([-1.0, 0.2, 2.0])
    assert train_measured.as_training(torch.tensor([[[3 + 4j]]]), "mr").item() == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("names", "changes", "words"),
    [
        (("one", "kspace"), {}, "is MR"),
        (("one", "one"), {}, "same name"),
        (("held",), {}, "no measurement to learn from"),
        (("one",), {"start": {"magic": {}}}, "one classical method"),
        (("one",), {"round": 2}, "did you mean 'rounds'"),
        (("one",), {"training": {"modality": "ct", "widht": 3}}, "widht"),
        (("nowhere",), {}, "no such file"),
    ],
)
def test_what_cannot_be_learnt_from_is_said_in_one_sentence(measured, tmp_path, capsys, names, changes, words):
    assert run(measured, tmp_path, names, **changes) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "prior").exists()
