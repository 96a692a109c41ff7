"""Total variation between slices by ADMM with variables that live as long as the sampler.

R_z(x) = lambda |Dz x|_1 with Neumann ends. Splitting d = Dz x with scaled multiplier u (Chung et al. 2023,
DiffusionMBIR) leaves a quadratic in x, (rho/2) |Dz x - (d - u)|^2: one more block of data for the shared correction,

    y+ = (y, d - u),   A+ = (A, Dz),   W+ = (W, rho);     then d <- S_{lambda/rho}(Dz x + u),   u <- u + Dz x - d.

rho is given in units of 1 / sigma_y^2, the threshold lambda/rho in image units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from operators.finite_difference import SliceDifference
from operators.linear import LinearOperator
from solvers.correction import ErrorModel, correct
from solvers.problem import Problem
from solvers.slice_coupling import soft_threshold

NO_PRIOR_GAMMA = 1e6
DIFFERENCE = SliceDifference()


@dataclass(frozen=True)
class SplitTv:
    """rho: weight of the coupling in units of 1/sigma_y^2; threshold: lambda/rho in image units."""

    rho: float
    threshold: float

    def start(self, x: Tensor) -> dict[str, Tensor]:
        """Split variables of a volume (z y x) before the first sweep: d = u = 0, each (z-1 y x)."""
        zeros = torch.zeros_like(x[1:])
        return {"d": zeros, "u": zeros.clone()}

    def update(self, x: Tensor, split: dict[str, Tensor]) -> dict[str, Tensor]:
        """d <- S(Dz x + u), u <- u + Dz x - d."""
        v = DIFFERENCE(x) + split["u"]
        d = soft_threshold(v, self.threshold)
        return {"d": d, "u": v - d}


class _Stacked(LinearOperator):
    """x -> (A x, Dz x) as one flat vector."""

    def __init__(self, first: LinearOperator, data_shape: tuple[int, ...], shape: tuple[int, ...]) -> None:
        self.first, self.data_shape = first, tuple(data_shape)
        self.difference_shape = (shape[0] - 1, *shape[1:])
        self.size = torch.Size(data_shape).numel()

    def _forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.first.forward(x).reshape(-1), DIFFERENCE(x).reshape(-1)])

    def _adjoint(self, y: Tensor) -> Tensor:
        data, differences = y[: self.size].reshape(self.data_shape), y[self.size :].reshape(self.difference_shape)
        return self.first.adjoint(data) + DIFFERENCE.adjoint(differences)

    def normal(self, weights: Tensor) -> Callable[[Tensor], Tensor]:
        first = self.first.normal(weights[: self.size].reshape(self.data_shape))
        slices = weights[self.size :].reshape(self.difference_shape)
        return lambda x: first(x) + DIFFERENCE.adjoint(slices * DIFFERENCE(x))


def with_slice_term(problem: Problem, target: Tensor, rho: float) -> Problem:
    """The problem with the extra data Dz x = target (z-1 y x) of inverse variance rho / sigma_y^2."""
    weight = torch.full((target.numel(),), rho / problem.noise_variance(), device=target.device)
    weights = torch.cat([problem.weights.expand(problem.y.shape).reshape(-1), weight.to(problem.weights.dtype)])
    return replace(
        problem,
        A=_Stacked(problem.A, tuple(problem.y.shape), problem.shape),
        y=torch.cat([problem.y.reshape(-1), target.reshape(-1)]),
        weights=weights,
    )


def data_step(
    problem: Problem,
    h: Tensor,
    gamma: float | None,
    iterations: int,
    tv: SplitTv | None = None,
    split: dict[str, Tensor] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mode of the correction with r^2 = gamma sigma_y^2 by `iterations` CG steps from h (z y x), and the new split.

    gamma null leaves h out of the objective (r -> infinity): then h counts only as the start of CG, stopped early.
    """
    r = torch.tensor((NO_PRIOR_GAMMA if gamma is None else gamma) * problem.noise_variance(), device=h.device).sqrt()
    if tv is None:
        return correct(problem, h, ErrorModel(r), iterations, 0.0), {}
    coupled = with_slice_term(problem, split["d"] - split["u"], tv.rho)
    x = correct(coupled, h, ErrorModel(r), iterations, 0.0)
    return x, tv.update(x, split)


def starting_point(problem: Problem, sigma: float, noise: Tensor, pure_noise: bool) -> Tensor:
    """x_init + sigma noise, or sigma noise alone."""
    return sigma * noise if pure_noise else problem.x_init + sigma * noise


def following(sigmas: list[float], first: int) -> Iterator[tuple[int, float, float]]:
    """(level, sigma, next sigma) from level `first` on; the level after the last is 0."""
    for level in range(first, len(sigmas)):
        yield level, sigmas[level], sigmas[level + 1] if level + 1 < len(sigmas) else 0.0
