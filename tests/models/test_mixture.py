"""The mixture prior against numerical integration, importance sampling and its own draws."""

from __future__ import annotations

import pytest
import torch

from models.gaussian import GaussianPrior
from models.mixture import MixturePrior, mixture_posterior


def white(shape, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    if dtype.is_complex:
        return torch.view_as_complex(torch.randn((*shape, 2), generator=generator, dtype=dtype.to_real()))
    return torch.randn(shape, generator=generator, dtype=dtype)


def mixture(dtype=torch.float32, shape=(3, 4, 4), scale=0.4):
    modality = "mr" if dtype.is_complex else "ct"
    return MixturePrior(scale * white(shape, dtype, 0), 0.3, (0.2, 0.5, 0.3), modality)


def test_one_mode_is_the_gaussian_prior():
    prior = MixturePrior(torch.full((1, 4, 4), 0.7), 0.3, (1.0,))
    x = white((5, 4, 4), torch.float32, 1)
    exact = GaussianPrior.independent(0.3, 0.7).denoise(x, 0.4)
    assert torch.allclose(prior.denoise(x, 0.4).mean, exact.mean, atol=1e-6)
    assert torch.allclose(prior.denoise(x, 0.4).variance, exact.variance, atol=1e-6)
    assert prior.sigma_data == pytest.approx(0.3)


def test_one_voxel_against_numerical_integration():
    prior = MixturePrior(torch.tensor([-0.6, 0.1, 0.9])[:, None, None], 0.2, (0.3, 0.5, 0.2))
    grid = torch.linspace(-4, 4, 40001, dtype=torch.float64)
    for value, sigma in ((0.3, 0.5), (-1.2, 1.5), (0.45, 0.05)):
        density = sum(
            w * torch.exp(-((grid - float(mu)) ** 2) / (2 * 0.2**2))
            for w, mu in zip(prior.weights, prior.means.flatten(), strict=True)
        ) * torch.exp(-((grid - value) ** 2) / (2 * sigma**2))
        mean = (grid * density).sum() / density.sum()
        variance = ((grid - mean) ** 2 * density).sum() / density.sum()
        denoised = prior.denoise(torch.full((1, 1, 1), value), sigma)
        assert float(denoised.mean) == pytest.approx(float(mean), abs=1e-5)
        assert float(denoised.variance) == pytest.approx(float(variance), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_variance_is_the_mean_squared_error_per_real_component(dtype):
    prior = mixture(dtype)
    truth = prior.draw(white((20000, 4, 4), dtype, 2))
    mean, variance = prior.denoise(truth + 0.6 * white(truth.shape, dtype, 3), 0.6)
    error = (mean - truth).abs().square().mean() / (2 if dtype.is_complex else 1)
    assert float(error) == pytest.approx(float(variance.mean()), rel=0.02)
    assert not variance.is_complex()


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_derivative_of_the_mean_is_the_covariance_over_the_noise_variance(dtype):
    """Tweedie of second order: div D per real component = sum of variances / sigma^2, by automatic differentiation."""
    prior, sigma = mixture(dtype), 0.7
    x = white((1, 4, 4), dtype, 4)
    parts = torch.view_as_real(x) if dtype.is_complex else x

    def flat(values):
        volume = torch.view_as_complex(values) if dtype.is_complex else values
        mean = prior.denoise(volume, sigma).mean
        return (torch.view_as_real(mean) if dtype.is_complex else mean).flatten()

    jacobian = torch.autograd.functional.jacobian(flat, parts).reshape(parts.numel(), parts.numel())
    assert torch.allclose(jacobian, jacobian.T, atol=1e-10)
    variance = prior.denoise(x, sigma).variance.sum() * (2 if dtype.is_complex else 1)
    assert float(jacobian.trace() * sigma**2) == pytest.approx(float(variance), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_draws_have_the_weights_and_the_spread(dtype):
    prior = mixture(dtype)
    draws = prior.draw(white((20000, 4, 4), dtype, 5))
    nearest = (draws[:, None] - prior.means).abs().square().sum((2, 3)).argmin(1)
    assert torch.bincount(nearest).double() / 20000 == pytest.approx(torch.tensor(prior.weights).double(), abs=0.02)
    spread = (draws - draws.mean(0)).abs().square().mean() / (2 if dtype.is_complex else 1)
    assert float(spread.sqrt()) == pytest.approx(prior.sigma_data, rel=0.01)
    assert torch.equal(prior.draw(torch.zeros(1, 4, 4, dtype=dtype), torch.tensor([2]))[0], prior.means[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_posterior_against_importance_sampling(dtype):
    """Prior draws weighted by their likelihood; data weak enough for the weights to keep an effective size."""
    prior = mixture(dtype, (3, 2, 2))
    matrix, y = white((3, 4), dtype, 6), white((3,), dtype, 7)
    weights = torch.tensor([1.0, 0.5, 0.0])
    exact = mixture_posterior(prior, matrix, y, weights)
    modes = torch.multinomial(torch.tensor(prior.weights), 200000, True, generator=torch.Generator().manual_seed(8))
    x = prior.draw(white((200000, 2, 2), dtype, 9), modes).flatten(1)
    likelihood = torch.exp(-(weights * (y - x @ matrix.T).abs().square()).sum(1) / 2).double()
    likelihood /= likelihood.sum()
    shares = torch.stack([likelihood[modes == k].sum() for k in range(3)])
    mean = likelihood.to(exact.means.dtype) @ x.to(exact.means.dtype)
    variance = likelihood @ (x - mean).abs().square().double() / (2 if dtype.is_complex else 1)
    assert float((shares - exact.weights).abs().max()) < 0.01
    assert float((shares - torch.tensor(prior.weights)).abs().max()) > 0.05
    assert float((mean - exact.mean()).abs().max()) < 0.01
    assert torch.allclose(variance, exact.variance(), rtol=0.03)


def test_identity_data_give_the_denoiser():
    prior = mixture()
    x = white((1, 4, 4), torch.float32, 10)
    exact = mixture_posterior(prior, torch.eye(16), x.flatten(), 0.5**-2)
    mean, variance = prior.denoise(x, 0.5)
    assert torch.allclose(exact.mean().float(), mean.flatten(), atol=1e-5)
    assert torch.allclose(exact.variance().float(), variance.flatten(), atol=1e-5)
    assert torch.allclose(exact.weights, prior.responsibilities(x, 0.5)[0], atol=1e-6)


def test_far_modes_do_not_overflow():
    prior = MixturePrior(torch.tensor([-500.0, 500.0])[:, None, None].expand(2, 8, 8), 0.1, (0.5, 0.5))
    mean, variance = prior.denoise(torch.full((1, 8, 8), 499.0), 0.01)
    assert torch.allclose(mean, torch.full_like(mean, 499.0), atol=0.02)
    assert float(variance.max()) < 1e-3


@pytest.mark.parametrize("weights", [(0.5,), (0.5, 0.6), (0.0, 1.0)])
def test_weights_that_are_no_distribution_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        MixturePrior(torch.zeros(2, 3, 3), 0.1, weights)
