"""Cone-beam part of the inverse problem, in the units of pipeline.problem_ct: u = HU/1000, A = R/|R|,
y = (p/mu - R 1)/|R|. A maps the whole volume (z y x) to projections (views rows columns): it couples all slices.
"""

import math
import sys
from functools import cache

import numpy as np
import torch
from torch import Tensor

from data.errors import InputError
from operators.cone_astra import AstraConeProjector, astra_cuda_available
from operators.cone_geometry import ConeGeometry, VolumeGrid, cone_from_dict, views_through_voxels
from operators.cone_projector import ConeProjector
from operators.norm import Normalised, operator_norm
from pipeline.measurement import Measurement
from pipeline.problem_ct import CT_START_ERROR, smooth_start
from pipeline.seeds import generator
from pipeline.start_level import start_level
from pipeline.units import HeldOut, Units
from solvers.problem import Problem

PROJECTORS = {"linear": ConeProjector, "astra": AstraConeProjector}
# Share of the views that have to see a voxel for it to count when the start is judged.
SEEN = 0.5


def make_projector(grid: VolumeGrid, beam: ConeGeometry, model: str) -> ConeProjector:
    """The projector of a model, "linear" or "astra" (the same but on CUDA, where ASTRA's kernels compute it; where
    there is no such device, "linear", and one sentence says so).

    InputError where the geometry cannot be or the memory does not hold it.
    """
    if model == "astra" and not astra_cuda_available():
        _say_no_cuda()
        model = "linear"
    try:
        return PROJECTORS[model](grid, beam)
    except ValueError as error:
        raise InputError(f"measure: {error}") from error


@cache
def _say_no_cuda() -> None:
    """Once a process."""
    print(
        "measure.reconstruction_model: astra needs a CUDA device that ASTRA and torch both reach, and there is none; "
        "the built-in projector is used.",
        file=sys.stderr,
    )


def cone_problem(measurement: Measurement) -> tuple[Problem, Units]:
    """Problem and units of a cone-beam measurement; InputError for one that is too large."""
    meta, shape = measurement.metadata, measurement.shape_zyx
    grid, beam = VolumeGrid.from_dict(meta["grid"]), cone_from_dict(meta["beam"])
    projector = make_projector(grid, beam, meta["model"])
    norm = meta.get("operator_norm") or operator_norm(projector, shape, torch.float32, generator(0, "norm"))
    A = Normalised(projector, norm)
    y, weights = _normalised(measurement, projector, norm)
    start = measurement.tensors.get("start")
    problem = Problem(
        A=A,
        y=y,
        weights=weights,
        x_init=smooth_start(A, y, weights, shape) if start is None else torch.from_numpy(start),
        sigma_init=meta.get("sigma_init") or cone_sigma_init(A, weights, grid, beam),
        spacing_mm=tuple(meta.get("prior_scale", 1.0) * length for length in measurement.spacing_mm),
        shape=shape,
        dtype=torch.float32,
        geometry={
            "grid": grid,
            "beam": beam,
            "norm": norm,
            "slicewise": False,
            "truncated": meta.get("truncated", False),
        },
    )
    heldout = _heldout(measurement, grid, norm)
    return problem, Units("ct", 1000.0, measurement.affine, meta.get("units", "HU"), heldout)


def cone_sigma_init(A: Normalised, weights: Tensor, grid: VolumeGrid, beam: ConeGeometry) -> float:
    """Noise level that hides what `smooth_start` lacks (`start_level`), over the voxels that half of the views see."""
    field = natural_volume(grid)
    start = smooth_start(A, A(field), weights, grid.shape, floor=-math.inf)
    seen = torch.from_numpy(views_through_voxels(grid, beam) >= SEEN)
    return start_level(field[seen], start[seen], CT_START_ERROR)


def natural_volume(grid: VolumeGrid) -> Tensor:
    """A random volume (z y x) of unit mean square whose slices have the power spectrum of natural images: |k|^-4 in
    space is |k|^-3 in a plane. Always the same one."""
    width = grid.columns * grid.pixel_mm
    kz, ky, kx = (torch.fft.fftfreq(n, mm / width) for n, mm in zip(grid.shape, grid.spacing_mm, strict=True))
    radius = (kz[:, None, None] ** 2 + ky[:, None] ** 2 + kx**2).sqrt().clamp_min(1)
    white = torch.randn(grid.shape, generator=generator(0, "field"))
    field = torch.fft.ifftn(torch.fft.fftn(white) * radius**-2).real
    return field / field.square().mean().sqrt()


def _normalised(
    measurement: Measurement, projector: ConeProjector, norm: float, prefix: str = ""
) -> tuple[Tensor, Tensor]:
    """(y, weights) of the projections under a prefix, (views rows columns), in the units of the problem."""
    mu = measurement.metadata["mu_water_per_mm"]
    integrals, weights = (
        torch.from_numpy(np.ascontiguousarray(measurement.tensors[prefix + name]))
        for name in ("line_integrals", "weights")
    )
    water = projector(torch.ones(projector.grid.shape))
    return (integrals / mu - water) / norm, weights * (mu * norm) ** 2


def _heldout(measurement: Measurement, grid: VolumeGrid, norm: float) -> HeldOut | None:
    """The views that were put aside, in the units of the problem."""
    meta = measurement.metadata
    if "heldout_beam" not in meta:
        return None
    projector = make_projector(grid, cone_from_dict(meta["heldout_beam"]), meta["model"])
    return HeldOut(Normalised(projector, norm), *_normalised(measurement, projector, norm, "heldout_"))
