"""Noise has the variance that its weights say."""

from __future__ import annotations

import math

import pytest
import torch

from operators.noise import gaussian_noise, photons_for_relative_noise, poisson_line_integrals
from tests.operators.helpers import seeded

RAYS = 200_000


@pytest.mark.parametrize(("integral", "photons"), [(0.0, 1e3), (2.0, 1e4), (4.0, 1e5)])
def test_poisson_variance_is_one_over_the_expected_count(integral, photons):
    p = torch.full((RAYS,), integral)
    noisy, weights = poisson_line_integrals(p, photons, seeded())
    expected = math.exp(integral) / photons
    # Standard error of a variance is sqrt(2/n); the second-order terms are of the relative size 3/2 of 1/count.
    assert float(noisy.double().var()) == pytest.approx(expected, rel=5 * math.sqrt(2 / RAYS) + 2 * expected)
    assert float(weights.double().mean()) == pytest.approx(1 / expected, rel=1e-2)
    assert float(noisy.double().mean()) == pytest.approx(integral + expected / 2, abs=5 * math.sqrt(expected / RAYS))


def test_poisson_weights_are_the_inverse_variance_over_unequal_rays():
    p = torch.linspace(0, 4, RAYS)
    noisy, weights = poisson_line_integrals(p, 1e5, seeded(1))
    assert float((weights * (noisy - p) ** 2).mean()) == pytest.approx(1.0, abs=0.02)
    assert float(weights[:1000].mean() / weights[-1000:].mean()) == pytest.approx(math.exp(4), rel=0.03)


def test_rays_without_counts_are_read_as_one_count():
    noisy, weights = poisson_line_integrals(torch.full((100,), 60.0), 1e4, seeded(2))
    assert torch.all(weights == 1)
    torch.testing.assert_close(noisy, torch.full((100,), math.log(1e4)))


@pytest.mark.parametrize("fraction", [0.005, 0.01, 0.03])
def test_photon_count_gives_the_wanted_relative_noise(fraction):
    p = torch.rand(RAYS, generator=seeded(3)) * 3
    noisy, _ = poisson_line_integrals(p, photons_for_relative_noise(p, fraction), seeded(4))
    rms = float((noisy - p).double().square().mean().sqrt())
    assert rms == pytest.approx(fraction * float(p.max()), rel=0.03)


def test_gaussian_noise_has_sigma_in_each_real_component():
    y = torch.zeros(RAYS, dtype=torch.complex64)
    noisy, weights = gaussian_noise(y, 0.3, seeded(5))
    for part in (noisy.real, noisy.imag):
        assert float(part.double().std()) == pytest.approx(0.3, rel=0.01)
    assert abs(float((noisy.real * noisy.imag).mean())) < 5 * 0.09 / math.sqrt(RAYS)
    assert not weights.is_complex()
    torch.testing.assert_close((weights * noisy.real.square()).mean(), torch.tensor(1.0), rtol=0.02, atol=0)
    real, _ = gaussian_noise(torch.full((RAYS,), 7.0), 0.3, seeded(6))
    assert float(real.double().mean()) == pytest.approx(7.0, abs=5 * 0.3 / math.sqrt(RAYS))
    assert float(real.double().std()) == pytest.approx(0.3, rel=0.01)


def test_gaussian_noise_stays_on_the_mask():
    mask = torch.rand((6, 5), generator=seeded(7)) < 0.5
    noisy, weights = gaussian_noise(torch.zeros((2, 3, 6, 5), dtype=torch.complex64), 0.5, seeded(8), mask)
    assert torch.all((noisy != 0) == mask)
    torch.testing.assert_close(weights, mask / 0.25)


def test_the_same_seed_gives_the_same_noise_and_another_seed_another():
    p = torch.rand(50, generator=seeded(9))
    first, again, other = (poisson_line_integrals(p, 1e3, seeded(s))[0] for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    "call",
    [
        lambda: poisson_line_integrals(torch.ones(3), 0, seeded()),
        lambda: photons_for_relative_noise(torch.zeros(3), 0.01),
        lambda: photons_for_relative_noise(torch.ones(3), 0),
        lambda: gaussian_noise(torch.ones(3), 0.0, seeded()),
    ],
)
def test_noise_without_size_is_refused(call):
    with pytest.raises(ValueError, match="positive"):
        call()
