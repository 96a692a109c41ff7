"""The flag: probabilities in closed form, and lost and invented structures that it must find."""

import numpy as np
import pytest
import torch
from scipy import stats

from operators.linear import Identity
from solvers.matched_filter import matched_filter
from solvers.problem import Problem
from solvers.structure_doubt import DoubtSettings, Target, probability_wrong, refined, spread, structure_doubt

SPACING = (2.0, 1.5, 1.5)
SHAPE = (9, 32, 32)


def target(contrast: float, dark: bool) -> Target:
    return Target(np.full(1, contrast), np.full(1, dark))


@pytest.mark.parametrize("dark", [True, False])
def test_a_hidden_structure_has_the_gaussian_tails_beyond_half_the_contrast(dark):
    a, sd = np.array([-0.1, 0.0, 0.15]), np.array([0.1, 0.2, 0.05])
    found = probability_wrong(np.zeros(3), np.full(3, 9.0), a, sd, target(0.4, dark))
    law = stats.norm(a, sd)
    np.testing.assert_allclose(found, law.sf(0.2) + (law.cdf(-0.2) if dark else 0.0), atol=1e-12)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_shown_structure_is_wrong_when_the_truth_has_less_than_a_quarter_of_the_contrast(sign):
    best, sd = sign * np.array([0.5, 0.1, -0.1]), np.array([0.2, 0.1, 0.1])
    found = probability_wrong(np.full(3, sign * 0.21), best, np.zeros(3), sd, target(0.4, True))
    np.testing.assert_allclose(found, stats.norm(sign * best, sd).cdf(0.1), atol=1e-12)
    assert found[0] < found[1] < found[2]


def test_the_probability_is_the_frequency_of_wrong_decisions():
    rng = np.random.default_rng(0)
    middle, limit = rng.uniform(-0.4, 0.4, 200_000), 0.2
    truth = middle + 0.1 * rng.normal(size=middle.size)
    stated = probability_wrong(middle, middle, middle, np.full(middle.size, 0.1), target(2 * limit, True))
    shown = np.abs(middle) > limit
    wrong = np.where(shown, np.sign(middle) * truth < limit / 2, np.abs(truth) > limit)
    for low in (0.0, 0.1, 0.2, 0.3, 0.4):
        chosen = (stated >= low) & (stated < low + 0.1)
        assert wrong[chosen].mean() == pytest.approx(stated[chosen].mean(), abs=0.01)


def test_certain_samples_give_nought_or_one_and_never_nan():
    found = probability_wrong(np.zeros(2), np.zeros(2), np.array([0.1, 0.3]), np.zeros(2), target(0.4, True))
    np.testing.assert_array_equal(found, [0.0, 1.0])


def test_the_spread_of_white_samples_is_that_of_the_filter():
    rng, shape = np.random.default_rng(0), matched_filter(6.0, SPACING)
    samples = [shape.amplitude(rng.normal(0, 3.0, (24, 64, 64))) for _ in range(4)]
    inside = spread(samples, SPACING)[6:-6, 8:-8, 8:-8]
    assert inside.mean() == pytest.approx(3.0 * np.sqrt((shape.weights**2).sum()), rel=0.05)
    rough = np.std(samples, axis=0, ddof=1)[6:-6, 8:-8, 8:-8]
    assert inside.std() < 0.6 * rough.std()


def balls(*places: tuple[int, int, int]) -> np.ndarray:
    shape, volume = matched_filter(6.0, SPACING), np.zeros(SHAPE, np.float32)
    half = [side // 2 for side in shape.profile.shape]
    for place in places:
        volume[tuple(slice(i - h, i + h + 1) for i, h in zip(place, half))] += shape.profile
    return volume


KEPT, LOST, INVENTED = (4, 8, 8), (4, 8, 24), (4, 24, 8)


def test_lost_and_invented_structures_are_found_and_kept_and_empty_places_are_not():
    """The data are the truth with noise; the picture lacks one ball and has one too many."""
    truth, sigma = torch.from_numpy(balls(KEPT, LOST)), 0.05
    generator = torch.Generator().manual_seed(0)
    y = truth + sigma * torch.randn(SHAPE, generator=generator)
    problem = Problem(Identity(), y, torch.full((1, 1, 1), sigma**-2), y, 1.0, SPACING)
    picture = torch.from_numpy(balls(KEPT, INVENTED))
    again = refined(problem, picture, (0.0, 0.0, 0.0), DoubtSettings(change_std=0.5)).numpy()
    np.testing.assert_allclose(again[LOST], float(y[LOST]) / (1 + sigma**2 / 0.25), rtol=0.02)
    doubt = balls(INVENTED)
    noise = 0.05 * np.random.default_rng(0).normal(size=(4, *SHAPE))
    samples = [picture.numpy() + weight * doubt + noise[k] for k, weight in enumerate((-1.0, 0.2, -0.9, 0.1))]
    best = picture.numpy() - 0.8 * doubt
    shape = matched_filter(6.0, SPACING)
    flag = structure_doubt(shape, picture.numpy(), best, again, samples, target(1.0, True), SPACING)
    assert flag.shape == SHAPE
    assert flag.dtype == np.float32
    assert 0 <= flag.min() <= flag.max() <= 1
    assert flag[LOST] > 0.9
    assert flag[INVENTED] > 0.5
    assert flag[KEPT] < 0.05
    assert flag[4, 24, 24] < 0.01


def test_one_sample_is_refused():
    volume = np.zeros(SHAPE)
    with pytest.raises(ValueError, match="two samples"):
        structure_doubt(matched_filter(6.0, SPACING), volume, volume, volume, [volume], target(1.0, True), SPACING)
