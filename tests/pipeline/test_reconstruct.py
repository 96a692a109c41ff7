import json

import numpy as np
import pytest
import torch

from data.kspace_common import KSpace
from data.nifti import read_volume
from data.volume import Volume
from models.gaussian import GaussianPrior
from models.prior import PriorError
from pipeline import reconstruct
from pipeline.adopt_mr import adopt_mr
from pipeline.measure_ct import simulate_ct
from pipeline.measure_mr import simulate_mr
from pipeline.measurement import read_tensors, unpack_kspace, write_measurement
from pipeline.problem import with_start
from pipeline.settings import CtMeasureSettings, MrMeasureSettings, ReconstructSettings

AFFINE = np.diag([-4.0, -4.0, 3.0, 1.0])
SETTINGS = {"prior": "weights", "samples": 2, "levels": 4, "seed": 3, "device": "cpu"}


class CountingPrior(GaussianPrior):
    """Independent voxels about water; raises KeyboardInterrupt at the call that `stop` names."""

    calls = 0
    stop = None

    def denoise(self, x, sigma, spacing_mm, noise_correlation=0.0):
        type(self).calls += 1
        if type(self).calls == type(self).stop:
            raise KeyboardInterrupt
        return super().denoise(x, sigma, spacing_mm, noise_correlation)


@pytest.fixture
def prior(monkeypatch):
    CountingPrior.calls, CountingPrior.stop = 0, None
    made = CountingPrior(torch.tensor(0.25), mean=-0.5)
    monkeypatch.setattr(reconstruct, "load_prior", lambda directory, device: made)
    return CountingPrior


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measurement")
    at = (np.arange(24) - 11.5) * 4
    disc = np.where(np.hypot(at[None], at[:, None]) < 30, 0.0, -1000.0)
    volume = Volume.from_affine(np.repeat(disc[None], 3, axis=0), AFFINE)
    settings = CtMeasureSettings(working_matrix=None, views=20, photons=1e4)
    measurement, truth = simulate_ct(volume, settings, "disc")
    write_measurement(folder, measurement)
    return folder, truth


def run(measured, out, **changes):
    settings = json.dumps(SETTINGS | changes)
    return reconstruct.main(
        ["--measurement", str(measured[0]), "--solver", "pam", "--out", str(out), "--settings", settings]
    )


def test_samples_point_and_report_are_written_in_hu(tmp_path, prior, measured):
    out = tmp_path / "pam"
    assert run(measured, out) == 0
    tensors, metadata = read_tensors(out / "samples.safetensors")
    samples, truth = tensors["samples"], measured[1]
    point = read_volume(out / "point.nii.gz")
    report = json.loads((out / "run.json").read_text())
    assert samples.shape == (2, *truth.shape)
    assert samples.dtype == np.float32
    assert metadata["units"] == "HU"
    # The prior alone, half air and half water everywhere, is 500 HU off.
    assert np.sqrt(np.mean((point.array_zyx - truth) ** 2)) < 250
    assert not np.array_equal(samples[0], samples[1])
    np.testing.assert_allclose(point.affine, AFFINE)
    assert prior.calls == report["network_calls"] == 16
    assert [record["nfe"] for record in report["samples"]] == [4, 4]
    assert report["mean"]["nfe"] == 8
    assert report["chi2"] == [record["chi2"] for record in report["samples"]]
    assert 0.3 < report["point"]["chi2"] < 3
    assert report["seed"] == 3
    assert list(tmp_path.iterdir()) == [out]


def test_no_point_estimate_when_none_is_asked_for(tmp_path, prior, measured):
    assert run(measured, tmp_path / "pam", point=False) == 0
    assert not (tmp_path / "pam" / "point.nii.gz").exists()
    assert json.loads((tmp_path / "pam" / "run.json").read_text())["point"] is None
    assert prior.calls == 8


@pytest.mark.parametrize("stop", [2, 7, 12, 16])
def test_a_killed_job_resumes_to_the_same_bits(tmp_path, prior, measured, stop):
    assert run(measured, tmp_path / "unbroken" / "pam") == 0
    prior.calls, prior.stop = 0, stop
    with pytest.raises(KeyboardInterrupt):
        run(measured, tmp_path / "broken" / "pam")
    assert not (tmp_path / "broken" / "pam").exists()
    prior.calls, prior.stop = 0, None
    assert run(measured, tmp_path / "broken" / "pam") == 0
    assert prior.calls == 16 - (stop - 1)
    for name in ("samples.safetensors", "point.nii.gz"):
        assert (tmp_path / "broken" / "pam" / name).read_bytes() == (tmp_path / "unbroken" / "pam" / name).read_bytes()
    assert not list((tmp_path / "broken").glob(".*"))


