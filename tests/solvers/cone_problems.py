"""Small cone-beam problems: every projection couples all slices."""

from __future__ import annotations

import torch
from torch import Tensor

from operators.cone_geometry import ConeBeam, VolumeGrid
from operators.cone_projector import ConeProjector
from operators.ct_geometry import view_angles
from operators.norm import Normalised, operator_norm
from solvers.problem import Problem
from tests.solvers.problems import normal, seeded


def cone_problem(x: Tensor, views: int = 12, sigma_y: float = 0.02, pixel_mm: float = 2.0) -> Problem:
    """White noise on projections of x (z y x), whose voxels are pixel_mm wide and high, from a source so near that the
    cone's angle matters."""
    grid = VolumeGrid(*x.shape, pixel_mm, pixel_mm)
    source_mm = 3 * grid.radius_mm
    beam = ConeBeam.covering(grid, view_angles(views, 360.0, 3.0), source_mm, source_mm / 2)
    projector = ConeProjector(grid, beam)
    norm = operator_norm(projector, tuple(x.shape), torch.float32, seeded())
    A = Normalised(projector, norm)
    y = A(x) + sigma_y * normal(beam.shape, x.dtype, 7)
    weights = torch.full((1, 1, 1), sigma_y**-2, dtype=x.dtype)
    geometry = {"grid": grid, "beam": beam, "norm": norm, "slicewise": False}
    return Problem(A, y, weights, torch.zeros_like(x), 0.5, grid.spacing_mm, geometry=geometry)
