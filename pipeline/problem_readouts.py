"""The inverse problem of readouts along a trajectory: A = (d^(1/2) F S)/|A| with the density d of samples.

y = d^(1/2) samples/(scale |A|), with weights scale^2 |A|^2 / (d sigma^2): the noise model is the scanner's, and the
density makes A^H A nearly the identity.
"""

import numpy as np
import torch
from torch import Tensor

from data.errors import InputError
from operators.noncartesian_mri import NonCartesianMri
from operators.norm import Normalised, operator_norm
from pipeline.measurement import Measurement
from pipeline.seeds import generator
from pipeline.start_mr import cg_sense_start, mr_sigma_init
from pipeline.units import HeldOut, Units
from solvers.problem import Problem


def readout_problem(measurement: Measurement) -> tuple[Problem, Units]:
    """Problem and units; held-out readouts are predicted without density, as they were measured."""
    tensors = {name: torch.from_numpy(array) for name, array in measurement.tensors.items()}
    path, maps = tensors["trajectory"], tensors["sensitivities"]
    density = tensors["density"].clamp_min(1e-6)
    try:
        acquisition = NonCartesianMri(path, maps, density)
    except ValueError as error:
        raise InputError(f"measurement.safetensors: {error} Measure it again.") from error
    one = _middle_slice(path, maps, density)
    shape, one_slice = measurement.shape_zyx, (1, *maps.shape[2:])
    norm = measurement.metadata.get("operator_norm")
    norm = norm or operator_norm(one, one_slice, torch.complex64, generator(0, "norm"))
    A = Normalised(acquisition, norm)
    sigma = torch.tensor(measurement.metadata["noise"]["sigma_per_coil"], dtype=torch.float32)[None, :, None]
    y = tensors["samples"] * _each(density).sqrt() / norm
    start = tensors.get("start")
    if start is None:
        start = cg_sense_start(A, y, (norm / sigma) ** 2, shape)
    scale = float(np.percentile(start.abs().numpy(), 99.5))
    if not scale > 0:
        raise InputError("measurement.safetensors: its CG-SENSE image is empty; leave this series out.")
    sigma_init = measurement.metadata.get("sigma_init")
    if sigma_init is None:
        sigma_init = mr_sigma_init(Normalised(one, norm), (norm * scale / sigma) ** 2, shape[1:])
    problem = Problem(
        A=A,
        y=y / scale,
        weights=(norm * scale / sigma) ** 2 / _each(density),
        x_init=start / scale,
        sigma_init=sigma_init,
        spacing_mm=measurement.spacing_mm,
        shape=shape,
        dtype=torch.complex64,
        geometry={"readout_samples": measurement.metadata["readouts"][1]},
    )
    return problem, Units("mr", scale, measurement.affine, "arbitrary", _heldout(tensors, maps, sigma, norm, scale))


def _heldout(tensors: dict[str, Tensor], maps: Tensor, sigma: Tensor, norm: float, scale: float) -> HeldOut | None:
    if "heldout_samples" not in tensors:
        return None
    y = tensors["heldout_samples"] / (norm * scale)
    operator = Normalised(NonCartesianMri(tensors["heldout_trajectory"], maps), norm)
    weights = ((norm * scale / sigma) ** 2).expand(1, -1, y.shape[2]).contiguous()
    return HeldOut(operator, y, weights)


def _each(density: Tensor) -> Tensor:
    """(n) or (z n) as (z coils n)."""
    return torch.atleast_2d(density)[:, None]


def _middle_slice(path: Tensor, maps: Tensor, density: Tensor) -> NonCartesianMri:
    middle = maps.shape[0] // 2
    one = slice(middle, middle + 1)
    return NonCartesianMri(
        path if path.ndim == 2 else path[one], maps[one], density if density.ndim == 1 else density[one]
    )
