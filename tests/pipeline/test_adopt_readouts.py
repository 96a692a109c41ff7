"""Radial and spiral data from a file to an image: ingest, measure, start, CG-SENSE, samples, held-out readouts."""

import builtins
import json
import os
import shutil
import subprocess

import numpy as np
import pytest
import torch

from data.kspace_common import KSpace
from models.gaussian import GaussianPrior
from operators.coils import simulate_sensitivities
from operators.noncartesian_mri import NonCartesianMri
from pipeline import reconstruct
from pipeline.adopt_mr import adopt_mr
from pipeline.ingest import ingest, ingest_settings
from pipeline.kspace import noise_of_readouts
from pipeline.measure import main
from pipeline.measurement import read_measurement, write_measurement
from pipeline.problem import load_problem, with_start
from pipeline.problem_mr import mr_problem
from pipeline.settings import MrMeasureSettings, ReconstructSettings
from solvers.adaptation import split_measurement
from solvers.classical.registry import CLASSICAL
from solvers.draws import Draws
from tests.data.raw_builder import Scan, Writer
from tests.operators.helpers import read_cfl, seeded, write_cfl
from tests.operators.test_mri import phantom
from tests.operators.test_noncartesian import spiral

pytest.importorskip("finufft", reason="finufft is not installed: pip install -r requirements-extra.txt")
MATRIX, COILS, SIGMA = 64, 6, 0.005


def radial_path(spokes):
    angle = np.pi * np.arange(spokes) / spokes
    radius = np.arange(2 * MATRIX) / 2 - MATRIX / 2
    return np.stack([radius * np.sin(angle)[:, None], radius * np.cos(angle)[:, None]], axis=-1).astype(np.float32)


def simulated(path, slices=1, noise=SIGMA):
    """(k-space (z coils readouts samples), image (y x), sensitivities) of a phantom along readouts (readouts n 2)."""
    image = phantom((MATRIX, MATRIX)).to(torch.complex64)
    maps = simulate_sensitivities(COILS, (slices, MATRIX, MATRIX), seeded(1))
    operator = NonCartesianMri(torch.from_numpy(path.reshape(-1, 2)), maps)
    samples = operator(image.expand(slices, -1, -1).contiguous())
    samples = samples + noise * torch.randn(samples.shape, dtype=torch.complex64, generator=seeded(2)) * 2**0.5
    return samples.numpy().reshape(slices, COILS, *path.shape[:2]), image.real.numpy(), maps


def raw(array, path):
    return KSpace(array, np.diag([2.0, 2, 4, 1]), (4.0, 2.0, 2.0), trajectory=path, matrix=(MATRIX, MATRIX))


def test_noise_of_oversampled_straight_readouts_is_what_lies_outside_the_object():
    path = radial_path(31)
    sigma = noise_of_readouts(simulated(path)[0], path, "k")
    np.testing.assert_allclose(sigma, SIGMA, rtol=0.06)


@pytest.mark.parametrize("kind", ["radial", "spiral"])
def test_the_problem_is_consistent_and_cg_sense_finds_the_image(kind, record_property):
    """Half the readouts that Nyquist asks for; the relative error is on the phantom's own scale."""
    path = radial_path(51) if kind == "radial" else spiral(12, MATRIX).numpy().reshape(12, -1, 2)
    array, image, _ = simulated(path)
    measurement, truth = adopt_mr(raw(array, path), MrMeasureSettings(source="measured"), "k")
    assert truth is None
    readouts = measurement.metadata["readouts"][0]
    assert readouts == path.shape[0] - max(1, round(0.03 * path.shape[0]))
    measurement = with_start(measurement)
    problem, units = mr_problem(measurement)
    estimate = CLASSICAL["cg_sense"](problem, CLASSICAL["cg_sense"].settings({}))
    inside = image > 0
    error = np.abs(units.to_physical(estimate)[0] - image)[inside].mean() / image[inside].mean()
    noise = measurement.metadata["heldout_noise"]
    heldout = units.heldout.error(estimate)
    record_property("measured", f"{kind}: mean error {100 * error:.1f} %, held-out {heldout:.3f}, noise {noise:.3f}")
    assert error < 0.04
    assert heldout < 0.1


