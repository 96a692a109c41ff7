"""What a prior returns for one noisy volume."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

# Priors are trained on noise with lag-1 correlations between slices up to this one.
LARGEST_CORRELATION = 0.95


class Denoised(NamedTuple):
    """Posterior moments of a clean volume given x_sigma = x + sigma n.

    mean      (z y x) E[x | x_sigma]
    variance  (z y x) real: expected squared error of `mean` per real component
    """

    mean: Tensor
    variance: Tensor
