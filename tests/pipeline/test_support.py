"""The support stage: predictions of held-out data, the spread between priors, and the files of a run."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from data.errors import InputError
from data.nifti import read_volume, write_volume
from data.volume import Volume
from models.gaussian import GaussianPrior
from pipeline import support
from pipeline.adopt_mr import hold_out_kspace
from pipeline.measure import measure
from pipeline.measure_ct import hold_out_views, simulate_ct
from pipeline.measure_mr import simulate_mr
from pipeline.measurement import unpack_kspace, write_measurement, write_tensors
from pipeline.problem import load_problem
from pipeline.settings import CtMeasureSettings, MrMeasureSettings, UncertaintySettings
from pipeline.units import HeldOut
from solvers.registry import solver_settings
from tests.solvers.problems import normal, slice_matrix

SHAPE = (12, 8, 8)


def disc_volume(matrix: int = 48, high: float = 0.0) -> Volume:
    """Three slices of a smooth-edged disc of value `high` in air of high - 1000, on 3 mm pixels."""
    at = (np.arange(matrix) - (matrix - 1) / 2) * 3.0
    radius = np.hypot(at[None] - 4, at[:, None])
    disc = high - 1000 / (1 + np.exp((45 - radius) / 2))
    return Volume.from_affine(np.repeat(disc[None], 3, axis=0).astype(np.float32), np.diag([3.0, 3.0, 3.0, 1.0]))


def heldout_world(dtype, draws: int, overstate: float, sigma: float, seed: int = 1) -> tuple[HeldOut, torch.Tensor]:
    """Truth and samples about one centre, the samples' spread times `overstate`; data of the truth with noise sigma."""
    A = slice_matrix(40, SHAPE[1:], dtype)
    samples = overstate * normal((draws, *SHAPE), dtype, seed + 10)
    y = A(normal(SHAPE, dtype, seed + 1))
    y = y + sigma * normal(tuple(y.shape), dtype, seed + 2)
    weights = torch.full((1, 1), sigma**-2)
    return HeldOut(A, y, weights), samples


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("draws", [3, 8])
def test_exchangeable_samples_predict_held_out_data(dtype, draws):
    check = support.heldout_check(*heldout_world(dtype, draws, 1.0, 0.1))
    assert check["count"] == 12 * 40 * (2 if dtype.is_complex else 1)
    assert check["z2"] == pytest.approx(1, abs=0.2)
    assert check["coverage90"] == pytest.approx(0.9, abs=0.05)
    assert check["noise_share"] < 0.2


def test_too_sure_samples_are_found_out_and_too_wide_ones_too():
    sure = support.heldout_check(*heldout_world(torch.float32, 8, 0.3, 0.05))
    assert sure["z2"] > 3
    assert sure["coverage90"] < 0.6
    wide = support.heldout_check(*heldout_world(torch.float32, 8, 3.0, 0.05))
    assert wide["z2"] < 0.25
    assert wide["coverage90"] > 0.98


def test_data_of_noise_alone_say_nothing_of_the_samples_and_the_check_says_so():
    check = support.heldout_check(*heldout_world(torch.float32, 4, 0.3, 20.0))
    assert check["z2"] == pytest.approx(1, abs=0.15)
    assert check["noise_share"] > 0.99


def test_one_wrong_place_has_the_largest_share():
    heldout, samples = heldout_world(torch.float32, 8, 1.0, 0.1)
    assert support.heldout_check(heldout, samples)["worst_share"] < 0.25
    y = heldout.y.clone()
    y[3, :4] += 100 * y.std()
    assert support.heldout_check(HeldOut(heldout.A, y, heldout.weights), samples)["worst_share"] > 0.9


def test_places_without_weight_are_left_out():
    heldout, samples = heldout_world(torch.float32, 4, 1.0, 0.1)
    weights = heldout.weights.expand(heldout.y.shape).clone()
    weights[:, 10:] = 0
    y = torch.where(weights > 0, heldout.y, 1e6)
    check = support.heldout_check(HeldOut(heldout.A, y, weights), samples)
    assert check["count"] == 12 * 10
    assert check["z2"] == pytest.approx(1, abs=0.4)


