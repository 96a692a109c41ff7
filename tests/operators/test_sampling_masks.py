"""Sampling masks: acceleration, calibration region, spacing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from operators.sampling_masks import equispaced_1d, poisson_disc_2d, random_1d
from tests.operators.helpers import seeded

MASKS = [random_1d, equispaced_1d, poisson_disc_2d]


@pytest.mark.parametrize("acceleration", [1, 2, 4, 6.5])
@pytest.mark.parametrize("shape", [(64, 80), (63, 81)])
@pytest.mark.parametrize("kind", MASKS)
def test_acceleration_counts_every_place(kind, shape, acceleration):
    mask = kind(shape, acceleration, 0.1, seeded())
    assert mask.dtype == torch.bool
    assert tuple(mask.shape) == shape
    if kind is poisson_disc_2d:
        assert int(mask.sum()) == round(shape[0] * shape[1] / acceleration)
    else:
        assert int(mask.sum()) == shape[0] * round(shape[1] / acceleration)


@pytest.mark.parametrize("kind", MASKS)
def test_calibration_region_is_full_and_centred_on_zero_frequency(kind):
    mask = kind((64, 80), 5, 0.1, seeded(1))
    rows = slice(29, 35) if kind is poisson_disc_2d else slice(None)
    assert torch.all(mask[rows, 36:44])


@pytest.mark.parametrize("kind", [random_1d, equispaced_1d])
def test_one_dimensional_masks_are_whole_columns(kind):
    mask = kind((32, 100), 4, 0.08, seeded(2))
    assert torch.all(mask == mask[:1])


@pytest.mark.parametrize("kind", MASKS)
def test_seed_decides(kind):
    first, again, other = (kind((64, 80), 4, 0.1, seed) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    from_generator = kind((64, 80), 4, 0.1, seeded(5))
    assert torch.equal(from_generator, kind((64, 80), 4, 0.1, seeded(5)))


def test_equispaced_columns_are_evenly_spaced():
    mask = equispaced_1d((4, 240), 4, 0.0, seeded(6))
    assert set(np.diff(np.flatnonzero(mask[0])).tolist()) == {4}
    outer = np.flatnonzero(equispaced_1d((4, 240), 4, 0.1, seeded(6))[0])
    assert np.ptp(np.diff(outer[outer < 108])) <= 1


def test_random_columns_cover_high_and_low_frequencies_alike():
    total = sum(random_1d((1, 100), 4, 0.08, seed)[0].int() for seed in range(400))
    assert torch.all(total[46:54] == 400)
    outside = torch.cat([total[:46], total[54:]]).double() / 400
    assert float(outside.mean()) == pytest.approx(17 / 92, abs=1e-6)
    assert float((outside - 17 / 92).abs().max()) < 5 * 0.0195


def test_poisson_disc_keeps_its_distance_and_thins_outwards():
    shape = (128, 128)
    mask = poisson_disc_2d(shape, 8, 0.1, seeded(7)).numpy()
    places = np.argwhere(mask)
    y, x = np.abs(places - 64).T
    outside = places[(y > 8) | (x > 8)]
    nearest = cKDTree(places).query(outside, k=2)[0][:, 1]
    radius = np.hypot(*(outside - 64).T) / 64
    uniform = np.argwhere(np.random.default_rng(0).random(shape) < 1 / 8)
    assert np.mean(nearest[radius > 0.4] < 1.5) < 0.03
    assert np.mean(cKDTree(uniform).query(uniform, k=2)[0][:, 1] < 1.5) > 0.4
    assert nearest[radius > 0.9].mean() > 1.4 * nearest[radius < 0.4].mean()


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize(
    ("acceleration", "calibration", "message"),
    [(0.5, 0.1, "at least 1"), (4, 1.5, "fraction"), (4, 0.9, "calibration"), (float("nan"), 0.1, "at least 1")],
)
def test_impossible_masks_are_refused(kind, acceleration, calibration, message):
    with pytest.raises(ValueError, match=message):
        kind((40, 40), acceleration, calibration, 0)