def test_zero_filled_is_density_compensated_and_weights_keep_the_noise_model():
    path = radial_path(101)
    array, image, maps = simulated(path, noise=0.02)
    measurement, _ = adopt_mr(raw(array, path), MrMeasureSettings(source="measured", holdout_fraction=0.0), "k")
    tensors = measurement.tensors | {"sensitivities": maps.numpy()}
    problem, units = mr_problem(type(measurement)(tensors, measurement.metadata))
    truth = torch.from_numpy(image).to(torch.complex64)[None] / units.scale
    assert problem.chi2(truth) == pytest.approx(1, abs=0.05)
    zero_filled = CLASSICAL["zero_filled"](problem, CLASSICAL["zero_filled"].settings({}))
    inside = image > 0
    assert np.abs(units.to_physical(zero_filled)[0] - image)[inside].mean() < 0.1


@pytest.mark.oracle
@pytest.mark.interop("read", "radial CG-SENSE", "BART 0.8 pics")
def test_cg_sense_of_radial_data_is_barts(tmp_path, record_property):
    """The same maps, no regularisation to speak of: images agree up to BART's scale."""
    if shutil.which("bart") is None:
        pytest.skip("BART (the Debian package bart) is not installed")
    path = radial_path(71)
    array, image, maps = simulated(path)
    measurement, _ = adopt_mr(raw(array, path), MrMeasureSettings(source="measured", holdout_fraction=0.0), "k")
    tensors = measurement.tensors | {"sensitivities": maps.numpy()}
    problem, units = mr_problem(type(measurement)(tensors, measurement.metadata))
    settings = CLASSICAL["cg_sense"].settings({"weight": 1e-4, "iterations": 60})
    ours = (CLASSICAL["cg_sense"](problem, settings)[0] * units.scale).numpy()
    points = np.concatenate([path[..., ::-1], np.zeros((*path.shape[:2], 1))], axis=-1).transpose(2, 1, 0)
    write_cfl(tmp_path / "t", points)
    write_cfl(tmp_path / "k", array[0].transpose(2, 1, 0)[None])
    write_cfl(tmp_path / "m", maps[0].numpy().transpose(2, 1, 0)[:, :, None])
    command = ["bart", "pics", "-l2", "-r", "1e-4", "-i", "60", "-t", "t", "k", "m", "x"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60, env=environment)
    theirs = read_cfl(tmp_path / "x").reshape(MATRIX, MATRIX).T
    inside = image > 0
    factor = np.vdot(theirs[inside], ours[inside]) / np.vdot(theirs[inside], theirs[inside])
    worst = np.linalg.norm((ours - factor * theirs)[inside]) / np.linalg.norm(ours[inside])
    record_property("measured", f"relative difference {100 * worst:.1f} % inside the object")
    assert worst < 0.03


def test_readouts_are_thinned_on_request():
    path = radial_path(101)
    array, image, _ = simulated(path)
    settings = MrMeasureSettings(source="measured", undersample=True, acceleration=3.0, holdout_fraction=0.0)
    measurement, truth = adopt_mr(raw(array, path), settings, "k")
    assert measurement.metadata["readouts"] == [34, 2 * MATRIX]
    inside = image > 0
    assert np.abs(truth[0] - image)[inside].mean() < 0.06


def write_radial(folder, slices=2):
    path = radial_path(41)
    array, image, _ = simulated(path, slices)
    folder.mkdir()
    scan = Scan((MATRIX, MATRIX, 1), (128.0, 128.0, 4.0), trajectory="radial")
    with Writer(folder / "radial.h5", scan) as writer:
        for z in range(slices):
            for spoke in range(len(path)):
                traj = np.ascontiguousarray(path[spoke, :, ::-1] / MATRIX)
                writer.line(array[z, :, spoke], traj=traj, slice=z, kspace_encode_step_1=spoke)
    return image