def test_spread_between_priors_is_that_of_two_draws():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 3, (2, 12, 40, 40))
    within = np.full(first.shape, 4.0)
    between, share = support.between_priors(first, second, within, (2.0, 2.0, 2.0))
    assert np.sqrt(np.mean(between**2)) == pytest.approx(3, rel=0.05)
    assert share == pytest.approx(9 / 25, rel=0.1)
    assert support.between_priors(first, first, within, (2.0, 2.0, 2.0))[1] == 0


def ct_measurement(views: int = 12, heldout: int = 2):
    """((measurement, truth), the measurement with some views held out)."""
    settings = CtMeasureSettings(views=views, working_matrix=24, noise_of_largest_ray=0.02)
    whole = simulate_ct(disc_volume(), settings, "v")
    return whole, hold_out_views(whole[0], heldout)


def test_held_out_views_and_the_others_are_the_measurement():
    (whole, _), split = ct_measurement(12, 3)
    angles = whole.metadata["beam"]["angles_rad"]
    kept, heldout = split.metadata["beam"]["angles_rad"], split.metadata["heldout_beam"]["angles_rad"]
    assert len(heldout) == 3
    assert sorted([*kept, *heldout]) == sorted(angles)
    for name in ("line_integrals", "weights"):
        for array, views in ((split.tensors[name], kept), (split.tensors[f"heldout_{name}"], heldout)):
            places = [angles.index(angle) for angle in views]
            np.testing.assert_array_equal(array, whole.tensors[name][:, places])
    assert hold_out_views(whole, 0) is whole


def test_the_truth_predicts_held_out_views_to_within_noise(tmp_path):
    (_, truth), split = ct_measurement()
    write_measurement(tmp_path, split)
    problem, units = load_problem(tmp_path)
    assert problem.y.shape[1] == 10
    u = torch.from_numpy(truth / 1000)
    heldout = units.heldout
    chi2 = float((heldout.weights * (heldout.y - heldout.A(u)).square()).mean())
    assert chi2 == pytest.approx(problem.chi2(u), rel=0.3)
    assert heldout.error(u) < 0.1 * heldout.error(torch.zeros_like(u) - 1)


def test_simulated_kspace_lines_are_held_out_where_asked_for(tmp_path):
    settings = MrMeasureSettings(coils=2, acceleration=2, noise_fraction=0.02, calibration_fraction=0.2)
    measurement, _ = simulate_mr(disc_volume(64, 1000.0), settings, "v")
    assert "heldout_mask" not in measurement.tensors
    split = hold_out_kspace(measurement, 0.1, 0)
    whole = unpack_kspace(measurement.tensors)[0]
    parts = [unpack_kspace(split.tensors, prefix)[0] for prefix in ("", "heldout_")]
    np.testing.assert_array_equal(parts[0] + parts[1], whole)
    assert split.metadata["settings"]["holdout_fraction"] == 0.1
    write_measurement(tmp_path, split)
    problem, units = load_problem(tmp_path)
    sigma2 = (measurement.metadata["noise"]["sigma_per_coil"][0] / (units.scale * problem.A.factor)) ** 2
    weights = units.heldout.weights
    assert float(weights[weights > 0].mean()) == pytest.approx(1 / sigma2, rel=1e-4)
    assert bool((weights[problem.weights > 0] == 0).all())


@pytest.mark.parametrize(
    ("section", "heldout"),
    [
        ({"modality": "ct", "working_matrix": 24, "views": 12, "holdout_views": 2}, "heldout_line_integrals"),
        ({"modality": "ct", "working_matrix": 24, "views": 12}, None),
        ({"modality": "mr", "coils": 2, "acceleration": 2, "holdout_fraction": "1e-1"}, "heldout_mask"),
        ({"modality": "mr", "coils": 2, "acceleration": 2}, None),
    ],
)
def test_nothing_simulated_is_held_out_unless_the_config_asks(tmp_path, section, heldout):
    volume = disc_volume(64, 1000.0 if section["modality"] == "mr" else 0.0)
    write_volume(tmp_path / "volume.nii.gz", volume.array_zyx, volume.affine)
    measurement, _ = measure(tmp_path, section)
    found = [name for name in measurement.tensors if name.startswith("heldout")]
    assert (heldout in found) if heldout else not found


@pytest.mark.parametrize("count", [11, -1, "many"])
def test_too_many_views_held_out_are_refused(tmp_path, count):
    volume = disc_volume()
    write_volume(tmp_path / "volume.nii.gz", volume.array_zyx, volume.affine)
    with pytest.raises(InputError, match="holdout_views"):
        measure(tmp_path, {"modality": "ct", "working_matrix": 24, "views": 12, "holdout_views": count})


