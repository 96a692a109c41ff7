"""Filtered backprojection for parallel beams and flat-detector fan beams."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from operators.ct_geometry import FanBeam, ImageGrid, ParallelBeam
from solvers.problem import Problem
from solvers.settings import require


@dataclass(frozen=True)
class FbpSettings:
    """filter "ramlak" or "hann"; cutoff: frequency where the window ends, as a share of the detector's Nyquist."""

    filter: str = "hann"
    cutoff: float = 0.5

    def __post_init__(self) -> None:
        require(self.filter in ("ramlak", "hann"), "filter must be 'ramlak' or 'hann'.")
        require(0 < self.cutoff <= 1, "cutoff must lie in (0, 1].")


def fbp(problem: Problem, settings: FbpSettings) -> Tensor:
    """Filtered backprojection (z y x) in prior units of CT data; needs problem.geometry with "grid", "beam", "norm".

    The data are those of u = HU/1000. Attenuation relative to water, 1 + u, is what vanishes outside the patient, so it
    is reconstructed: f = FBP(|R| (y + A 1)) - 1. Raises ValueError without a geometry.
    """
    geometry = problem.geometry
    if not geometry:
        raise ValueError("filtered backprojection needs the geometry of the scanner")
    ones = torch.ones((1, *problem.shape[1:]), dtype=problem.dtype, device=problem.device)
    sinogram = (problem.y + problem.A(ones)) * geometry["norm"]
    return backproject_filtered(sinogram, geometry["grid"], geometry["beam"], settings) - 1


def backproject_filtered(
    sinogram: Tensor, grid: ImageGrid, beam: ParallelBeam | FanBeam, settings: FbpSettings
) -> Tensor:
    """Image (z y x) whose line integrals are `sinogram` (z views bins), in units of sinogram / mm.

    Kak and Slaney 1988, chapter 3, with linear interpolation on the detector. Parallel: f = int_0^pi q_theta(s) dtheta.
    Fan, detector scaled to the axis: f = int w D^2 / L^2 q_beta(u) dbeta, with data weighted by D / sqrt(D^2 + u^2).
    """
    fan = isinstance(beam, FanBeam)
    spacing = beam.bin_mm / beam.magnification if fan else beam.bin_mm
    u = (torch.arange(beam.bins, device=sinogram.device) - (beam.bins - 1) / 2) * spacing
    view_weight = _view_weights(beam, u).to(sinogram.dtype)
    if fan:
        view_weight = view_weight * (beam.source_axis_mm / (beam.source_axis_mm**2 + u**2).sqrt())
    filtered = ramp_filter(sinogram * view_weight, spacing, settings)
    x = (torch.arange(grid.columns, device=sinogram.device) - (grid.columns - 1) / 2) * grid.pixel_mm
    y = ((grid.rows - 1) / 2 - torch.arange(grid.rows, device=sinogram.device)) * grid.pixel_mm
    image = sinogram.new_zeros((sinogram.shape[0], grid.rows * grid.columns))
    for view, angle in enumerate(beam.angles_rad):
        position = x[None, :] * math.cos(angle) + y[:, None] * math.sin(angle)
        scale = None
        if fan:
            distance = beam.source_axis_mm - x[None, :] * math.sin(angle) + y[:, None] * math.cos(angle)
            position = position * beam.source_axis_mm / distance
            scale = (beam.source_axis_mm / distance).square().reshape(-1)
        contribution = _interpolate(filtered[:, view], (position / spacing + (beam.bins - 1) / 2).reshape(-1))
        image += contribution if scale is None else contribution * scale
    return image.reshape(-1, grid.rows, grid.columns)


def ramp_filter(sinogram: Tensor, spacing_mm: float, settings: FbpSettings) -> Tensor:
    """Convolution along bins with the band-limited ramp: h_0 = 1/(4 t^2), h_n = -1/(pi n t)^2 for odd n, else 0."""
    bins = sinogram.shape[-1]
    size = 2 ** math.ceil(math.log2(2 * bins))
    n = torch.cat([torch.arange(size // 2), torch.arange(-(size // 2), 0)]).double()
    kernel = torch.where(n % 2 != 0, -1 / (math.pi * n * spacing_mm) ** 2, 0.0)
    kernel[0] = 1 / (4 * spacing_mm**2)
    response = torch.fft.rfft(kernel).real * spacing_mm
    frequency = torch.linspace(0, 1, size // 2 + 1, dtype=torch.float64) / settings.cutoff
    window = (frequency <= 1).double()
    if settings.filter == "hann":
        window = window * 0.5 * (1 + torch.cos(math.pi * frequency))
    response = (response * window).to(sinogram.device, sinogram.dtype)
    return torch.fft.irfft(torch.fft.rfft(sinogram, n=size) * response, n=size)[..., :bins]


def _interpolate(rows: Tensor, position: Tensor) -> Tensor:
    """Linear interpolation of rows (z bins) at fractional bins (pixels), zero outside: (z pixels)."""
    bins = rows.shape[-1]
    low = position.floor()
    fraction = position - low
    inside = (position >= 0) & (position <= bins - 1)
    low = low.clamp(0, bins - 2).long()
    fraction = torch.where(position >= bins - 1, torch.ones_like(fraction), fraction)
    left, right = (1 - fraction) * inside, fraction * inside
    return rows[:, low] * left + rows[:, low + 1] * right


def _view_weights(beam: ParallelBeam | FanBeam, u: Tensor) -> Tensor:
    """Angular step times the share with which a ray enters where it was measured twice: (views bins).

    Parallel: pi / range beyond half a turn. Fan: 1/2 for a full turn, Parker's weights (1982) with the overscan as
    virtual fan angle for a short scan, 1 below half a turn.
    """
    angles = sorted(beam.angles_rad)
    step = (angles[-1] - angles[0]) / (len(angles) - 1) if len(angles) > 1 else math.pi
    turn = step * len(angles)
    even = torch.full((len(beam.angles_rad), beam.bins), step, device=u.device)
    if isinstance(beam, ParallelBeam):
        return even * min(1.0, math.pi / turn)
    if turn > 2 * math.pi - step / 2:
        return even / 2
    overscan = (turn - math.pi) / 2
    if overscan <= 0:
        return even
    beta = (torch.tensor(beam.angles_rad, device=u.device) - angles[0])[:, None] + step / 2
    return even * parker_weights(beta, -torch.atan(u / beam.source_axis_mm)[None, :], overscan)


def parker_weights(beta: Tensor, gamma: Tensor, delta: float) -> Tensor:
    """Weights of rays (beta, gamma) and (beta + pi + 2 gamma, -gamma) that add up to one, 0 <= beta <= pi + 2 delta."""
    tiny = 1e-6
    rising = (math.pi / 4 * beta / (delta - gamma).clamp_min(tiny)).sin().square()
    falling = (math.pi / 4 * (math.pi + 2 * delta - beta) / (delta + gamma).clamp_min(tiny)).sin().square()
    weight = torch.where(beta < 2 * (delta - gamma), rising, torch.ones_like(rising))
    return torch.where(beta > math.pi - 2 * gamma, falling, weight)
