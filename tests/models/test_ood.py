"""The alarm's ratios against the closed form of a Gaussian prior; its limits against simulated volumes."""

import numpy as np
import pytest
import torch

from models.gaussian import GaussianPrior
from models.ood import SIGMAS, Ratios, alarm_table, blocks, judge, ratios

STD, MEAN = 0.5, -0.3


def gaussian(modality: str = "ct") -> GaussianPrior:
    """Independent voxels with the card that validation on its own draws would write."""
    grid = np.geomspace(0.01, 3, 30)
    exact = STD**2 * grid**2 / (STD**2 + grid**2)
    card = {"name": "gauss", "validation": {"sigma": list(grid), "error_variance": list(exact)}}
    return GaussianPrior(torch.tensor(STD**2), 0.0 if modality == "mr" else MEAN, modality, card)


def draw(std: float, seed: int = 1, shape: tuple[int, int, int] = (9, 64, 64)) -> torch.Tensor:
    return MEAN + std * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def expected(std: float, sigma: float) -> float:
    """E|D - x|^2 / (S s^2/(S+s^2)) for x of variance std^2: D - x = -s^2/(S+s^2) (x - m) + S/(S+s^2) s n."""
    power, noise = STD**2, sigma**2
    return (noise**2 * std**2 + power**2 * noise) / (power + noise) ** 2 / (power * noise / (power + noise))


@pytest.mark.parametrize("std", [STD, 2 * STD, 0.2])
def test_ratios_have_their_closed_form(std):
    measured = ratios(gaussian(), draw(std), (2.0, 1.0, 1.0))
    wanted = [expected(std, sigma) for sigma in SIGMAS]
    np.testing.assert_allclose(measured.error, wanted, rtol=0.03)
    np.testing.assert_allclose(measured.predicted, wanted, rtol=0.03)
    if std == STD:
        np.testing.assert_allclose(wanted, 1.0)


def test_magnitudes_of_mr_are_judged_per_real_component():
    # |x| = STD sqrt(2) has the variance STD^2 in each component under a phase that is uniform
    flat = torch.full((9, 256, 256), STD * 2**0.5)
    seeds = [ratios(gaussian("mr"), flat, (2.0, 1.0, 1.0), seed) for seed in range(6)]
    np.testing.assert_allclose(np.mean([s.error for s in seeds], axis=0), 1.0, rtol=0.05)


def test_blocks_are_even_and_inside():
    assert blocks(1) == [slice(0, 1)]
    assert blocks(9) == [slice(0, 9)]
    for count in (10, 37, 275):
        chosen = blocks(count)
        assert len(chosen) == 3
        assert all(0 <= b.start < b.stop <= count and b.stop - b.start == 3 for b in chosen)
        centre = np.mean([b.start + 1 for b in chosen])
        assert abs(centre - (count - 1) / 2) <= 1


def test_limits_hold_one_more_volume_with_the_stated_probability():
    generator, known, runs = np.random.default_rng(0), 8, 4000
    names = ("low", "unsure", "out")
    beyond = dict.fromkeys(names, 0)
    for _ in range(runs):
        drawn = np.exp(generator.normal(0.2, 0.5, (known + 1, 6)))
        rows = [Ratios(tuple(row[:3]), tuple(row[3:])) for row in drawn]
        table = alarm_table({str(i): row for i, row in enumerate(rows[:-1])})
        for name in names:
            limits = np.array([*table["error"][name], *table["predicted"].get(name, ())])
            last = drawn[-1, : len(limits)]
            beyond[name] += bool(((last < limits) if name == "low" else (last > limits)).any())
    # three (low) or six independent ratios at 5 % (1 %) in all, within four standard errors of the counts
    for name, count, share in (("low", 3, 0.05), ("unsure", 6, 0.05), ("out", 6, 0.01)):
        exact = 1 - (1 - share / count) ** count
        assert beyond[name] / runs == pytest.approx(exact, abs=4 * (exact / runs) ** 0.5)


def test_volumes_that_all_agree_leave_a_margin():
    table = alarm_table({str(i): Ratios((1.0,) * 3, (1.0,) * 3) for i in range(20)})
    assert table["error"]["low"][0] < 0.85
    assert table["error"]["unsure"][0] > 1.2


def test_two_volumes_are_too_few():
    with pytest.raises(ValueError, match="three volumes"):
        alarm_table({"a": Ratios((1.0,) * 3, (1.0,) * 3), "b": Ratios((1.0,) * 3, (1.0,) * 3)})


def test_verdicts():
    card = gaussian().card | {"alarm": alarm_table({str(i): Ratios((1.0,) * 3, (1.0,) * 3) for i in range(20)})}
    ones = (1.0,) * 3
    assert judge(Ratios(ones, ones), card).name == "in"
    assert judge(Ratios((1.0, 1.0, 1.36), ones), card).name == "unsure"
    assert judge(Ratios(ones, (3.0, 1.0, 1.0)), card).name == "out"
    assert "3.0 times" in judge(Ratios(ones, (3.0, 1.0, 1.0)), card).sentence
    assert judge(Ratios(ones, (0.4, 1.0, 1.0)), card).name == "in"
    low = judge(Ratios((0.4, 1.0, 1.0), ones), card)
    assert low.name == "unsure"
    assert "smoother" in low.sentence
    assert judge(Ratios((0.4, 1.0, 1.0), (3.0, 1.0, 1.0)), card).name == "out"
    assert judge(Ratios(ones, ones), gaussian().card).name == "unsure"
