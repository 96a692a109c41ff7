"""Chain states: the truth fits the data, what the prior was shown is kept, a stopped run goes on, training uses it."""

import json

import nibabel
import numpy as np
import pytest
import torch

from data.volume import Volume
from models.prior import CARD, load_prior
from models.release import Provenance, release
from models.training import TrainingSettings, new_state
from models.volumes import TrainingVolume
from pipeline import chain_states, train
from pipeline.chain_states import random_ct, random_mr, simulate
from pipeline.measurement import read_tensors
from pipeline.problem import make_problem
from pipeline.seeds import numpy_generator

SIDE = 32
SPACING = (3.0, 4.0, 4.0)


def disc(radius: float, inside: float, outside: float) -> np.ndarray:
    at = (np.arange(SIDE) - SIDE / 2 + 0.5) * SPACING[1]
    values = np.where(np.hypot(at[None], at[:, None]) < radius, inside, outside)
    return np.repeat(values[None], 5, axis=0)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Folders of CT volumes, one of them to be held out, and of a small prior."""
    folder = tmp_path_factory.mktemp("chain")
    (folder / "volumes").mkdir()
    for name, radius in (("one", 30.0), ("two", 40.0), ("held", 50.0)):
        image = nibabel.Nifti1Image(disc(radius, 0.0, -1000.0).transpose(2, 1, 0), np.diag([4.0, 4.0, 3.0, 1.0]))
        nibabel.save(image, folder / "volumes" / f"{name}.nii.gz")
    settings = TrainingSettings("ct", 0.5, widths=(8, 16))
    held = TrainingVolume("held", (disc(50, 0, -1)).astype(np.float16), SPACING)
    release(new_state(settings), settings, [held], ["one"], (3.0, 5.0), Provenance("test", "test"), folder / "prior")
    return folder


def collect(place, out, **changes) -> int:
    settings = json.dumps({"slabs": 3, "slices": 3, "held_out": ["held"]} | changes)
    arguments = ["--volumes", str(place / "volumes"), "--prior", str(place / "prior"), "--out", str(out)]
    return chain_states.main([*arguments, "--settings", settings])


@pytest.mark.parametrize("modality", ["ct", "mr"])
@pytest.mark.parametrize("seed", range(4))
def test_the_truth_of_a_random_scan_fits_its_data(modality, seed):
    draw = numpy_generator(seed, "test")
    values = disc(40.0, 0.0, -1000.0) if modality == "ct" else disc(40.0, 700.0, 0.0)
    slab = Volume.from_affine(values.astype(np.float32), np.diag([4.0, 4.0, 3.0, 1.0]))
    section = (random_ct if modality == "ct" else random_mr)(draw) | {"seed": seed}
    measurement, truth = simulate(modality, slab, section, "disc")
    problem, units = make_problem(measurement)
    assert truth.is_complex() == (modality == "mr")
    # The projectors of simulation and reconstruction differ, which adds to the noise of CT.
    assert problem.chi2(truth / units.scale) == pytest.approx(1, abs=0.1 if modality == "mr" else 1.0)


def test_what_the_prior_was_shown_is_kept_beside_the_truth(place, tmp_path):
    assert collect(place, tmp_path) == 0
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) == 3
    for path in files:
        tensors, about = read_tensors(path)
        assert about["volume"] in ("one", "two")
        radius = {"one": 30.0, "two": 40.0}[about["volume"]]
        np.testing.assert_allclose(tensors["clean"], disc(radius, 0.0, -1.0)[:3], atol=1e-3)
        count = len(tensors["sigma"])
        assert tensors["noisy"].shape == (count, 3, SIDE, SIDE)
        first = tensors["noisy"][0].astype(np.float32) - tensors["clean"]
        assert first.std() > 0.8 * tensors["sigma"][0]
        assert np.all(np.diff(tensors["sigma"]) < 0) or about["mode"] == "point"
        assert np.all(tensors["correlation"] > 0) == (about["mode"] == "sample")


def test_a_stopped_run_goes_on_with_the_same_slabs(place, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert collect(place, whole) == collect(place, parts, slabs=1) == 0
    kept = next(parts.glob("*")).stat().st_mtime_ns
    assert collect(place, parts) == 0
    assert next(iter(sorted(parts.glob("*")))).stat().st_mtime_ns == kept
    for one, other in zip(sorted(whole.glob("*")), sorted(parts.glob("*")), strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_training_takes_the_states_and_begins_with_the_prior_that_is_named(place, tmp_path, capsys):
    assert collect(place, tmp_path / "states") == 0
    settings = {"modality": "ct", "widths": [8, 16], "minutes": 0.0, "held_out": ["held"], "crop": {"size": 16}}
    folders = {"--volumes": place / "volumes", "--state": tmp_path / "state", "--out": tmp_path / "out"}
    arguments = [str(word) for pair in folders.items() for word in pair]
    arguments += ["--settings", json.dumps(settings), "--start", str(place / "prior")]
    assert train.main([*arguments, "--chain", str(tmp_path / "states")]) == 0
    before, after = (load_prior(folder).network.state_dict() for folder in (place / "prior", tmp_path / "out"))
    assert all(torch.equal(a, b) for a, b in zip(before.values(), after.values(), strict=True))
    card = json.loads((tmp_path / "out" / CARD).read_text())
    assert card["training"]["chain_slabs"] == 3
    assert card["training"]["start"]["name"] == "prior"
    assert card["training"]["start"]["share"] == 0
    assert "chain states of 3 slabs" in (tmp_path / "out" / "README.md").read_text()
    (tmp_path / "empty").mkdir()
    assert train.main([*arguments, "--chain", str(tmp_path / "empty")]) == 1
    assert "holds no chain states" in capsys.readouterr().err
