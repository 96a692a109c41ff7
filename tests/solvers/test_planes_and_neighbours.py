"""Other planes (TPDM) and other neighbours (DiffusionBlend) for the slice prior."""

from __future__ import annotations

import pytest
import torch

from models.denoised import Denoised
from models.gaussian import GaussianPrior
from solvers.perpendicular import PerpendicularPrior, require_planes
from solvers.regrouped import RegroupedPrior, possible_strides
from solvers.schedule import karras_levels
from solvers.settings import SettingsError
from solvers.wrapped_prior import levels_left
from tests.solvers.problems import normal, stationary_prior

SIGMAS = karras_levels(1.0, 0.01, 7)


class Recording(GaussianPrior):
    """A Gaussian prior that writes down what it was asked."""

    def denoise(self, x, sigma, spacing_mm=(1.0, 1.0, 1.0), noise_correlation=0.0):
        self.card.setdefault("calls", []).append((tuple(x.shape), sigma, spacing_mm, noise_correlation))
        return super().denoise(x, sigma, spacing_mm, noise_correlation)


def recording(std=0.5):
    prior = Recording(torch.tensor(std**2), card={})
    return prior, prior.card.setdefault("calls", [])


def test_levels_left_is_the_place_in_the_schedule():
    assert [levels_left(sigma, SIGMAS) for sigma in SIGMAS] == [6, 5, 4, 3, 2, 1, 0]
    assert levels_left(50.0, SIGMAS) == 6
    assert levels_left(SIGMAS[3] * 1.02, SIGMAS) == 3


def test_perpendicular_planes_take_turns_and_end_axial():
    inner, calls = recording()
    prior = PerpendicularPrior(inner, 2, SIGMAS)
    for sigma in SIGMAS:
        prior.denoise(torch.zeros(3, 4, 5), sigma, (1.1, 0.9, 1.0))
    axial, coronal = ((3, 4, 5), (1.1, 0.9, 1.0)), ((4, 3, 5), (0.9, 1.1, 1.0))
    assert [(call[0], call[2]) for call in calls] == [axial, coronal, axial, coronal, axial, coronal, axial]


def test_perpendicular_denoising_is_the_inner_one_of_the_turned_volume():
    inner = stationary_prior((6, 7), 0.5, 1.5)
    prior = PerpendicularPrior(inner, 2, SIGMAS)
    x = normal((6, 5, 7), torch.float32, 13)
    expected = inner.denoise(x.transpose(0, 1), SIGMAS[1]).mean.transpose(0, 1)
    assert torch.equal(prior.denoise(x, SIGMAS[1], (1.0, 1.0, 1.0)).mean, expected)
    assert prior.denoise(x, SIGMAS[1], (1.0, 1.0, 1.0)).variance.shape == x.shape


def test_perpendicular_prior_smooths_along_z_where_the_slice_prior_alone_cannot():
    """Volumes smooth along z: alternating with coronal planes halves the error of slice-wise denoising, same levels."""
    shape, sigmas = (24, 24, 24), karras_levels(1.0, 0.05, 9)
    inner = stationary_prior((24, 24), 0.5, 3.0)
    truth = torch.fft.ifft2(
        torch.fft.fft2(inner.draw(normal(shape, torch.float32, 14)).transpose(0, 1))
        * torch.exp(-4.5 * (torch.fft.fftfreq(24) * 2 * torch.pi)[:, None] ** 2)
    ).real.transpose(0, 1)
    noisy = truth + normal(shape, torch.float32, 15)

    def flow(prior):
        x = noisy
        for sigma, following in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
            h = prior.denoise(x, sigma, (1.0, 1.0, 1.0)).mean
            x = h + following / sigma * (x - h)
        return float((x - truth).square().mean())

    assert flow(PerpendicularPrior(inner, 2, sigmas)) < 0.5 * flow(inner)


@pytest.mark.parametrize(
    ("shape", "spacing", "message"),
    [((40, 64, 64), (5.0, 1.0, 1.0), "stretched"), ((8, 64, 64), (1.0, 1.0, 1.0), "8 slices are too few")],
)
def test_perpendicular_refuses_volumes_without_coronal_images(shape, spacing, message):
    with pytest.raises(SettingsError, match=message):
        require_planes(shape, spacing)
    require_planes((16, 64, 64), (1.4, 1.0, 1.0))


def test_regrouped_slices_have_other_neighbours_and_distances():
    inner, calls = recording()
    prior = RegroupedPrior(inner, (1, 2, 3), SIGMAS)
    for sigma in SIGMAS[-3:]:
        prior.denoise(torch.zeros(8, 2, 2), sigma, (1.5, 1.0, 1.0), noise_correlation=0.5)
    sizes = [(call[0][0], call[2][0], call[3]) for call in calls]
    assert sizes == [*[(n, 4.5, 0.125) for n in (3, 3, 2)], *[(4, 3.0, 0.25)] * 2, (8, 1.5, 0.5)]


class Neighbours:
    """mean_i = x_{i-1} + 10 x_{i+1} with ends repeated: shows who the neighbours were."""

    card, sigma_data, modality = {}, 0.5, "ct"

    def denoise(self, x, sigma, spacing_mm, noise_correlation=0.0):
        padded = torch.cat([x[:1], x, x[-1:]])
        return Denoised(padded[:-2] + 10 * padded[2:], torch.ones_like(x))


def test_regrouped_means_come_back_in_their_places():
    x = torch.arange(7.0).reshape(7, 1, 1)
    prior = RegroupedPrior(Neighbours(), (1, 2), SIGMAS)
    mean = prior.denoise(x, SIGMAS[-2], (1.0, 1.0, 1.0)).mean.flatten().tolist()
    below, above = [0, 1, 0, 1, 2, 3, 4], [2, 3, 4, 5, 6, 5, 6]
    assert mean == [b + 10 * a for b, a in zip(below, above, strict=True)]


def test_possible_strides_follow_slices_and_distance():
    assert possible_strides(64, 1.0, 6.0) == (1, 2, 3)
    assert possible_strides(64, 2.5, 6.0) == (1, 2)
    assert possible_strides(8, 1.0, 6.0) == (1, 2)
    for slices, slice_mm in ((64, 4.0), (5, 1.0)):
        with pytest.raises(SettingsError, match="leave no second stride"):
            possible_strides(slices, slice_mm, 6.0)
