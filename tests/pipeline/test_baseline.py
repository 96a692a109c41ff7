import json

import numpy as np
import pytest

from data.nifti import read_volume
from data.volume import Volume
from pipeline.baseline import main
from pipeline.measure_ct import simulate_ct
from pipeline.measure_mr import simulate_mr
from pipeline.measurement import write_measurement
from pipeline.problem import with_start
from pipeline.settings import CtMeasureSettings, MrMeasureSettings


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Folders and truths of a small CT and a small MR measurement by modality."""
    at = np.linspace(-1, 1, 48)
    disc = 1 / (1 + np.exp((np.hypot(at[None], at[:, None]) - 0.7) * 40))
    ct = Volume.from_affine((1000 * (disc - 1))[None].repeat(3, 0), np.diag([-2.0, -2.0, 3.0, 1.0]))
    mr = Volume.from_affine((400 * disc)[None].repeat(3, 0), np.diag([2.0, 2.0, 3.0, 1.0]))
    found = {}
    for modality, (measurement, truth) in {
        "ct": simulate_ct(ct, CtMeasureSettings(working_matrix=24, views=40, photons=1e5), "disc"),
        "mr": simulate_mr(mr, MrMeasureSettings(acceleration=2, coils=4), "disc"),
    }.items():
        folder = tmp_path_factory.mktemp(modality)
        write_measurement(folder, with_start(measurement))
        found[modality] = folder, truth, measurement.affine
    return found


def run(folder, method, out, settings="{}"):
    return main(["--measurement", str(folder), "--method", method, "--out", str(out), "--settings", settings])


@pytest.mark.parametrize(
    ("modality", "method", "settings"),
    [
        ("ct", "fbp", {"filter": "ramlak", "cutoff": 1.0}),
        ("ct", "cgls", {}),
        ("ct", "tv", {"iterations": 20}),
        ("mr", "zero_filled", {}),
        ("mr", "cg_sense", {}),
        ("mr", "wavelet", {"iterations": 20}),
        ("mr", "tv", {"iterations": 20}),
    ],
)
def test_every_baseline_is_near_the_truth_in_physical_units(tmp_path, measured, modality, method, settings):
    folder, truth, affine = measured[modality]
    out = tmp_path / f"{method}.nii.gz"
    assert run(folder, method, out, json.dumps({"modality": modality} | settings)) == 0
    volume = read_volume(out)
    record = json.loads((tmp_path / f"{method}.json").read_text())
    step = truth.max() - truth.min()
    assert np.sqrt(np.mean((volume.array_zyx - truth) ** 2)) < 0.15 * step
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
    assert record["nfe"] == 0
    assert record["chi2"] > 0
    assert record["seconds"] > 0
    assert settings.items() <= record["settings"].items()
    assert record["heldout_error"] is None


@pytest.mark.parametrize(
    ("method", "settings", "words"),
    [
        ("fpb", "{}", "choose one of"),
        ("wavelet", "{}", "not made for CT"),
        ("tv", '{"wieght": 3}', "did you mean 'weight'"),
        ("tv", '{"weight": -3}', "must be positive"),
    ],
)
def test_bad_settings_are_one_sentence_and_leave_nothing(tmp_path, measured, capsys, method, settings, words):
    assert run(measured["ct"][0], method, tmp_path / "x.nii.gz", settings) == 1
    error = capsys.readouterr().err.strip()
    assert words in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())
