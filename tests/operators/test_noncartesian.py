"""Radial and spiral encoding: closed form, adjoint, density, sigpy and BART."""

from __future__ import annotations

import builtins
import shutil
import subprocess

import numpy as np
import pytest
import torch

from operators import nufft as module
from operators.coils import simulate_sensitivities
from operators.fourier import fft2
from operators.noncartesian_mri import NonCartesianMri
from operators.nufft import Nufft, NufftMissing, density_compensation, toeplitz_kernel
from tests.operators.helpers import adjoint_error, read_cfl, seeded, write_cfl

pytest.importorskip("finufft", reason="finufft is not installed: pip install -r requirements-extra.txt")


def radial(spokes: int, matrix: int, oversampling: int = 2) -> torch.Tensor:
    """(spokes * samples, 2) in cycles per field of view."""
    angle = np.pi * np.arange(spokes) / spokes
    radius = (np.arange(matrix * oversampling) - matrix * oversampling // 2) / oversampling
    path = np.stack([radius * np.sin(angle)[:, None], radius * np.cos(angle)[:, None]], axis=-1)
    return torch.from_numpy(path.reshape(-1, 2)).float()


def spiral(arms: int, matrix: int) -> torch.Tensor:
    t = np.linspace(0, 1, 6 * matrix)
    turns = matrix / 2 / arms
    paths = []
    for arm in range(arms):
        angle = 2 * np.pi * (turns * t + arm / arms)
        paths.append(np.stack([np.sin(angle), np.cos(angle)], axis=-1) * (matrix / 2 - 0.5) * t[:, None])
    return torch.from_numpy(np.concatenate(paths)).float()


def complex_noise(shape, seed=0, dtype=torch.complex64):
    return torch.randn(shape, dtype=dtype, generator=seeded(seed))


@pytest.mark.parametrize("shape", [(12, 10), (9, 11)])
def test_the_sum_is_as_written(shape):
    path = (torch.rand((40, 2), generator=seeded(1)) - 0.5) * torch.tensor(shape)
    x = complex_noise((2, *shape), 2, torch.complex128)
    y, z = (torch.arange(n, dtype=torch.float64) - n // 2 for n in shape)
    phase = path[:, 0, None, None] * y[:, None] / shape[0] + path[:, 1, None, None] * z[None] / shape[1]
    matrix = torch.exp(-2j * np.pi * phase.to(torch.complex128)) / np.sqrt(shape[0] * shape[1])
    expected = torch.einsum("nyx,byx->bn", matrix, x)
    torch.testing.assert_close(Nufft(path, shape).forward(x), expected, rtol=1e-9, atol=1e-9)
    data = complex_noise((2, 40), 3, torch.complex128)
    torch.testing.assert_close(
        Nufft(path, shape).adjoint(data), torch.einsum("nyx,bn->byx", matrix.conj(), data), rtol=1e-9, atol=1e-9
    )


def test_on_whole_numbers_it_is_the_centred_fft():
    rows, columns = torch.meshgrid(torch.arange(12.0) - 6, torch.arange(10.0) - 5, indexing="ij")
    path = torch.stack([rows.flatten(), columns.flatten()], dim=-1)
    x = complex_noise((1, 12, 10), 4)
    torch.testing.assert_close(Nufft(path, (12, 10)).forward(x).reshape(1, 12, 10), fft2(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(density_compensation(path, (12, 10)), torch.ones(120), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("per_slice", [False, True])
def test_adjoint_derivative_and_toeplitz_normal(per_slice):
    shape, slices, coils = (24, 20), 2, 3
    path = radial(11, 20)
    paths = torch.stack([path, path.flip(-1)]) if per_slice else path
    density = density_compensation(path, shape)
    maps = simulate_sensitivities(coils, (slices, *shape), seeded(5))
    operator = NonCartesianMri(paths, maps, density)
    assert adjoint_error(operator, (slices, *shape), torch.complex64) < 1e-6
    x = complex_noise((slices, *shape), 6)
    per_coil = torch.tensor([1.0, 2.0, 0.5])[None, :, None]
    for weights in (per_coil, per_coil / density, torch.rand((slices, coils, len(path)), generator=seeded(7))):
        expected = operator.adjoint(weights * operator(x))
        assert float((operator.normal(weights)(x) - expected).norm() / expected.norm()) < 2e-5
    x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(operator(x).abs().square().sum() / 2, x)
    torch.testing.assert_close(gradient, operator.gram(x.detach()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["radial", "spiral"])
def test_density_compensation_makes_the_adjoint_a_reconstruction(kind, record_property):
    """A smooth disc comes back from fully sampled data within two per cent; radial density grows with the radius."""
    matrix = 48
    path = radial(80, matrix) if kind == "radial" else spiral(24, matrix)
    density = density_compensation(path, (matrix, matrix))
    at = torch.linspace(-1, 1, matrix)
    disc = torch.exp(-6 * (at[:, None] ** 2 + at[None] ** 2)).to(torch.complex64)[None]
    operator = NonCartesianMri(path, torch.ones((1, 1, matrix, matrix), dtype=torch.complex64), density)
    error = float((operator.gram(disc) - disc).norm() / disc.norm())
    record_property("measured", f"{kind}: adjoint of fully sampled data within {100 * error:.1f} %")
    assert error < 0.02
    if kind == "radial":
        radius = path.norm(dim=1)
        inner = (radius > 3) & (radius < 20)
        expected = np.pi * radius[inner] / 80 * 0.5
        assert float((density[inner] / expected - 1).abs().max()) < 0.08


@pytest.mark.oracle
@pytest.mark.interop("read", "radial and spiral encoding", "sigpy 0.1.27")
@pytest.mark.parametrize("kind", ["radial", "spiral"])
def test_it_is_sigpys_nufft(kind, record_property):
    sigpy = pytest.importorskip("sigpy", reason="sigpy is not installed")
    path = radial(13, 32) if kind == "radial" else spiral(4, 32)
    x = complex_noise((2, 32, 32), 8)
    theirs = sigpy.nufft(x.numpy(), path.numpy(), oversamp=2, width=8)
    ours = Nufft(path, (32, 32)).forward(x).numpy()
    worst = np.abs(ours - theirs).max() / np.abs(theirs).max()
    record_property("measured", f"{kind}: largest difference {worst:.0e} of the largest sample")
    assert worst < 1e-4


@pytest.mark.oracle
@pytest.mark.interop("read", "radial encoding", "BART 0.8 nufft")
def test_it_is_barts_nufft(tmp_path, record_property):
    if shutil.which("bart") is None:
        pytest.skip("BART (the Debian package bart) is not installed")
    path, x = radial(13, 32), complex_noise((1, 32, 32), 9)
    points = np.concatenate([path.numpy()[:, ::-1], np.zeros((len(path), 1))], axis=1).T[:, None, :]
    write_cfl(tmp_path / "t", points)
    write_cfl(tmp_path / "x", x[0].numpy().T[:, :, None])
    subprocess.run(["bart", "nufft", "t", "x", "y"], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    theirs = read_cfl(tmp_path / "y").ravel()
    ours = Nufft(path, (32, 32)).forward(x).numpy()[0]
    # BART cuts its kernel off at the edge of k-space where the transform is periodic.
    inside = path.norm(dim=1).numpy() < 15
    worst = np.abs(ours - theirs)[inside].max() / np.abs(theirs).max()
    record_property("measured", f"largest difference {worst:.0e} of the largest sample, but for the outermost")
    assert worst < 2e-3


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="beyond"):
        Nufft(torch.tensor([[0.0, 40.0]]), (32, 32))
    with pytest.raises(ValueError, match="finite"):
        Nufft(torch.tensor([[0.0, float("nan")]]), (32, 32))
    maps = torch.ones((2, 1, 8, 8), dtype=torch.complex64)
    with pytest.raises(ValueError, match="does not fit"):
        NonCartesianMri(torch.zeros((3, 5, 2)), maps)
    with pytest.raises(ValueError, match="density"):
        NonCartesianMri(torch.zeros((5, 2)), maps, torch.ones(4))


def test_without_finufft_there_is_one_sentence(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments):
        if name == "finufft":
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(NufftMissing) as caught:
        module.Nufft(torch.zeros((3, 2)), (8, 8)).forward(torch.zeros((1, 8, 8), dtype=torch.complex64))
    assert "requirements-extra.txt" in caught.value.user_message


def test_a_kernel_of_ones_on_the_grid_is_the_identity():
    rows, columns = torch.meshgrid(torch.arange(8.0) - 4, torch.arange(6.0) - 3, indexing="ij")
    path = torch.stack([rows.flatten(), columns.flatten()], dim=-1)
    kernel = toeplitz_kernel(path, torch.ones(48), (8, 6))
    x = complex_noise((8, 6), 10)
    wide = torch.fft.ifft2(torch.fft.fft2(x, s=(16, 12)) * kernel)[:8, :6]
    torch.testing.assert_close(wide, x, rtol=1e-4, atol=1e-5)
