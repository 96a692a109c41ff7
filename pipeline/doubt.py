"""Where a picture may show a small structure that is not there, or hide one that is: the `flag` map.

Which contrast counts: for CT 400 HU in lung (surroundings below -500 HU; there structures are brighter than air) and
40 HU elsewhere, for MR 15 % of the signal about it.
"""

from typing import Any

import numpy as np
from torch import Tensor

from solvers.correction import error_correlation
from solvers.matched_filter import Spacing, matched_filter
from solvers.null_space import smooth
from solvers.problem import Problem
from solvers.structure_doubt import Target, refined, structure_doubt

# Prior units: CT HU / 1000, MR shares of the brightest tissue.
LUNG_BELOW, LUNG_CONTRAST, SOFT_CONTRAST = -0.5, 0.4, 0.04
MR_SHARE, MR_LEAST_SIGNAL = 0.15, 0.2
SURROUNDINGS_MM = 6.0


def target_of(estimate: np.ndarray, modality: str, spacing_mm: Spacing) -> Target:
    """Contrast that counts at every voxel of an estimate (z y x; MR: magnitude), all in prior units."""
    about = smooth(estimate.astype(np.float64), SURROUNDINGS_MM, spacing_mm)
    if modality == "mr":
        contrast = MR_SHARE * np.maximum(about, MR_LEAST_SIGNAL)
        return Target(contrast, np.ones(contrast.shape, bool))
    lung = about < LUNG_BELOW
    return Target(np.where(lung, LUNG_CONTRAST, SOFT_CONTRAST), ~lung)


def doubt_maps(
    problem: Problem,
    modality: str,
    card: dict[str, Any],
    picture: Tensor,
    best: Tensor,
    samples: Tensor,
    diameters_mm: tuple[float, ...],
) -> dict[float, np.ndarray]:
    """By diameter the map (z y x) of the probability that `picture` is wrong about a structure of that size.

    picture, best (z y x), samples (K z y x, K >= 2): as the solver made them, prior units; best is the point estimate
    where there is one, else the mean. Magnitudes of complex volumes are compared.
    """
    again = refined(problem, best, error_correlation(problem, card, "point")[0])
    shown, estimate, brought_back, *draws = (_magnitude(x) for x in (picture, best, again, *samples))
    target = target_of(estimate, modality, problem.spacing_mm)
    return {
        diameter: structure_doubt(
            matched_filter(diameter, problem.spacing_mm),
            shown,
            estimate,
            brought_back,
            draws,
            target,
            problem.spacing_mm,
        )
        for diameter in diameters_mm
    }


def _magnitude(x: Tensor) -> np.ndarray:
    return (x.abs() if x.is_complex() else x).detach().cpu().numpy()
