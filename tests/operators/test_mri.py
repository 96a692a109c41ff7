"""Fourier transform, Cartesian encoding, coils: closed forms, sigpy and BART."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
import torch

from operators.cartesian_mri import CartesianMri
from operators.coils import SensitivityOp, estimate_sensitivities, simulate_sensitivities, simulate_smooth_phase
from operators.fourier import FourierOp, centring_phase, fft2, ifft2
from operators.sampling_masks import random_1d
from tests.operators.helpers import read_cfl, seeded, write_cfl

SHAPES = [(8, 6), (7, 6), (8, 9), (5, 7)]


def complex_noise(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.complex64, generator=seeded(seed))


@pytest.mark.parametrize("shape", SHAPES)
def test_fourier_is_the_centred_unitary_sum(shape):
    x = complex_noise((2, *shape), 0).to(torch.complex128)
    matrices = []
    for n in shape:
        index = np.arange(n) - n // 2
        matrices.append(torch.from_numpy(np.exp(-2j * np.pi * np.outer(index, index) / n) / np.sqrt(n)))
    expected = matrices[0] @ x @ matrices[1].T
    torch.testing.assert_close(fft2(x), expected)
    torch.testing.assert_close(ifft2(expected), x)
    torch.testing.assert_close(FourierOp().adjoint(fft2(x)), x)


@pytest.mark.oracle
@pytest.mark.parametrize("shape", SHAPES)
def test_fourier_equals_sigpy(shape):
    sigpy = pytest.importorskip("sigpy", reason="sigpy is not installed")
    x = complex_noise((2, *shape), 1)
    np.testing.assert_allclose(fft2(x).numpy(), sigpy.fft(x.numpy(), axes=(-2, -1)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ifft2(x).numpy(), sigpy.ifft(x.numpy(), axes=(-2, -1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 5, 8, 384, 511])
def test_centring_ramp_replaces_the_rolls(length):
    x = torch.randn(length, dtype=torch.complex128, generator=seeded(2))
    ramp = centring_phase(length)
    constant = np.exp(-2j * np.pi * (length // 2) ** 2 / length)
    rolled = torch.fft.fftshift(torch.fft.fft(torch.fft.ifftshift(x)))
    torch.testing.assert_close(constant * ramp * torch.fft.fft(ramp * x), rolled)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mask_axes", [2, 3])
def test_encoding_is_mask_times_fourier_times_coils(shape, mask_axes):
    slices, coils = 3, 4
    sensitivities = complex_noise((slices, coils, *shape), 3)
    mask = torch.rand((slices, *shape)[-mask_axes:], generator=seeded(4)) < 0.6
    x = complex_noise((slices, *shape), 5)
    operator = CartesianMri(mask, sensitivities)
    expected = fft2(SensitivityOp(sensitivities)(x)) * (mask if mask_axes == 2 else mask[:, None])
    torch.testing.assert_close(operator(x), expected, rtol=1e-4, atol=1e-5)
    unsampled = ~(mask if mask_axes == 2 else mask[:, None]).expand(operator(x).shape)
    assert torch.all(operator(x)[unsampled] == 0)


@pytest.mark.oracle
@pytest.mark.parametrize("shape", SHAPES)
def test_encoding_equals_sigpys_sense_operator(shape):
    linop = pytest.importorskip("sigpy.mri.linop", reason="sigpy is not installed")
    sensitivities = simulate_sensitivities(4, (1, *shape), seeded(6))
    mask = torch.rand(shape, generator=seeded(7)) < 0.5
    x, y = complex_noise((1, *shape), 8), complex_noise((1, 4, *shape), 9)
    ours = CartesianMri(mask, sensitivities)
    theirs = linop.Sense(sensitivities[0].numpy(), weights=mask.numpy().astype(np.float32))
    np.testing.assert_allclose(ours(x)[0].numpy(), theirs(x[0].numpy()), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours.adjoint(y)[0].numpy(), theirs.H(y[0].numpy()), rtol=1e-4, atol=1e-5)


def test_full_sampling_with_unit_coils_is_an_isometry():
    sensitivities = simulate_sensitivities(8, (2, 12, 10), seeded(10))
    operator = CartesianMri(torch.ones((12, 10), dtype=torch.bool), sensitivities)
    x = complex_noise((2, 12, 10), 11)
    torch.testing.assert_close(operator.gram(x), x, rtol=1e-4, atol=1e-5)


def test_shapes_that_do_not_fit_are_refused():
    sensitivities = simulate_sensitivities(2, (3, 6, 6), seeded())
    with pytest.raises(ValueError, match="does not fit"):
        CartesianMri(torch.ones((6, 5), dtype=torch.bool), sensitivities)
    with pytest.raises(ValueError, match="2 slices"):
        CartesianMri(torch.ones((2, 6, 6), dtype=torch.bool), sensitivities)
    with pytest.raises(ValueError, match="complex"):
        CartesianMri(torch.ones((6, 6), dtype=torch.bool), sensitivities.real)
    operator = CartesianMri(torch.ones((6, 6), dtype=torch.bool), sensitivities)
    with pytest.raises(ValueError, match="image"):
        operator(torch.zeros((3, 5, 6), dtype=torch.complex64))
    with pytest.raises(ValueError, match="k-space"):
        operator.adjoint(torch.zeros((3, 1, 6, 6), dtype=torch.complex64))


def test_simulated_coils_have_unit_sum_of_squares_are_smooth_and_differ():
    maps = simulate_sensitivities(8, (4, 96, 80), seeded(12))
    assert maps.shape == (4, 8, 96, 80)
    torch.testing.assert_close(maps.abs().square().sum(1), torch.ones(4, 96, 80), rtol=1e-5, atol=1e-5)
    for axis, limit in ((0, 0.05), (2, 0.1), (3, 0.1)):
        assert float(maps.diff(dim=axis).abs().max()) < limit
    centre = maps[:, :, 24:72, 20:60].permute(1, 0, 2, 3).reshape(8, -1)
    assert float(torch.linalg.cond(centre @ centre.mH)) < 1e5
    brightest = maps.abs().mean(0).flatten(1).argmax(1)
    assert len(set(brightest.tolist())) == 8
    assert torch.equal(maps, simulate_sensitivities(8, (4, 96, 80), seeded(12)))


def test_simulated_phase_is_smooth_unit_and_varies():
    phase = simulate_smooth_phase((4, 64, 48), seeded(13))
    torch.testing.assert_close(phase.abs(), torch.ones(4, 64, 48))
    turn = (phase[..., 1:] * phase[..., :-1].conj()).angle().abs().max()
    assert 0.0 < float(turn) < 0.3
    assert float(phase.mean().abs()) < 0.99


def phantom(shape: tuple[int, int]) -> torch.Tensor:
    """Textured ellipse, zero outside."""
    y = torch.linspace(-1, 1, shape[0])[:, None]
    x = torch.linspace(-1, 1, shape[1])[None]
    inside = (y / 0.85) ** 2 + (x / 0.7) ** 2 < 1
    return inside * (1 + 0.4 * torch.sin(23 * y) * torch.cos(17 * x))


def simulated_kspace(shape_zyx: tuple[int, int, int], noise: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(k-space, sensitivities, where the object has signal) of eight coils; noise relative to the image."""
    maps = simulate_sensitivities(8, shape_zyx, seeded(14))
    image = phantom(shape_zyx[1:])
    kspace = fft2(maps * (image * simulate_smooth_phase(shape_zyx, seeded(15)))[:, None])
    return kspace + noise * complex_noise(kspace.shape, 16), maps, image > 0


