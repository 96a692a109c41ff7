"""What particle samplers share: weights, resampling, and the linear algebra of many volumes at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from models.denoised import Denoised
from solvers.correction import ErrorModel, correct
from solvers.draws import Draws
from solvers.problem import Problem
from solvers.settings import require
from solvers.state import State

if TYPE_CHECKING:
    from models.prior import SlicePrior

RESAMPLE_BELOW = 0.5


class Population(NamedTuple):
    """x (k z y x), log_weights (k) float64, and sizes (levels so far) float64: effective size at every level."""

    x: Tensor
    log_weights: Tensor
    sizes: Tensor

    @classmethod
    def start(cls, x: Tensor) -> Population:
        """Equal weights."""
        return cls(x, torch.zeros(len(x), dtype=torch.float64), torch.zeros(0, dtype=torch.float64))

    @classmethod
    def of(cls, state: State) -> Population:
        return cls(*(state.extra[name] for name in cls._fields))

    def weighed(self, gain: Tensor) -> Population:
        """Log-weights plus `gain` (k); the effective size is written down."""
        log_weights = self.log_weights + gain
        size = torch.tensor([effective_size(log_weights)], dtype=torch.float64)
        return self._replace(log_weights=log_weights, sizes=torch.cat([self.sizes, size]))

    def survivors(self, draws: Draws, level: int) -> Tensor | None:
        """Indices (k) of the resampled, or None where the effective size is at least half the particles."""
        if effective_size(self.log_weights) >= RESAMPLE_BELOW * len(self.x):
            return None
        return systematic(self.log_weights, _uniform(draws, level, "resample"))

    def with_equal_weights(self, x: Tensor) -> Population:
        return self._replace(x=x, log_weights=torch.zeros_like(self.log_weights))

    def estimate(self, estimates: Tensor, mode: str, draws: Draws) -> Tensor:
        """Weighted mean ("point") of estimates (k z y x), or the one that a uniform number of the run picks."""
        if mode == "point":
            weights = torch.softmax(self.log_weights, 0).to(estimates.device, estimates.dtype)
            return torch.einsum("k,kzyx->zyx", weights, estimates)
        return estimates[choice(self.log_weights, _uniform(draws, "choice"))].clone()

    def state(self, level: int, estimate: Tensor, calls: int, **extra: Tensor) -> State:
        return State(level, estimate, estimate, {**self._asdict(), **extra}, calls)


@dataclass(frozen=True)
class Ensemble:
    """`count` volumes of one problem, x (k z y x), one after the other, or `stacked` along z in one call.

    Stacking is for priors and operators that treat slices one by one, with z as the first axis of the data.
    """

    problem: Problem
    prior: SlicePrior
    count: int
    stacked: bool
    iterations: int
    tolerance: float

    def __post_init__(self) -> None:
        require(self.problem.slicewise or not self.stacked, "stacked particles need data of single slices.")

    def denoise(self, x: Tensor, sigma: float) -> Denoised:
        """Moments of every volume (k z y x)."""
        answers = [self.prior.denoise(part, sigma, self.problem.spacing_mm) for part in self._parts(x)]
        return Denoised(*(self._whole([answer[i] for answer in answers]) for i in range(2)))

    def draw(self, h: Tensor, r2: float, draws: Draws, *tags: int | str) -> Tensor:
        """Draws (k z y x) from N(x; h, r^2) N(y; A x, W^-1)."""
        solve = (ErrorModel(torch.tensor(sqrt(r2), device=h.device)), self.iterations, self.tolerance, draws)
        parts = enumerate(self._parts(h))
        return self._whole([correct(self._stack, part, *solve, (*tags, k)) for k, part in parts])

    def log_evidence(self, h: Tensor, r2: float) -> Tensor:
        """log N(y; A h, W^-1 + r^2 A A^H) of every volume up to its determinant, (k) float64; r^2 may be 0.

        With e = y - A h and x the mode of N(x; h, r^2) N(y; A x, W^-1), Woodbury's identity gives
        e^H (W^-1 + r^2 A A^H)^-1 e = |e|^2_W - Re <A^H W e, x - h>.
        """
        problem, values = self._stack, []
        error = ErrorModel(torch.tensor(sqrt(r2), device=h.device))
        for part in self._parts(h):
            residual = problem.y - problem.A(part)
            value = -self._sum(problem.weights * residual.abs().square())
            if r2 > 0:
                back = problem.A.adjoint(problem.weights * residual)
                shift = correct(problem, part, error, self.iterations, self.tolerance) - part
                value = value + self._sum((back.conj() * shift).real if shift.is_complex() else back * shift)
            values.append(value / 2)
        return torch.cat(values)

    @property
    def _stack(self) -> Problem:
        if not self.stacked:
            return self.problem
        p = self.problem
        repeated = [t.repeat(self.count, *(1,) * (t.ndim - 1)) for t in (p.y, p.weights.expand(p.y.shape), p.x_init)]
        return replace(p, y=repeated[0], weights=repeated[1], x_init=repeated[2], shape=None)

    def _parts(self, x: Tensor) -> list[Tensor]:
        # Copies: sums over views that are aligned otherwise after a resume would differ in the last bit.
        return [x.flatten(0, 1)] if self.stacked else [volume.clone() for volume in x]

    def _whole(self, parts: list[Tensor]) -> Tensor:
        return parts[0].unflatten(0, (self.count, -1)) if self.stacked else torch.stack(parts)

    def _sum(self, values: Tensor) -> Tensor:
        """Sum over every volume's entries (k or 1) float64."""
        return values.reshape(self.count if self.stacked else 1, -1).sum(1, dtype=torch.float64).cpu()


def effective_size(log_weights: Tensor) -> float:
    """1 / sum w^2 of normalised weights: their number if equal, 1 if one has all the weight."""
    return float(1 / torch.softmax(log_weights, 0).square().sum())


def systematic(log_weights: Tensor, offset: float) -> Tensor:
    """Indices (k) in which particle i appears floor or ceil of k w_i times, by one uniform number in [0, 1)."""
    count = len(log_weights)
    edges = torch.softmax(log_weights, 0).cumsum(0)
    places = (torch.arange(count, dtype=torch.float64) + offset) / count
    return torch.searchsorted(edges / edges[-1], places, right=True).clamp_max(count - 1)


def choice(log_weights: Tensor, uniform: float) -> int:
    """The particle whose share of the weight holds `uniform` in [0, 1)."""
    edges = torch.softmax(log_weights, 0).cumsum(0)
    return min(int(torch.searchsorted(edges, uniform * edges[-1])), len(edges) - 1)


def _uniform(draws: Draws, *tags: int | str) -> float:
    return float(torch.rand((), generator=draws.generator(*tags), dtype=torch.float64))
