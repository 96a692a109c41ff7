"""How likely a picture is wrong about a structure: shows one that is not there, or hides one that is.

A structure is a ball of one diameter and of contrast C or more against its surroundings. The matched filter gives its
amplitude a at every voxel; one is *shown* where |a| of the picture exceeds T = C / 2. For the true amplitude a* the
samples give a spread s and two estimates give the middle:

    shown    P(sign(a) a* < T / 2),  a* ~ N(a of the best estimate, s^2)
    hidden   P(|a*| > T),            a* ~ N(a of the refined estimate, s^2)

The refined estimate lets the data speak once more: a lost structure leaves its trace in the residual, and one step with
a wide, short-ranged prior about the estimate brings back what of it the data hold (`refined`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage, special
from torch import Tensor

from solvers.correction import ErrorModel, correct
from solvers.matched_filter import MatchedFilter, Spacing
from solvers.problem import Problem

TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class DoubtSettings:
    """change_std      standard deviation of what the refining step may change, prior units (CT: 1000 HU)
    widths_mm       Gaussians over which the samples' variance of amplitudes is averaged, one half each: few samples
                    give a rough variance, and neighbours share what they know
    cg_iterations, cg_tolerance   of the refining step
    """

    change_std: float = 0.3
    widths_mm: tuple[float, float] = (2.0, 8.0)
    cg_iterations: int = 30
    cg_tolerance: float = 1e-2


@dataclass(frozen=True, eq=False)
class Target:
    """Contrast C > 0 that counts at every voxel (z y x), in the volumes' units; `dark`: whether structures darker than
    their surroundings count, too. Broadcastable to the volume."""

    contrast: np.ndarray
    dark: np.ndarray


@torch.no_grad()
def refined(
    problem: Problem,
    estimate: Tensor,
    correlation: tuple[float, float, float],
    settings: DoubtSettings = DoubtSettings(),
) -> Tensor:
    """Estimate (z y x) plus the change that the data ask for: argmin |x - h|^2 / change_std^2 + |y - A x|^2_W, changes
    correlated along (z, y, x) with these lag-1 coefficients."""
    change = ErrorModel(torch.full_like(problem.x_init.real, settings.change_std), correlation)
    return correct(problem, estimate, change, settings.cg_iterations, settings.cg_tolerance)


def spread(
    amplitudes: Sequence[np.ndarray], spacing_mm: Spacing, settings: DoubtSettings = DoubtSettings()
) -> np.ndarray:
    """Standard deviation (z y x) of the amplitudes of two samples or more, its square averaged over widths_mm."""
    variance = np.var(np.stack(amplitudes), axis=0, ddof=1)
    averaged = [
        ndimage.gaussian_filter(variance, [width / edge for edge in spacing_mm], mode="nearest")
        for width in settings.widths_mm
    ]
    return np.sqrt(sum(averaged) / len(averaged))


def probability_wrong(
    shown: np.ndarray, best: np.ndarray, brought_back: np.ndarray, sd: np.ndarray, target: Target
) -> np.ndarray:
    """Probability (z y x) that the picture is wrong about a structure, from the amplitudes in the picture, in the best
    and in the refined estimate, and their standard deviation."""
    limit, sd = target.contrast / 2, np.maximum(sd, TINY)
    is_shown = np.abs(shown) > limit
    invented = special.ndtr((limit / 2 - np.sign(shown) * best) / sd)
    lost = special.ndtr((brought_back - limit) / sd)
    lost = lost + np.where(target.dark, special.ndtr((-brought_back - limit) / sd), 0.0)
    return np.where(is_shown, invented, lost)


def structure_doubt(
    shape: MatchedFilter,
    picture: np.ndarray,
    best: np.ndarray,
    refined_best: np.ndarray,
    samples: Sequence[np.ndarray],
    target: Target,
    spacing_mm: Spacing,
    settings: DoubtSettings = DoubtSettings(),
) -> np.ndarray:
    """Map (z y x, float32, 0 to 1) of `probability_wrong` for structures of the filter's diameter.

    picture: what is shown; best: the estimate nearest to the truth (may be the picture); samples: two or more. All are
    real volumes (z y x) in one unit.
    """
    if len(samples) < 2:
        raise ValueError("need two samples or more")
    amplitudes = [shape.amplitude(volume) for volume in (picture, best, refined_best)]
    sd = spread([shape.amplitude(sample) for sample in samples], spacing_mm, settings)
    return probability_wrong(*amplitudes, sd, target).astype(np.float32)