REGIONS = [
    (slice(64 - 12, 64 + 12), slice(50 - 12, 50 + 12)),
    (slice(0, 128), slice(50 - 8, 50 + 8)),
    (slice(64 - 5, 64 + 6), slice(50 - 5, 50 + 6)),
]


@pytest.mark.parametrize(("region", "least", "mean"), list(zip(REGIONS, (0.995, 0.99, 0.9), (0.9995, 0.999, 0.99))))
def test_estimated_sensitivities_are_the_true_ones_up_to_phase(region, least, mean):
    kspace, truth, inside = simulated_kspace((2, 128, 100), noise=0.01)
    estimated = estimate_sensitivities(kspace, region)
    agreement = (estimated.conj() * truth).sum(1).abs()[:, inside]
    assert float(agreement.min()) > least
    assert float(agreement.mean()) > mean


def test_estimated_sensitivities_have_unit_norm_or_are_cropped():
    kspace, _, inside = simulated_kspace((2, 128, 100), noise=0.01)
    everywhere = estimate_sensitivities(kspace, REGIONS[0], crop=0.0).abs().square().sum(1)
    torch.testing.assert_close(everywhere, torch.ones_like(everywhere), rtol=1e-4, atol=1e-4)
    cropped = estimate_sensitivities(kspace, REGIONS[0]).abs().square().sum(1)
    assert torch.all((cropped - 1).abs().lt(1e-4) | (cropped == 0))
    assert torch.all(cropped[:, inside] > 0)
    assert float((cropped == 0).float().mean()) > 0.05


