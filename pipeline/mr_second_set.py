"""A second set of coil sensitivities, for an object larger than the field of view.

The k-space is then F (S_1 x_1 + S_2 x_2): where the object folds onto itself two places share a pixel. Both images are
found together by regularised least squares (soft SENSE, Uecker et al. 2014); the part of k-space that x_2 explains is
taken off, and every later stage reconstructs x_1 with S_1. What is shown is x_1. Uncertainty does not cover x_2.
"""

import numpy as np
import torch

from operators.cartesian_mri import CartesianMri, SoftSense
from pipeline.measurement import Measurement, pack_kspace, unpack_kspace
from solvers.conjugate_gradient import conjugate_gradient

ITERATIONS, RIDGE = 40, 1e-2
NOT_COVERED = (
    "two sets of coil maps: the image of the second, {percent:.1f} % of the energy, was estimated by least squares and "
    "taken off; the intervals do not cover its error, which is largest where the object folds onto itself"
)


def without_second_set(measurement: Measurement, second: np.ndarray) -> Measurement:
    """The measurement less what the second set (z coils y x) explains; held-out samples tell nothing about it."""
    tensors, first = dict(measurement.tensors), measurement.tensors["sensitivities"]
    kspace, mask = unpack_kspace(tensors)
    sigma = torch.tensor(measurement.metadata["noise"]["sigma_per_coil"], dtype=torch.float32)
    weights = (1 / sigma**2 / float((1 / sigma**2).max()))[None, :, None, None]
    sets = tuple(torch.from_numpy(maps) for maps in (first, second))
    both = SoftSense(torch.from_numpy(mask), sets)
    b = both.adjoint(weights * torch.from_numpy(kspace))
    images = conjugate_gradient(
        lambda x: both.adjoint(weights * both(x)) + RIDGE * x, b, torch.zeros_like(b), ITERATIONS, 1e-4
    )
    for prefix in ("", "heldout_"):
        if f"{prefix}mask" in tensors:
            samples, places = unpack_kspace(tensors, prefix)
            folded = CartesianMri(torch.from_numpy(places), sets[1])(images[1]).numpy()
            tensors |= pack_kspace(samples - folded, places, prefix)
    share = float(images[1].abs().square().sum() / images.abs().square().sum())
    warnings = [*measurement.metadata.get("warnings", []), NOT_COVERED.format(percent=100 * share)]
    tensors["second_image"] = images[1].numpy()
    return Measurement(tensors, measurement.metadata | {"warnings": warnings})
