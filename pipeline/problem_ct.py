"""CT part of the inverse problem: u = HU/1000 and p = mu R(1 + u), so with A = R/|R| the data y = (p/mu - R 1)/|R| are
linear in u, and var(y) = var(p)/(mu |R|)^2.
"""

import math

import numpy as np
import torch
from torch import Tensor

from data.errors import InputError
from operators.ct_geometry import ImageGrid, beam_from_dict
from operators.ct_projector import CtProjector
from operators.finite_difference import Gradient3D
from operators.linear import LinearOperator
from operators.norm import Normalised, operator_norm
from pipeline.measurement import Measurement
from pipeline.seeds import generator
from pipeline.start_level import natural_field, start_level
from pipeline.units import HeldOut, Units
from solvers.conjugate_gradient import conjugate_gradient
from solvers.problem import Problem

# Relative error of the start up to which the least noise level will do.
CT_START_ERROR = 0.2
CT_SMOOTHNESS = 0.003
CT_ITERATIONS = 30


def smooth_start(A: LinearOperator, y: Tensor, weights: Tensor, shape: tuple[int, ...], floor: float = -1.0) -> Tensor:
    """argmin_x |y - A x|^2_V / 2 + lambda |D x|^2 / 2 with D the 3D gradient, then no voxel below `floor` (air).

    V = min(W, w) / w with w the tenth percentile of W where it is not zero: starved rays count less, the others alike,
    which thirty steps of conjugate gradients can solve where W itself, with rays through air, would need hundreds.
    """
    gradient = Gradient3D()
    level = float(np.quantile(weights[weights > 0].numpy(), 0.1))
    even = weights.clamp(max=level) / level

    def matvec(x: Tensor) -> Tensor:
        return A.adjoint(even * A(x)) + CT_SMOOTHNESS * gradient.adjoint(gradient(x))

    b = A.adjoint(even * y)
    return conjugate_gradient(matvec, b, torch.zeros(shape, dtype=b.dtype), CT_ITERATIONS, 1e-3).clamp_(min=floor)


def ct_sigma_init(A: LinearOperator, weights: Tensor, shape_yx: tuple[int, int]) -> float:
    """Noise level that hides what `smooth_start` lacks (`start_level`).

    Its relative error on a noiseless random field is below CT_START_ERROR at 30 views over 180 degrees, for which the
    least level is enough, and above it at 8 views and at 90 degrees.
    """
    field = natural_field(shape_yx)
    seen = weights.expand(-1, *weights.shape[1:])[:1]
    return start_level(field, smooth_start(A, A(field), seen, field.shape, floor=-math.inf), CT_START_ERROR)


def ct_problem(measurement: Measurement) -> tuple[Problem, Units]:
    meta, shape = measurement.metadata, measurement.shape_zyx
    grid, beam = ImageGrid.from_dict(meta["grid"]), beam_from_dict(meta["beam"])
    try:
        projector = CtProjector(grid, beam, model=meta["model"])
    except ValueError as error:
        raise InputError(f"measure: {error}") from error
    one_slice = (1, *shape[1:])
    norm = meta.get("operator_norm") or operator_norm(projector, one_slice, torch.float32, generator(0, "norm"))
    A = Normalised(projector, norm)
    mu = meta["mu_water_per_mm"]
    integrals = torch.from_numpy(measurement.tensors["line_integrals"])
    water = projector(torch.ones(one_slice))
    y = (integrals / mu - water) / norm
    weights = torch.from_numpy(measurement.tensors["weights"]) * (mu * norm) ** 2
    start = measurement.tensors.get("start")
    x_init = smooth_start(A, y, weights, shape) if start is None else torch.from_numpy(start)
    units = Units("ct", 1000.0, measurement.affine, meta.get("units", "HU"), _ct_heldout(measurement, grid, norm))
    problem = Problem(
        A=A,
        y=y,
        weights=weights,
        x_init=x_init,
        sigma_init=meta.get("sigma_init") or ct_sigma_init(A, weights, shape[1:]),
        spacing_mm=tuple(meta.get("prior_scale", 1.0) * length for length in measurement.spacing_mm),
        shape=shape,
        dtype=torch.float32,
        geometry={"grid": grid, "beam": beam, "norm": norm, "truncated": meta.get("truncated", False)},
    )
    return problem, units


def _ct_heldout(measurement: Measurement, grid: ImageGrid, norm: float) -> HeldOut | None:
    """The views that `hold_out_views` put aside, in the units of the problem."""
    meta, tensors = measurement.metadata, measurement.tensors
    if "heldout_beam" not in meta:
        return None
    projector = CtProjector(grid, beam_from_dict(meta["heldout_beam"]), model=meta["model"])
    mu = meta["mu_water_per_mm"]
    water = projector(torch.ones((1, grid.rows, grid.columns)))
    y = (torch.from_numpy(tensors["heldout_line_integrals"]) / mu - water) / norm
    return HeldOut(Normalised(projector, norm), y, torch.from_numpy(tensors["heldout_weights"]) * (mu * norm) ** 2)
