"""The MR part of `pipeline.problem`: u = image/scale with scale the 99.5th percentile of the start's magnitude,
A = (mask F S)/|A| and y = k-space/(scale |A|)."""

import numpy as np
import torch
from torch import Tensor

from data.errors import InputError
from operators.cartesian_mri import CartesianMri
from operators.norm import Normalised, operator_norm
from pipeline.measurement import Measurement, unpack_kspace
from pipeline.problem_readouts import readout_problem
from pipeline.seeds import generator
from pipeline.start_mr import cg_sense_start, mr_sigma_init
from pipeline.units import HeldOut, Units
from solvers.problem import Problem


def mr_problem(measurement: Measurement) -> tuple[Problem, Units]:
    """Problem and units of Cartesian k-space, or of readouts along a trajectory."""
    return readout_problem(measurement) if "trajectory" in measurement.tensors else _cartesian_problem(measurement)


def _cartesian_problem(measurement: Measurement) -> tuple[Problem, Units]:
    shape = measurement.shape_zyx
    kspace, mask = unpack_kspace(measurement.tensors)
    sensitivities = torch.from_numpy(measurement.tensors["sensitivities"])
    acquisition = CartesianMri(torch.from_numpy(mask), sensitivities)
    norm = measurement.metadata.get("operator_norm") or _mr_norm(torch.from_numpy(mask), sensitivities)
    A = Normalised(acquisition, norm)
    sigma = torch.tensor(measurement.metadata["noise"]["sigma_per_coil"], dtype=torch.float32)
    density = (norm / sigma[None, :, None, None]) ** 2
    weights = _places(mask) * density
    y = torch.from_numpy(kspace).div_(norm)
    stored = measurement.tensors.get("start")
    start = cg_sense_start(A, y, weights, shape) if stored is None else torch.from_numpy(stored)
    scale = float(np.percentile(start.abs().numpy(), 99.5))
    if not scale > 0:
        raise InputError("measurement.safetensors: its CG-SENSE image is empty; leave this series out.")
    heldout = None
    if "heldout_mask" in measurement.tensors:
        samples, kept = unpack_kspace(measurement.tensors, "heldout_")
        operator = Normalised(CartesianMri(torch.from_numpy(kept), sensitivities), norm)
        heldout = HeldOut(operator, torch.from_numpy(samples) / (norm * scale), _places(kept) * density * scale**2)
    sigma_init = measurement.metadata.get("sigma_init")
    if sigma_init is None:
        one_slice, middle = Normalised(_middle_slice(torch.from_numpy(mask), sensitivities), norm), len(weights) // 2
        sigma_init = mr_sigma_init(one_slice, weights[middle : middle + 1] * scale**2, shape[1:])
    problem = Problem(
        A=A,
        y=y.div_(scale),
        weights=weights * scale**2,
        x_init=start / scale,
        sigma_init=sigma_init,
        spacing_mm=measurement.spacing_mm,
        shape=shape,
        dtype=torch.complex64,
    )
    return problem, Units("mr", scale, measurement.affine, "arbitrary", heldout)


def _places(mask: np.ndarray) -> Tensor:
    """A mask (y x) or (z y x) as (z coils y x) that broadcasts to k-space."""
    return torch.from_numpy(mask if mask.ndim == 3 else mask[None])[:, None]


def _middle_slice(mask: Tensor, sensitivities: Tensor) -> CartesianMri:
    middle = sensitivities.shape[0] // 2
    chosen = mask if mask.ndim == 2 else mask[middle : middle + 1]
    return CartesianMri(chosen, sensitivities[middle : middle + 1])


def _mr_norm(mask: Tensor, sensitivities: Tensor) -> float:
    """|A| from the middle slice; all slices have sum_c |S_c|^2 <= 1 and the same bound, which smooth images attain."""
    shape = (1, *sensitivities.shape[2:])
    return operator_norm(_middle_slice(mask, sensitivities), shape, torch.complex64, generator(0, "norm"))
