"""Self-supervised adaptation of a slice prior to one study, through its operator: no truth anywhere.

Barbano et al. 2023 ("Steerable conditional diffusion for out-of-distribution adaptation in medical image
reconstruction", arXiv:2308.14409) tune low-rank updates of the network by |y - A D(x_sigma)|^2 within the sampler.
Here reconstruction and tuning alternate as in expectation maximisation, both on a part of the measured samples; the
rest says when to stop.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from models.adapt import denoise_slab, make_adaptable, merge, restore, snapshot
from models.preconditioning import scalings
from models.prior import SlicePrior
from solvers.correction import ErrorModel, correct
from solvers.draws import Draws
from solvers.problem import Problem
from solvers.run import run_solver
from solvers.settings import require

VARIANCE_SHARE = 0.1
CONSISTENCY_ITERATIONS = 5


@dataclass(frozen=True)
class AdaptationSettings:
    """How a prior is adapted to a study.

    kind, rank           what is trained: "low_rank" updates of every convolution, or the "last_layers"
    rounds, steps        reconstructions, and optimiser steps after each; stops when the held-out samples are predicted
                         worse than before
    learning_rate        of Adam
    self_training        weight of the denoising loss on the study's own reconstruction
    consistency          weight of the measurement consistency of the denoised slices
    target               "point": PaM's point estimate is the reconstruction, "sample": a posterior sample
    slices               neighbouring slices of one step
    held_out             share of the views (CT) or k-space lines (MR) kept for stopping
    least_gain           smallest relative gain of the held-out error that counts
    sigma_min, sigma_max noise levels of training, log-uniform
    pam                  settings of the reconstructions
    """

    kind: str = "low_rank"
    rank: int = 4
    rounds: int = 3
    steps: int = 30
    learning_rate: float = 1e-3
    self_training: float = 1.0
    consistency: float = 1.0
    target: str = "point"
    slices: int = 4
    held_out: float = 0.1
    least_gain: float = 0.03
    sigma_min: float = 0.02
    sigma_max: float = 0.5
    pam: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(self.kind in ("low_rank", "last_layers"), "kind must be 'low_rank' or 'last_layers'.")
        require(self.target in ("point", "sample"), "target must be 'point' or 'sample'.")
        counts = (self.rank, self.rounds, self.steps, self.slices)
        require(min(counts) >= 1, "rank, rounds, steps and slices must be at least 1.")
        require(0 < self.held_out < 1, "held_out must lie between 0 and 1.")
        require(self.self_training >= 0 and self.consistency >= 0, "loss weights must not be negative.")
        require(self.self_training + self.consistency > 0, "one of self_training and consistency must be positive.")
        require(0 < self.sigma_min <= self.sigma_max, "need 0 < sigma_min <= sigma_max.")


@dataclass(frozen=True, eq=False)
class Adapted:
    """The adapted prior (plain weights), and held-out mean W |y - A x|^2 before the first and after every round."""

    prior: SlicePrior
    heldout_chi2: list[float]
    best_round: int


def split_measurement(problem: Problem, share: float, draws: Draws) -> tuple[Problem, Problem]:
    """(fit, test): the same problem with the weights of one part of the measured samples zero, and of the other.

    CT (z views bins), cone beams (views rows columns): every 1/share-th view, from a random one on. MR (z coils y x): a
    random share of the lines along which the mask is constant, or of the single places of a mask without lines, outside
    the middle quarter of k-space. MR along a trajectory (z coils n): whole readouts.
    """
    weights = problem.weights.expand(problem.y.shape)
    if problem.dtype.is_complex and problem.y.ndim == 3:
        readouts = problem.y.shape[2] // problem.geometry["readout_samples"]
        chosen = torch.rand(readouts, generator=draws.generator("lines")) < share
        held = chosen.repeat_interleave(problem.geometry["readout_samples"])[None, None]
    elif problem.dtype.is_complex:
        held = _held_places(weights, share, draws)
    else:
        axis = 1 if problem.slicewise else 0
        views = weights.shape[axis]
        stride = max(2, round(1 / share))
        first = int(torch.randint(min(stride, views), (1,), generator=draws.generator("views")))
        held = torch.zeros(views, dtype=torch.bool)
        held[first::stride] = True
        held = held.reshape([-1 if a == axis else 1 for a in range(3)])
    held = held.to(weights.device)
    return replace(problem, weights=weights * ~held), replace(problem, weights=weights * held)


def _held_places(weights: Tensor, share: float, draws: Draws) -> Tensor:
    """(1 1 y x) places to keep back of k-space weights (z coils y x); a line is held whole or not at all."""
    sampled = (weights > 0).any(dim=1).any(dim=0)
    rows, columns = sampled.shape
    far_y = (torch.arange(rows) - rows // 2).abs() >= rows / 8
    far_x = (torch.arange(columns) - columns // 2).abs() >= columns / 8
    if bool((sampled == sampled[:1]).all()):
        free, shape = far_x[None, :], (1, columns)
    elif bool((sampled == sampled[:, :1]).all()):
        free, shape = far_y[:, None], (rows, 1)
    else:
        free, shape = far_y[:, None] | far_x[None, :], (rows, columns)
    chosen = torch.rand(shape, generator=draws.generator("lines")) < share
    return (chosen & free).expand(rows, columns)[None, None]


def adapt(
    problem: Problem,
    prior: SlicePrior,
    settings: AdaptationSettings,
    draws: Draws,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Adapted:
    """Alternates reconstruction (PaM on the fitted part of y) and tuning; keeps the round that predicts the held-out
    part best, round 0 being the prior as it was.

    One step at noise level sigma, on a slab of the reconstruction x^ with h = D(x^ + sigma n):
    loss = a |h - x^|^2 / c_out^2 + b |h - P(h)|^2 / c_out^2 + the variance head's likelihood of h - x^,
    P(h) = a few CG steps of argmin_x |x - h|^2 / (2 V) + |y - A x|^2_W / 2, V the predicted variance: the gradient of
    b's term is that of the measurement consistency |y - A h|^2_W, preconditioned by the network's own error.
    """
    fit, test = split_measurement(problem, settings.held_out, draws)
    parameters = make_adaptable(prior.network, settings.kind, settings.rank, draws.generator("adapt", "init"))
    optimiser = torch.optim.Adam(parameters, settings.learning_rate)
    x = _reconstruct(fit, prior, settings, draws, 0)
    chi2, best, kept = [test.chi2(x)], 0, snapshot(parameters)
    total = settings.rounds * settings.steps
    for index in range(settings.rounds):
        for step in range(settings.steps):
            optimiser.zero_grad(set_to_none=True)
            with torch.enable_grad():
                step_loss(fit, x, prior, settings, draws.child("adapt", index, step)).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            progress(index * settings.steps + step + 1, total)
        x = _reconstruct(fit, prior, settings, draws, index + 1)
        chi2.append(test.chi2(x))
        if not chi2[-1] < (1 - settings.least_gain) * chi2[best]:
            break
        best, kept = index + 1, snapshot(parameters)
    restore(parameters, kept)
    merge(prior.network)
    prior.network.requires_grad_(False)
    return Adapted(prior, chi2, best)


def step_loss(problem: Problem, x: Tensor, prior: SlicePrior, settings: AdaptationSettings, draws: Draws) -> Tensor:
    """Loss of one random slab at one random noise level, as `adapt` says; gradients reach the network alone."""
    generator = draws.generator("slab")
    count = min(settings.slices, x.shape[0])
    first = int(torch.randint(x.shape[0] - count + 1, (1,), generator=generator))
    low, high = math.log(settings.sigma_min), math.log(settings.sigma_max)
    sigma = math.exp(low + (high - low) * float(torch.rand((), generator=generator)))
    noisy = x + sigma * draws.normal(x.shape, x.dtype, "noise").to(x.device)
    slab = slice(first, first + count)
    mean, variance = denoise_slab(prior, noisy, slab, sigma, problem.spacing_mm)
    out2 = float(scalings(torch.tensor([sigma]), prior.sigma_data).out) ** 2
    loss = mean.new_zeros(()).real
    if settings.self_training > 0:
        loss = loss + settings.self_training * squares(mean - x[slab]).mean() / out2
    if settings.consistency > 0:
        target = consistent(problem, x, slab, mean.detach(), variance.detach())
        loss = loss + settings.consistency * squares(mean - target).mean() / out2
    error2 = squares(mean.detach() - x[slab])
    return loss + VARIANCE_SHARE * 0.5 * (error2 / variance + variance.log()).mean()


def squares(x: Tensor) -> Tensor:
    """|x|^2 per real component."""
    return x.abs().square() / 2 if x.is_complex() else x.square()


def consistent(problem: Problem, x: Tensor, slab: slice, h: Tensor, variance: Tensor) -> Tensor:
    """P(h) (slab y x): the slab moved towards the data by its error variance, all other slices held at x."""
    with torch.no_grad():
        whole, r = x.clone(), torch.zeros(x.shape, device=x.device)
        whole[slab], r[slab] = h, variance.sqrt()
        return correct(problem, whole, ErrorModel(r), CONSISTENCY_ITERATIONS, 0.0)[slab]


def _reconstruct(problem: Problem, prior: SlicePrior, settings: AdaptationSettings, draws: Draws, index: int) -> Tensor:
    chosen = settings.pam | {"mode": settings.target}
    return run_solver("pam", problem, prior, chosen, seed=draws.seed, sample=f"adapt{index}").estimate
