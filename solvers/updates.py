"""From one noise level to the next: deterministic and stochastic update rules as pure functions.

All are variance exploding, x_sigma = x + sigma n. X(x, sigma) is the estimate of the clean volume, plain or corrected
by data; lambda = -ln sigma is the time in which second-order rules extrapolate X.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from solvers.conjugate_gradient import real_inner
from solvers.guidance import ddim_step

Noise = Callable[[], Tensor]


class Point(NamedTuple):
    """A level of the path: noise level sigma, iterate x (z y x) and estimate X(x, sigma) (z y x)."""

    sigma: float
    x: Tensor
    estimate: Tensor


def ddim(here: Point, sigma_next: float, eta: float, noise: Noise) -> Tensor:
    """X + sqrt(sigma'^2 - s^2) (x - X) / sigma + s z with s = eta sigma' sqrt(1 - sigma'^2 / sigma^2).

    Song, Meng and Ermon, ICLR 2021, eq. 12 and 16. Keeps the marginals of the diffusion for every eta: 0 is Euler's
    method for the probability-flow ODE, 1 the ancestral sampler.
    """
    return ddim_step(here.x, here.estimate, here.sigma, sigma_next, eta, noise)


def dds(here: Point, denoised: Tensor, sigma_next: float, eta: float, noise: Noise) -> Tensor:
    """X + sigma' (eta z + sqrt(1 - eta^2) (x - h) / sigma), h the plain denoised volume.

    Chung, Lee and Ye, ICLR 2024 (DDS, algorithm 1). More fresh noise than DDIM at the same eta, and the direction of
    an unconditional denoiser: samples of an exact X come out too narrow.
    """
    if sigma_next == 0:
        return here.estimate
    kept = sqrt(1 - eta**2) / here.sigma * (here.x - denoised)
    return here.estimate + sigma_next * (kept + eta * noise() if eta > 0 else kept)


def full(here: Point, sigma_next: float, noise: Noise) -> Tensor:
    """X + sigma' z: right where X is a draw from the posterior, 1/sqrt(2) of the spread where it is a mean."""
    return here.estimate + sigma_next * noise() if sigma_next > 0 else here.estimate


def dpmpp_2m(here: Point, before: Point | None, sigma_next: float) -> Tensor:
    """(sigma'/sigma) x + (1 - sigma'/sigma) [X + (X - X_before) / (2 q)], q = h_before / h, h = ln(sigma / sigma').

    Lu et al. 2022 (DPM-Solver++, algorithm 2) with alpha = 1. Second order in h; the first step and the step to 0,
    where h is infinite, are DDIM's.
    """
    return _exponential(here, None if before is None else _slope(before, here), sigma_next)


def evodiff(here: Point, before: Point | None, earlier: Point | None, sigma_next: float) -> tuple[Tensor, Tensor]:
    """(refined x at this level, x at the next level), two volumes (z y x).

    `here.x` is the point to which the last call stepped, and here.estimate the network's answer there. With difference
    quotients in lambda B_- = (X_before - X_earlier) / h_earlier and B_+ = (X - X_before) / h_before, the step from
    `before` to here is taken again with

        B(e) = (1/2 - e) B_+ + (1/2 + e) B_-,   e* = <B_+ + B_-, B_+ - B_-> / (2 |B_+ - B_-|^2), within [-1/2, 1/2],

    the slope of least norm between the two, and the path goes on from there by 2M. No further network call.

    EVODiff (Li, Chen and Zeng, NeurIPS 2025, arXiv:2509.26096) probes, then takes the step again with the balance of
    the two differences that minimises the conditional variance, for which the norm of their combination stands. That
    criterion and its minimiser e* are kept. The authors' program maps e* and a second factor through sigmoids with
    hand-set shifts and weighs B_+ and B_- by parts that do not sum to 1; this form keeps the sum, so that it is second
    order and equals DPM-Solver++ 2M where X is linear in lambda.
    """
    if before is None or earlier is None:
        return here.x, dpmpp_2m(here, before, sigma_next)
    refined = _exponential(before, least_slope(_slope(earlier, before), _slope(before, here)), here.sigma)
    return refined, dpmpp_2m(here._replace(x=refined), before, sigma_next)


def least_slope(old: Tensor, new: Tensor) -> Tensor:
    """The point of least norm on the segment between two tensors."""
    gap = new - old
    size = float(real_inner(gap, gap))
    if size == 0:
        return new
    e = float(real_inner(new + old, gap)) / (2 * size)
    e = min(max(e, -0.5), 0.5)
    return (0.5 - e) * new + (0.5 + e) * old


def _slope(first: Point, second: Point) -> Tensor:
    """dX / dlambda between two levels."""
    return (second.estimate - first.estimate) / log(first.sigma / second.sigma)


def _exponential(here: Point, slope: Tensor | None, sigma_next: float) -> Tensor:
    """The step with X + slope h / 2 in place of X."""
    if sigma_next == 0:
        return here.estimate
    ahead = here.estimate
    if slope is not None:
        ahead = ahead + 0.5 * log(here.sigma / sigma_next) * slope
    return torch.lerp(ahead, here.x, sigma_next / here.sigma)
