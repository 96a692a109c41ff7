import numpy as np
import pytest
import torch

from data.volume import Volume
from operators.cartesian_mri import CartesianMri
from operators.coils import simulate_sensitivities
from operators.ct_geometry import ImageGrid, ParallelBeam, view_angles
from operators.ct_projector import CtProjector
from operators.fourier import fft2
from operators.norm import normalise, operator_norm
from operators.sampling_masks import random_1d
from pipeline.adopt_mr import heldout_noise
from pipeline.measure_ct import simulate_ct
from pipeline.measurement import Measurement, pack_kspace, read_measurement, unpack_kspace, write_measurement
from pipeline.problem import load_problem, with_start
from pipeline.problem_ct import ct_sigma_init
from pipeline.problem_mr import mr_sigma_init
from pipeline.settings import CtMeasureSettings
from pipeline.start_level import LARGEST_SIGMA_INIT, LEAST_SIGMA_INIT

AFFINE = np.diag([-2.0, -2.0, 3.0, 1.0])


def body(matrix=64, slices=3, pixel_mm=2.0):
    """A smooth-edged cylinder of water with an insert; HU (z y x)."""
    at = (np.arange(matrix) - (matrix - 1) / 2) * pixel_mm
    radius = np.hypot(at[None] - 4, at[:, None])
    edge = 1 / (1 + np.exp((radius - 45) / 1.5))
    insert = 300 * np.exp(-((at[None] - 15) ** 2 + (at[:, None] + 10) ** 2) / 200)
    return np.repeat(((1000 + insert) * edge - 1000)[None], slices, axis=0).astype(np.float32)


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ct")
    settings = CtMeasureSettings(working_matrix=32, views=20, noise_of_largest_ray=0.01)
    measurement, truth = simulate_ct(Volume.from_affine(body(), AFFINE), settings, "body")
    write_measurement(folder, measurement)
    problem, units = load_problem(folder)
    return measurement, truth, problem, units


def mr_measurement(heldout=False):
    """Two coils with analytic sensitivities, random lines, noise 0.5; (measurement, complex image)."""
    rng = np.random.default_rng(0)
    shape, sigma = (4, 48, 40), 0.5
    y, x = np.meshgrid(np.linspace(-1, 1, shape[1]), np.linspace(-1, 1, shape[2]), indexing="ij")
    image = (100 * (np.hypot(x, y) < 0.8) * np.exp(1j * x)).astype(np.complex64) * np.ones((4, 1, 1), np.complex64)
    angle = (x + 1) / 2 * np.pi / 2
    coils = np.stack([np.cos(angle), np.sin(angle) * np.exp(1j * y)])[None].repeat(4, 0).astype(np.complex64)
    mask = np.broadcast_to(rng.random(40) < 0.4, (48, 40)).copy()
    mask[:, 16:25] = True
    clean = fft2(torch.from_numpy(coils * image[:, None])).numpy()
    noise = sigma * (rng.normal(size=clean.shape) + 1j * rng.normal(size=clean.shape))
    kspace = ((clean + noise) * mask).astype(np.complex64)
    kept = np.zeros_like(mask)
    kept[:, 5] = kept[:, 35] = True
    metadata = {
        "modality": "mr",
        "affine": AFFINE.tolist(),
        "spacing_mm": [3.0, 2.0, 2.0],
        "shape_zyx": list(shape),
        "noise": {"sigma_per_coil": [sigma, sigma]},
    }
    tensors = pack_kspace(kspace, mask & ~kept if heldout else mask) | {"sensitivities": coils}
    if heldout:
        full = ((clean + noise) * kept).astype(np.complex64)
        tensors |= pack_kspace(full, kept, "heldout_")
    return Measurement(tensors, metadata), image


def test_the_truth_explains_the_linearised_ct_data_down_to_the_noise(ct):
    _, truth, problem, _ = ct
    assert problem.chi2(torch.from_numpy(truth) / 1000) == pytest.approx(1.0, abs=0.12)
    assert problem.chi2(torch.from_numpy(truth) / 1000 + 0.02) > 1.5


def test_water_everywhere_is_zero_in_prior_units(ct):
    measurement, _, problem, _ = ct
    mu = measurement.metadata["mu_water_per_mm"]
    integrals = torch.from_numpy(measurement.tensors["line_integrals"])
    water = problem.A.operator(torch.ones(1, 32, 32))
    np.testing.assert_allclose(problem.y * problem.A.factor, integrals / mu - water, atol=1e-3)
    # Each weight is the inverse variance of its datum: weight * y^2 does not depend on the units of y.
    np.testing.assert_allclose(problem.weights / problem.A.factor**2 / mu**2, measurement.tensors["weights"], rtol=1e-4)


def test_normalised_operators_have_norm_one(ct):
    generator = torch.Generator().manual_seed(1)
    assert operator_norm(ct[2].A, (1, 32, 32), torch.float32, generator) == pytest.approx(1.0, abs=0.01)


def test_the_ct_start_is_near_the_truth_and_above_air(ct):
    _, truth, problem, _ = ct
    error = (problem.x_init - torch.from_numpy(truth) / 1000).square().mean().sqrt()
    assert error < problem.sigma_init / 2
    assert problem.x_init.min() >= -1