@pytest.mark.interop("read", "ISMRMRD .h5, radial", "ismrmrd-python")
def test_a_radial_ismrmrd_file_runs_to_samples(tmp_path, monkeypatch, record_property):
    image = write_radial(tmp_path / "study")
    rows = ingest(tmp_path / "study", tmp_path / "ingest", ingest_settings({"modality": "mr"}))
    assert rows[0]["shape_zyx"] == [2, MATRIX, MATRIX]
    series = tmp_path / "ingest" / rows[0]["series"]
    assert main(["--input", str(series), "--out", str(tmp_path / "m"), "--settings", '{"source": "measured"}']) == 0
    assert read_measurement(tmp_path / "m").tensors["samples"].shape == (2, COILS, 40 * 2 * MATRIX)
    monkeypatch.setattr(reconstruct, "load_prior", lambda *_: GaussianPrior(torch.tensor(0.25), modality="mr"))
    settings = ReconstructSettings(prior="weights", samples=2, levels=3, seed=1, device="cpu")
    reconstruct.run(tmp_path / "m", "pam", tmp_path / "pam", settings)
    record = json.loads((tmp_path / "pam" / "run.json").read_text())
    problem, units = load_problem(tmp_path / "m")
    start = np.abs(units.to_physical(problem.x_init)[0] - image)[image > 0].mean()
    record_property("measured", f"held-out error {record['mean']['heldout_error']:.3f}, start within {start:.3f} of 1")
    assert record["mean"]["heldout_error"] < 0.1
    assert start < 0.1


def test_without_finufft_the_stage_says_so_in_one_sentence(tmp_path, monkeypatch, capsys):
    write_radial(tmp_path / "study", 1)
    rows = ingest(tmp_path / "study", tmp_path / "ingest", ingest_settings({"modality": "mr"}))
    real = builtins.__import__

    def without(name, *arguments):
        if name == "finufft":
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    series = str(tmp_path / "ingest" / rows[0]["series"])
    assert main(["--input", series, "--out", str(tmp_path / "m"), "--settings", '{"source": "measured"}']) == 1
    error = capsys.readouterr().err
    assert "requirements-extra.txt" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "m").exists()


def test_slices_may_have_trajectories_of_their_own(tmp_path):
    path = radial_path(41)
    array, _, _ = simulated(path, 2)
    both = np.stack([path, path])
    kspace = raw(array, both)
    measurement, _ = adopt_mr(kspace, MrMeasureSettings(source="measured", holdout_fraction=0.0), "k")
    alike, _ = adopt_mr(raw(array, path), MrMeasureSettings(source="measured", holdout_fraction=0.0), "k")
    np.testing.assert_allclose(
        measurement.tensors["sensitivities"], alike.tensors["sensitivities"], rtol=1e-3, atol=1e-3
    )
    write_measurement(tmp_path / "m", with_start(measurement))
    problem, _ = load_problem(tmp_path / "m")
    assert problem.x_init.shape == (2, MATRIX, MATRIX)


def test_adaptation_keeps_whole_readouts_back():
    path = radial_path(41)
    array, _, _ = simulated(path)
    measurement, _ = adopt_mr(raw(array, path), MrMeasureSettings(source="measured", holdout_fraction=0.0), "k")
    problem, _ = mr_problem(measurement)
    fit, test = split_measurement(problem, 0.2, Draws(0))
    held = (test.weights > 0).reshape(1, COILS, 41, 2 * MATRIX)
    assert held.any()
    assert torch.equal(held, held[..., :1].expand_as(held))
    assert torch.equal((fit.weights > 0).reshape(held.shape), ~held)
    x = problem.x_init
    expected = problem.A.adjoint(fit.weights * problem.A(x))
    assert float((fit.normal(x) - expected).norm() / expected.norm()) < 1e-4
