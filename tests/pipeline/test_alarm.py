"""Stage alarm: what it reads, what it writes, which limits it takes."""

import json

import numpy as np
import pytest
import torch

from data.nifti import write_volume
from models.gaussian import GaussianPrior
from models.ood import SIGMAS
from pipeline import alarm
from pipeline.measurement import write_tensors

AFFINE = np.diag([-1.5, -1.5, 2.0, 1.0])
STD = 0.5


@pytest.fixture
def prior(monkeypatch, tmp_path):
    """A Gaussian prior in place of a folder's; the spacing it is asked for is noted."""
    grid = np.geomspace(0.01, 3, 30)
    table = {"sigma": list(grid), "error_variance": list(STD**2 * grid**2 / (STD**2 + grid**2))}
    table["predicted_variance"] = table["error_variance"]
    training = {"volumes": ["v1"], "minutes": 1, "steps": 1, "batch": 1, "crop": 1}
    card = {"name": "gauss", "validation": table, "training": training, "modality": "ct", "units": "u"}
    card |= {"parameters": 1, "pixel_mm": [1, 2], "held_out": [], "command": "c", "licence": "l", "limits": "m"}
    made = GaussianPrior(torch.tensor(STD**2), 0.0, "ct", card)
    asked = []
    monkeypatch.setattr(
        GaussianPrior,
        "denoise",
        lambda self, x, sigma, spacing, c=0.0, inner=GaussianPrior.denoise: (
            asked.append(spacing),
            inner(self, x, sigma, spacing, c),
        )[1],
    )

    def load(folder, device="cpu"):
        path = tmp_path / "prior" / "prior.json"
        return GaussianPrior(made.power, 0.0, "ct", json.loads(path.read_text()) if path.exists() else card)

    monkeypatch.setattr(alarm, "load_prior", load)
    return asked


def draw(std, seed, shape=(9, 64, 64)):
    return (std * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def reconstruction(folder, std):
    """Two samples whose mean has the standard deviation `std` in prior units, in HU."""
    mean, apart = draw(std, 1), draw(0.3, 2)
    metadata = {"affine": AFFINE.tolist(), "units": "HU", "modality": "ct"}
    write_tensors(folder / "samples.safetensors", {"samples": 1000 * np.stack([mean + apart, mean - apart])}, metadata)
    (folder / "run.json").write_text(json.dumps({"units_per_normalised": 1000.0}))
    return folder


def make_table(tmp_path):
    for i in range(5):
        array = 1000 * np.clip(draw(STD, 10 + i), -1, 2)
        write_volume(tmp_path / "clean" / f"v{i}.nii.gz", array, AFFINE, np.float32, "clean")
    (tmp_path / "prior").mkdir()
    return alarm.main(["table", "--prior", str(tmp_path / "prior"), "--volumes", str(tmp_path / "clean")])


@pytest.mark.parametrize(("std", "verdict"), [(STD, "in"), (3 * STD, "out"), (0.1 * STD, "unsure")])
def test_a_study_is_judged_by_the_table_on_the_card(tmp_path, prior, std, verdict):
    (tmp_path / "clean").mkdir()
    assert make_table(tmp_path) == 0
    folder = tmp_path / "run"
    folder.mkdir()
    out = tmp_path / "alarm" / "alarm.json"
    arguments = ["check", "--reconstruction", str(reconstruction(folder, std)), "--out", str(out)]
    assert alarm.main([*arguments, "--settings", '{"prior": "prior", "device": "cpu", "samples": 2}']) == 0
    report = json.loads(out.read_text())
    assert report["verdict"] == verdict
    assert "gauss" in report["sentence"]
    assert [sigma for sigma, _ in report["ratios"]] == list(SIGMAS)
    assert prior[-1] == pytest.approx((2.0, 1.5, 1.5))
    # the samples' own spread is averaged away: only their mean is judged
    power, noise = STD**2, SIGMAS[0] ** 2
    exact = (noise * std**2 / power + power) / (power + noise)
    assert report["ratios"][0][1] == pytest.approx(exact, rel=0.05)


def test_the_table_says_what_it_was_made_of(tmp_path, prior):
    (tmp_path / "clean").mkdir()
    assert make_table(tmp_path) == 0
    card = json.loads((tmp_path / "prior" / "prior.json").read_text())
    assert card["alarm"]["volumes"] == [f"v{i}" for i in range(5)]
    assert card["alarm"]["trained_on"] == ["v1"]
    assert set(card["alarm"]["ratios"]) == set(card["alarm"]["volumes"])
    assert "Out-of-distribution alarm" in (tmp_path / "prior" / "README.md").read_text()


def test_limits_are_found_again_from_the_ratios_on_the_card(tmp_path, prior):
    (tmp_path / "clean").mkdir()
    assert make_table(tmp_path) == 0
    path = tmp_path / "prior" / "prior.json"
    made = json.loads(path.read_text())
    spoilt = made | {"alarm": made["alarm"] | {"error": {}, "predicted": {}}}
    path.write_text(json.dumps(spoilt))
    calls = len(prior)
    assert alarm.main(["table", "--prior", str(tmp_path / "prior")]) == 0
    assert len(prior) == calls
    again = json.loads(path.read_text())
    assert again["alarm"]["trained_on"] == ["v1"]
    for kind in ("error", "predicted"):
        for name, values in made["alarm"][kind].items():
            np.testing.assert_allclose(again["alarm"][kind][name], values, rtol=1e-3)
    del made["alarm"]
    path.write_text(json.dumps(made))
    assert alarm.main(["table", "--prior", str(tmp_path / "prior")]) == 1


def test_a_card_without_a_table_leaves_the_verdict_open(tmp_path, prior):
    out = tmp_path / "alarm.json"
    arguments = ["check", "--reconstruction", str(reconstruction(tmp_path, STD)), "--out", str(out)]
    assert alarm.main([*arguments, "--settings", '{"prior": "prior"}']) == 0
    assert json.loads(out.read_text())["verdict"] == "unsure"


def test_too_few_volumes_and_missing_runs_are_one_sentence(tmp_path, prior, capsys):
    (tmp_path / "empty").mkdir()
    assert alarm.main(["table", "--prior", str(tmp_path), "--volumes", str(tmp_path / "empty")]) == 1
    assert "three volumes" in capsys.readouterr().err
    folder = reconstruction(tmp_path, STD)
    (folder / "run.json").unlink()
    assert alarm.main(["check", "--reconstruction", str(folder), "--out", str(tmp_path / "a.json")]) == 1
    assert "run.json" in capsys.readouterr().err
    assert not (tmp_path / "a.json").exists()
