"""How wrong the denoiser is on the study at hand, measured by the study's own data."""

from __future__ import annotations

import torch

from solvers.correction import ErrorModel
from solvers.draws import Draws
from solvers.problem import Problem

# The measured scale is one number for a volume: beyond these bounds something other than the prior is wrong. Samples
# are never made narrower than the prior's card says: the residual does not see the part of the error that was not
# measured, and what it says of one patient's spread need not hold for the next one's.
LEAST, MOST = {"point": 0.25, "sample": 1.0}, 4.0


def error_scale(problem: Problem, h: torch.Tensor, error: ErrorModel, draws: Draws) -> float:
    """t for which the residual of a denoised volume `h` (z y x) is as large as errors of covariance t S S^H make it.

    With y = A x + n, cov(n) = W^-1 and x - h ~ N(0, t S S^H): E |y - A h|^2_W = m + t tr(W A S S^H A^H), where m counts
    measured real components. The trace is |A S z|^2_W of one unit Gaussian z (Hutchinson 1990). Needs no truth; sees
    the measured part of the error alone. Negative where the residual is smaller than the noise.
    """
    weights = problem.weights.expand(problem.y.shape)

    def weighted(residual: torch.Tensor) -> float:
        return float((weights * residual.abs().square()).sum(dtype=torch.float64))

    components = 2 if problem.y.is_complex() else 1
    measured = components * int((weights > 0).sum())
    probe = draws.normal(error.latent_shape(h.shape), h.dtype, "error scale").to(h.device)
    expected = weighted(problem.A(error.factor(probe)))
    return (weighted(problem.y - problem.A(h)) - measured) / expected


def measured_trust(
    problem: Problem, h: torch.Tensor, error: ErrorModel, per_scale: float, purpose: str, draws: Draws
) -> float:
    """Factor on the error's variance: `per_scale` (card, fitted on other patients) times `error_scale`, within bounds
    of the purpose, "point" or "sample".

    The part of the error that was not measured is larger than what was; `per_scale` is by how much, on average.
    """
    return min(max(per_scale * error_scale(problem, h, error, draws), LEAST[purpose]), MOST)