def test_ct_units_are_hu(ct):
    _, truth, problem, units = ct
    np.testing.assert_allclose(units.to_physical(torch.from_numpy(truth) / 1000), truth, atol=1e-3)
    assert problem.spacing_mm == (3.0, 4.0, 4.0)
    assert units.name == "HU"


@pytest.mark.parametrize("dimensions", [2, 3])
def test_kspace_survives_packing(tmp_path, dimensions):
    measurement, _ = mr_measurement()
    kspace, mask = unpack_kspace(measurement.tensors)
    if dimensions == 3:
        mask = np.stack([mask] * 3 + [np.roll(mask, 1, axis=1)])
        kspace = kspace * mask[:, None]
    write_measurement(tmp_path, Measurement(pack_kspace(kspace, mask), {"modality": "mr"}))
    tensors = read_measurement(tmp_path).tensors
    unpack_kspace(tensors)[0][:] = 0
    again, again_mask = unpack_kspace(tensors)
    np.testing.assert_array_equal(again, kspace)
    np.testing.assert_array_equal(again_mask, mask)


def test_the_truth_explains_the_mr_data_and_the_start_has_unit_scale(tmp_path):
    measurement, image = mr_measurement()
    write_measurement(tmp_path, measurement)
    problem, units = load_problem(tmp_path)
    assert problem.chi2(torch.from_numpy(image) / units.scale) == pytest.approx(1.0, abs=0.05)
    assert np.percentile(problem.x_init.abs().numpy(), 99.5) == pytest.approx(1.0, rel=1e-5)
    assert problem.chi2(problem.x_init) < 1.1
    error = (problem.x_init - torch.from_numpy(image) / units.scale).abs().square().mean().sqrt() / np.sqrt(2)
    assert error < problem.sigma_init
    np.testing.assert_allclose(
        units.to_physical(problem.x_init), np.abs(problem.x_init.numpy()) * units.scale, rtol=1e-5
    )


def test_heldout_error_of_truth_is_the_noise_and_of_nothing_is_one(tmp_path):
    measurement, image = mr_measurement(heldout=True)
    write_measurement(tmp_path, measurement)
    problem, units = load_problem(tmp_path)
    samples, kept = unpack_kspace(measurement.tensors, "heldout_")
    noise = heldout_noise(samples, kept, np.array([0.5, 0.5]))
    assert units.heldout.error(torch.from_numpy(image) / units.scale) == pytest.approx(noise, rel=0.1)
    assert units.heldout.error(torch.zeros_like(problem.x_init)) == pytest.approx(1.0)
    assert not problem.y[..., 5].any()
    assert not problem.weights[..., 5].any()


def test_a_damaged_measurement_is_named(tmp_path):
    (tmp_path / "measurement.safetensors").write_bytes(b"not a file")
    with pytest.raises(ValueError, match=r"measurement\.safetensors"):
        load_problem(tmp_path)
    with pytest.raises(ValueError, match="no such file"):
        load_problem(tmp_path / "nowhere")


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_a_stored_start_changes_nothing_but_the_time(tmp_path, ct, modality):
    measurement = ct[0] if modality == "ct" else mr_measurement(heldout=True)[0]
    write_measurement(tmp_path / "plain", measurement)
    write_measurement(tmp_path / "stored", with_start(measurement))
    (plain, plain_units), (stored, stored_units) = (load_problem(tmp_path / name) for name in ("plain", "stored"))
    assert stored_units.scale == pytest.approx(plain_units.scale, rel=1e-6)
    for name in ("y", "weights", "x_init"):
        torch.testing.assert_close(getattr(stored, name), getattr(plain, name), rtol=1e-5, atol=1e-6)


def test_a_start_that_sees_less_gets_more_noise():
    grid = ImageGrid(32, 32, 2.0)
    levels = {}
    for views, range_deg in ((90, 180.0), (6, 180.0), (30, 40.0)):
        beam = ParallelBeam(view_angles(views, range_deg), 48, 2.0)
        A = normalise(CtProjector(grid, beam), (1, 32, 32), torch.float32, torch.Generator().manual_seed(0))
        levels[views] = ct_sigma_init(A, torch.ones(1, views, 48), (32, 32))
    assert levels[90] == LEAST_SIGMA_INIT
    assert LEAST_SIGMA_INIT < levels[6] <= LARGEST_SIGMA_INIT
    assert LEAST_SIGMA_INIT < levels[30] <= LARGEST_SIGMA_INIT


def test_a_start_from_fewer_lines_gets_more_noise():
    coils = simulate_sensitivities(4, (1, 48, 48), torch.Generator().manual_seed(0), (2.0, 2.0, 2.0))
    levels = {}
    for acceleration in (2, 8):
        mask = random_1d((48, 48), acceleration, 0.08, torch.Generator().manual_seed(1))
        weights = mask[None, None].float().expand(1, 4, 48, 48) * 1e4
        levels[acceleration] = mr_sigma_init(CartesianMri(mask, coils), weights, (48, 48))
    assert levels[2] == LEAST_SIGMA_INIT
    assert LEAST_SIGMA_INIT < levels[8] <= LARGEST_SIGMA_INIT
