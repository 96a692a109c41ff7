"""Which contrast counts where, and maps of the flag for both modalities."""

import numpy as np
import pytest
import torch

from operators.linear import Identity
from pipeline.doubt import doubt_maps, target_of
from solvers.problem import Problem
from tests.solvers.problems import normal

SHAPE, SPACING = (9, 40, 40), (2.0, 2.0, 2.0)


def test_lung_asks_for_400_hu_brighter_and_the_rest_for_40_either_way():
    volume = np.zeros(SHAPE)
    volume[:, :, :20] = -0.85
    target = target_of(volume, "ct", SPACING)
    assert (target.contrast[:, :, :15] == 0.4).all()
    assert not target.dark[:, :, :15].any()
    assert (target.contrast[:, :, 25:] == 0.04).all()
    assert target.dark[:, :, 25:].all()


def test_mr_asks_for_a_share_of_the_signal_and_never_of_none():
    volume = np.full(SHAPE, 0.8)
    volume[:, :, :10] = 0
    contrast = target_of(volume, "mr", SPACING).contrast
    assert contrast[4, 20, 35] == pytest.approx(0.15 * 0.8, rel=0.01)
    assert contrast[4, 20, 0] == pytest.approx(0.15 * 0.2)


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_a_map_for_every_size_is_a_probability_and_a_phase_changes_nothing(modality):
    dtype = torch.complex64 if modality == "mr" else torch.float32
    truth = normal(SHAPE, dtype, 0) * 0.02 + 0.5
    y = truth + 0.02 * normal(SHAPE, dtype, 1)
    samples = truth + 0.05 * normal((3, *SHAPE), dtype, 2)

    def maps(turn):
        problem = Problem(Identity(), y * turn, torch.full((1, 1, 1), 0.02**-2), y * turn, 1.0, SPACING)
        return doubt_maps(problem, modality, {}, truth * turn, truth * turn, samples * turn, (4.0, 8.0))

    found = maps(1.0)
    assert set(found) == {4.0, 8.0}
    for volume in found.values():
        assert volume.shape == SHAPE
        assert 0 <= volume.min() <= volume.max() <= 1
    if modality == "mr":
        turned = maps(torch.exp(torch.tensor(0.7j)))
        np.testing.assert_allclose(turned[4.0], found[4.0], atol=1e-3)
