"""Out-of-distribution alarm: is the prior as right about a study's images as about those it was validated on?

A reconstruction x is noised again, y = x + sigma n, and denoised. Two ratios say whether D knows such images:
error      mean |D(y) - x|^2 over the error at sigma on the card's held-out volumes
predicted  mean of |D(y) - x|^2 / V, with V the variance that the network itself predicts for every voxel
Both are near 1 in distribution. Stein's unbiased estimate |y - D|^2/d - sigma^2 + 2 sigma^2 div D/d has the mean of
|D - x|^2/d, but needs a second network call for its probe and scatters with it; since x is known here, it is not
needed. The levels are high: below them a reconstruction's own smoothness, not its anatomy, sets the error.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from models.prior import SlicePrior
from models.volumes import TrainingVolume, smooth_phase

SIGMAS = (0.4, 1.0, 1.8)
BLOCKS, BLOCK_SLICES = 3, 3
KINDS = ("error", "predicted")
# at most these shares of further volumes of the known kind lie beyond a limit, all ratios and levels together
UNSURE, OUT = 0.05, 0.01
LEAST_SPREAD = 0.1


@dataclass(frozen=True)
class Ratios:
    """Both ratios of one volume at each of SIGMAS."""

    error: tuple[float, ...]
    predicted: tuple[float, ...]


@dataclass(frozen=True)
class Verdict:
    """`name` is "in", "unsure" or "out"; `sentence` says why, for a reader of the report."""

    name: str
    sentence: str


def blocks(count: int) -> list[slice]:
    """Up to BLOCKS runs of BLOCK_SLICES neighbouring slices, spread evenly over `count`; all where there are few."""
    if count <= BLOCKS * BLOCK_SLICES:
        return [slice(0, count)]
    starts = np.linspace(0, count - BLOCK_SLICES, BLOCKS + 2)[1:-1].round().astype(int)
    return [slice(int(s), int(s) + BLOCK_SLICES) for s in starts]


def card_error(card: dict[str, Any], sigma: float) -> float:
    """The card's held-out error at sigma, interpolated in the logarithms."""
    table = card["validation"]
    return float(np.exp(np.interp(np.log(sigma), np.log(table["sigma"]), np.log(table["error_variance"]))))


def ratios(prior: SlicePrior, x: Tensor, spacing_mm: tuple[float, float, float], seed: int = 0) -> Ratios:
    """Both ratios of a real volume x (z y x) in prior units; magnitudes of MR are given a random smooth phase."""
    parts = [_with_phase(prior, x[chosen], seed) for chosen in blocks(len(x))]
    generator = torch.Generator().manual_seed(seed)
    error, predicted = [], []
    for sigma in SIGMAS:
        squares, relative = [], []
        for part in parts:
            components = 2 if part.is_complex() else 1
            noise = torch.randn(part.shape, dtype=part.dtype, generator=generator) * components**0.5
            denoised = prior.denoise(part + sigma * noise, sigma, spacing_mm)
            squares.append((denoised.mean - part).abs() ** 2 / components)
            relative.append(squares[-1] / denoised.variance)
        error.append(float(torch.cat(squares).mean()) / card_error(prior.card, sigma))
        predicted.append(float(torch.cat(relative).mean()))
    return Ratios(tuple(error), tuple(predicted))


def alarm_table(reference: dict[str, Ratios]) -> dict[str, Any]:
    """Limits for the card from volumes that the prior should know: prediction intervals for one more volume.

    The logarithms of a ratio are taken for normal with unknown mean and variance, so that the next one lies below mean
    + t_{n-1}(p) s sqrt(1 + 1/n) with probability p; p = 1 - UNSURE / m and 1 - OUT / m for m ratios (Bonferroni), and
    the mirror of UNSURE below for `error` alone: less error than predicted is care, not smoothness. s is at least
    LEAST_SPREAD. ValueError with fewer than three volumes.
    """
    count = len(reference)
    if count < 3:
        raise ValueError(f"an alarm table needs three volumes or more, got {count}")
    table: dict[str, Any] = {"sigma": list(SIGMAS), "volumes": sorted(reference)}
    for kind in KINDS:
        logs = np.log([getattr(r, kind) for r in reference.values()])
        centre = logs.mean(axis=0)
        spread = np.maximum(logs.std(axis=0, ddof=1), LEAST_SPREAD) * np.sqrt(1 + 1 / count)
        tests = len(KINDS) * len(SIGMAS)
        unsure, out = (float(stats.t.isf(share / tests, count - 1)) for share in (UNSURE, OUT))
        limits = {"usual": centre, "unsure": centre + unsure * spread, "out": centre + out * spread}
        if kind == "error":
            limits["low"] = centre - stats.t.isf(UNSURE / len(SIGMAS), count - 1) * spread
        table[kind] = {name: [round(float(v), 4) for v in np.exp(values)] for name, values in limits.items()}
    return table


def reference_table(prior: SlicePrior, volumes: list[TrainingVolume], seed: int = 0) -> dict[str, Any]:
    """`alarm_table` of clean volumes, with the ratios of each and which of them the prior was trained on."""
    reference = {
        v.name: ratios(prior, torch.from_numpy(v.slices.astype(np.float32)), v.spacing_mm, seed) for v in volumes
    }
    trained = set(prior.card.get("training", {}).get("volumes", [])) & set(reference)
    measured = {name: {k: [round(x, 4) for x in v] for k, v in asdict(r).items()} for name, r in reference.items()}
    return alarm_table(reference) | {"trained_on": sorted(trained), "ratios": measured}


def limits_again(table: dict[str, Any]) -> dict[str, Any]:
    """A card's alarm table with limits found again from the ratios that it holds; no network call."""
    reference = {name: Ratios(tuple(r["error"]), tuple(r["predicted"])) for name, r in table["ratios"].items()}
    return table | alarm_table(reference)


def judge(measured: Ratios, card: dict[str, Any]) -> Verdict:
    """What the card's alarm table says of a volume's ratios; "unsure" for a card without one."""
    table = card.get("alarm")
    if not table:
        return Verdict(
            "unsure", f"Prior {card['name']} has no alarm table, so whether it knows such images is unknown."
        )
    worst = max(
        (getattr(measured, kind)[i] / table[kind]["usual"][i], kind, i) for kind in KINDS for i in range(len(SIGMAS))
    )
    above = {
        limit: any(getattr(measured, k)[i] > table[k][limit][i] for k in KINDS for i in range(len(SIGMAS)))
        for limit in ("unsure", "out")
    }
    known = f"{worst[0]:.1f} times what is usual for images like those it was made for"
    if above["out"]:
        text = (
            f"These images are outside what prior {card['name']} knows: its error is {known}. "
            "Do not trust detail that the data do not support; take another prior or adapt this one."
        )
        return Verdict("out", text)
    if above["unsure"]:
        text = f"Prior {card['name']} may not know such images: its error is {known}. Read fine detail with care."
        return Verdict("unsure", text)
    if any(ratio < limit for ratio, limit in zip(measured.error, table["error"]["low"], strict=True)):
        text = f"The images are smoother than those prior {card['name']} was made for: blurred, magnified or a phantom."
        return Verdict("unsure", text)
    return Verdict("in", f"Prior {card['name']} is as right about these images as about those it was made for.")


def _with_phase(prior: SlicePrior, x: Tensor, seed: int) -> Tensor:
    if prior.modality != "mr":
        return x
    phase = smooth_phase(max(x.shape[1:]), np.random.default_rng(seed))[: x.shape[1], : x.shape[2]]
    return x * phase.to(x.device)