def reconstruct_by_hand(folder, problem, units, samples: torch.Tensor) -> None:
    """The files that the reconstruct stage leaves, for samples in prior units."""
    shared = {"affine": units.affine.tolist(), "modality": units.modality, "units": units.name, "solver": "pam"}
    physical = np.stack([units.to_physical(sample) for sample in samples])
    write_tensors(folder / "samples.safetensors", {"samples": physical}, shared)
    record = {
        "solver": "pam",
        "settings": {"device": "cpu"},
        "solver_settings": asdict(solver_settings("pam", {"levels": 2})),
        "seed": 0,
        "sigma_init": problem.sigma_init,
        "point": None,
        "chi2": [problem.chi2(sample) for sample in samples],
    }
    (folder / "run.json").write_text(json.dumps(record))


def test_the_stage_writes_maps_checks_and_the_spread_between_priors(tmp_path, monkeypatch):
    _, split = ct_measurement()
    write_measurement(tmp_path / "m", split)
    problem, units = load_problem(tmp_path / "m")
    samples = problem.x_init + 0.05 * normal((3, *problem.shape), torch.float32, 0)
    reconstruct_by_hand(tmp_path / "r", problem, units, samples)
    monkeypatch.setattr(support, "load_prior", lambda *_: GaussianPrior.independent(0.5, -0.5))
    support.run(tmp_path / "m", tmp_path / "r", tmp_path / "u", UncertaintySettings(second_prior="other"))
    volumes = {name: read_volume(tmp_path / f"u/{name}.nii.gz").array_zyx for name in support.DESCRIPTIONS}
    assert all(np.isfinite(array).all() and array.shape == tuple(problem.shape) for array in volumes.values())
    assert 0 <= volumes["support"].min() <= volumes["support"].max() <= 1
    total = np.sqrt(np.mean(volumes["sd_measured"] ** 2 + volumes["sd_null"] ** 2))
    assert 20 < total < 60
    checks = json.loads((tmp_path / "u/checks.json").read_text())
    assert len(checks["chi2"]) == 3
    assert set(checks["heldout"]) == {"z2", "coverage90", "worst_share", "noise_share", "count"}
    assert 0 < checks["epistemic_share"] < 1
    arguments = ["--measurement", str(tmp_path / "m"), "--reconstruction", str(tmp_path / "r")]
    assert support.main([*arguments, "--out", str(tmp_path / "u")]) == 0
    assert not (tmp_path / "u/epistemic.nii.gz").exists()
    assert "epistemic_share" not in json.loads((tmp_path / "u/checks.json").read_text())


@pytest.mark.parametrize("with_phase", [True, False])
def test_magnitudes_get_the_samples_phase_or_the_starts(tmp_path, with_phase):
    settings = MrMeasureSettings(coils=2, acceleration=2, calibration_fraction=0.2)
    measurement, _ = simulate_mr(disc_volume(48, 1000.0), settings, "v")
    write_measurement(tmp_path, measurement)
    problem, units = load_problem(tmp_path)
    samples = torch.stack([problem.x_init, 1.1 * problem.x_init])
    magnitudes = np.stack([units.to_physical(sample) for sample in samples])
    phase = {"phase": samples.angle().numpy().astype(np.float16)} if with_phase else {}
    write_tensors(tmp_path / "samples.safetensors", {"samples": magnitudes} | phase, {})
    draws = support.read_draws(tmp_path, problem, units)
    assert draws.exact is with_phase
    inside = problem.x_init.abs() > 0.3
    difference = (draws.samples[0] - problem.x_init)[inside].abs().max()
    assert difference < (0.01 if with_phase else 0.5)


def test_one_sample_is_refused_in_one_sentence(tmp_path, capsys):
    _, split = ct_measurement()
    write_measurement(tmp_path / "m", split)
    problem, units = load_problem(tmp_path / "m")
    reconstruct_by_hand(tmp_path / "r", problem, units, problem.x_init[None])
    arguments = ["--measurement", str(tmp_path / "m"), "--reconstruction", str(tmp_path / "r")]
    assert support.main([*arguments, "--out", str(tmp_path / "u")]) == 1
    assert "one sample has no spread" in capsys.readouterr().err