def test_states_of_other_settings_are_not_taken_up(tmp_path, prior, measured):
    prior.stop = 7
    with pytest.raises(KeyboardInterrupt):
        run(measured, tmp_path / "pam")
    prior.calls, prior.stop = 0, None
    assert run(measured, tmp_path / "pam", seed=4) == 0
    assert prior.calls == 16


def test_a_sample_does_not_depend_on_how_many_there_are(tmp_path, prior, measured):
    assert run(measured, tmp_path / "a", samples=1) == 0
    assert run(measured, tmp_path / "b", samples=3, point=False) == 0
    one, three = (read_tensors(tmp_path / name / "samples.safetensors")[0]["samples"] for name in ("a", "b"))
    np.testing.assert_array_equal(one[0], three[0])


def test_a_start_at_another_noise_level_is_another_run(tmp_path, prior, measured):
    assert run(measured, tmp_path / "a", point=False) == 0
    assert run(measured, tmp_path / "b", point=False, sigma_init=2.0) == 0
    reports = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("a", "b")]
    assert reports[1]["sigma_init"] == 2.0
    first, second = (read_tensors(tmp_path / name / "samples.safetensors")[0]["samples"] for name in ("a", "b"))
    assert not np.array_equal(first, second)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_one_sentence(tmp_path, prior, measured, capsys):
    assert run(measured, tmp_path / "pam", device="cuda") == 1
    assert "no such GPU" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sampels": 3}, "did you mean 'samples'"),
        ({"samples": 0}, "reconstruct.samples"),
        ({"overrides": {"pam": {"trsut": 2}}}, "did you mean 'trust'"),
        ({"preset": "none"}, "unknown preset"),
        ({"device": "tpu"}, "reconstruct.device"),
        ({"levels": "many"}, "reconstruct.levels"),
    ],
)
def test_bad_settings_are_one_sentence_and_leave_nothing(tmp_path, prior, measured, capsys, changes, words):
    assert run(measured, tmp_path / "pam", **changes) == 1
    error = capsys.readouterr().err.strip()
    assert words in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_prior_that_does_not_fit_is_refused_before_any_work(tmp_path, prior, measured, capsys, monkeypatch):
    def misfit(self, modality, pixel_mm):
        assert (modality, pixel_mm) == ("ct", 4.0)
        raise PriorError("prior x was trained for mr, the study is ct; choose another prior in the config.")

    monkeypatch.setattr(GaussianPrior, "check_fits", misfit)
    assert run(measured, tmp_path / "pam") == 1
    assert capsys.readouterr().err.strip().startswith("prior x was trained for mr")
    assert prior.calls == 0


def test_a_presets_own_number_of_levels_wins_over_the_general_one():
    settings = ReconstructSettings(levels=12, preset="paper")
    assert reconstruct.solver_settings("diffusion_mbir", settings).levels != 12
    assert reconstruct.solver_settings("dds", ReconstructSettings(levels=12)).levels == 12
    changed = ReconstructSettings(levels=12, overrides={"dds": {"levels": 5}})
    assert reconstruct.solver_settings("dds", changed).levels == 5


def test_measured_kspace_gives_magnitudes_and_a_heldout_error(tmp_path, monkeypatch):
    y, x = np.meshgrid(np.linspace(-1, 1, 48), np.linspace(-1, 1, 40), indexing="ij")
    head = 500.0 * (np.hypot(x, y) < 0.8) * np.ones((2, 1, 1))
    full = MrMeasureSettings(acceleration=1.0, coils=4, sensitivities="known")
    simulated, truth = simulate_mr(Volume.from_affine(head.astype(np.float32), np.diag([2.0, 2, 4, 1])), full, "head")
    mask = np.random.default_rng(0).random((48, 40)) < 0.5
    mask[18:31, 14:27] = True
    kspace = unpack_kspace(simulated.tensors)[0] * mask
    kspace = KSpace(kspace, simulated.affine, simulated.spacing_mm)
    measured = adopt_mr(kspace, MrMeasureSettings(source="measured"), "head")[0]
    write_measurement(tmp_path / "m", with_start(measured))
    monkeypatch.setattr(reconstruct, "load_prior", lambda *_: GaussianPrior(torch.tensor(0.25), modality="mr"))
    assert run((tmp_path / "m", truth), tmp_path / "pam") == 0
    report = json.loads((tmp_path / "pam" / "run.json").read_text())
    samples = read_tensors(tmp_path / "pam" / "samples.safetensors")[0]["samples"]
    assert samples.min() >= 0
    point = read_volume(tmp_path / "pam" / "point.nii.gz").array_zyx
    inside = truth > 250
    assert np.abs(point - truth)[inside].mean() < 0.1 * truth.max()
    assert 0 < report["mean"]["heldout_error"] < report["samples"][0]["heldout_error"] < 1
    assert report["units_per_normalised"] == pytest.approx(500, rel=0.1)