def test_estimated_phase_does_not_jump_between_slices_and_explains_the_data():
    kspace, _, inside = simulated_kspace((3, 128, 100), noise=0.0)
    estimated = estimate_sensitivities(kspace, REGIONS[0])
    step = (estimated[1:].conj() * estimated[:-1]).sum(1)[:, inside]
    assert float(step.angle().abs().max()) < 0.2
    coil_images = ifft2(kspace)
    explained = SensitivityOp(estimated)((estimated.conj() * coil_images).sum(1))
    assert float((explained - coil_images).norm() / coil_images.norm()) < 0.02


@pytest.mark.oracle
def test_estimated_sensitivities_agree_with_bart_ecalib(tmp_path):
    bart = shutil.which("bart")
    if bart is None:
        pytest.skip("BART (the Debian package bart) is not installed")
    kspace, _, inside = simulated_kspace((1, 128, 100), noise=0.01)
    mask = random_1d((128, 100), 3, 0.24, 0)
    kspace = kspace * mask
    write_cfl(tmp_path / "kspace", kspace[0].permute(1, 2, 0)[:, :, None].numpy())
    arguments = [bart, "ecalib", "-m", "1", "-c", "0", str(tmp_path / "kspace"), str(tmp_path / "maps")]
    subprocess.run(arguments, check=True, capture_output=True, timeout=120)
    theirs = torch.from_numpy(read_cfl(tmp_path / "maps").reshape(128, 100, 8).transpose(2, 0, 1).copy())
    ours = estimate_sensitivities(kspace, (slice(52, 76), slice(38, 62)))[0]
    inner = (ours.conj() * theirs).sum(0)[inside] / theirs.norm(dim=0)[inside]
    assert float(inner.abs().min()) > 0.99
    assert float(inner.abs().mean()) > 0.9995
    constant = inner.mean() / inner.mean().abs()
    assert float((inner * constant.conj()).angle().abs().quantile(0.99)) < 0.1


@pytest.mark.parametrize("region", [(slice(60, 63), slice(40, 60)), (slice(64, 64), slice(50, 50))])
def test_a_calibration_region_that_is_too_small_is_refused(region):
    with pytest.raises(ValueError, match="smaller than 4 x 4"):
        estimate_sensitivities(complex_noise((1, 2, 128, 100), 17), region)


def test_empty_calibration_is_refused_and_an_empty_slice_is_not():
    kspace, _, _ = simulated_kspace((2, 128, 100), noise=0.0)
    with pytest.raises(ValueError, match="no signal"):
        estimate_sensitivities(torch.zeros_like(kspace), REGIONS[0])
    kspace[1] = 0
    estimated = estimate_sensitivities(kspace, REGIONS[0])
    assert torch.isfinite(torch.view_as_real(estimated)).all()
