"""Filtered backprojection for parallel beams and flat-detector fan beams."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from operators.ct_geometry import Beam, ImageGrid, is_fan
from solvers.classical.fbp_weights import is_shifted, missing_bins, view_weights
from solvers.problem import Problem
from solvers.settings import require


@dataclass(frozen=True)
class FbpSettings:
    """filter "ramlak" or "hann"; cutoff: frequency where the window ends, as a share of the detector's Nyquist.

    extrapolate: continue projections past the detector's ends before filtering; null: where they are cut off there.
    """

    filter: str = "hann"
    cutoff: float = 0.5
    extrapolate: bool | None = None

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
    if settings.extrapolate is None:
        settings = replace(settings, extrapolate=bool(geometry.get("truncated", False)))
    return backproject_filtered(sinogram, geometry["grid"], geometry["beam"], settings) - 1


def backproject_filtered(sinogram: Tensor, grid: ImageGrid, beam: Beam, settings: FbpSettings) -> Tensor:
    """Image (z y x) whose line integrals are `sinogram` (z views bins), in units of sinogram / mm.

    Kak and Slaney 1988, chapter 3, with linear interpolation on the detector. Parallel: f = int_0^pi q_theta(s) dtheta.
    Fan, detector scaled to the axis: f = int w D^2 / L^2 q_beta(u) dbeta, with data weighted by D / sqrt(D^2 + u^2).
    Beams of any trajectory are taken as circular step by step: exact where every detector is at right angles to the ray
    through the origin and the sources keep their distance.
    """
    frames, device = beam.vectors(), sinogram.device
    spacing, source_mm, u = _axis_detector(beam, frames)
    u = torch.from_numpy(u).to(device, sinogram.dtype)
    view_weight = view_weights(_angles(frames), u, source_mm)
    if source_mm is not None:
        view_weight = view_weight * (source_mm / (source_mm**2 + u**2).sqrt())
    # A detector that is shifted far enough to be weighted sees half of the rays: the filter's tails go past its end.
    before, after = missing_bins(u) if is_shifted(u) else (0, 0)
    filtered = ramp_filter(torch.nn.functional.pad(sinogram * view_weight, (before, after)), spacing, settings)
    middle = before + (beam.bins - 1) / 2
    x = ((torch.arange(grid.columns, device=device) - (grid.columns - 1) / 2) * grid.pixel_mm)[None, :]
    y = (((grid.rows - 1) / 2 - torch.arange(grid.rows, device=device)) * grid.pixel_mm)[:, None]
    image = sinogram.new_zeros((sinogram.shape[0], grid.rows * grid.columns))
    for view, row in enumerate(frames.tolist()):
        bins, scale = _bins_of_points(row, x, y, source_mm is not None)
        contribution = _interpolate(filtered[:, view], (bins + middle).reshape(-1))
        image += contribution if scale is None else contribution * scale.reshape(-1)
    return image.reshape(-1, grid.rows, grid.columns)


def _axis_detector(beam: Beam, frames: np.ndarray) -> tuple[float, float | None, np.ndarray]:
    """(spacing of the bins in mm, distance of the source or None, positions (bins) along u), all scaled to the axis.

    Of a trajectory the means over its views; positions are zero where the ray through the source meets the detector at
    right angles, or where the axis projects.
    """
    centred = np.arange(beam.bins) - (beam.bins - 1) / 2
    u = frames[:, 4:]
    length = np.hypot(*u.T)
    along = u / length[:, None]
    normal = np.stack([-along[:, 1], along[:, 0]], 1)
    if not is_fan(beam):
        cosine = np.abs((frames[:, :2] * normal).sum(1)) / np.hypot(*frames[:, :2].T)
        spacing = float((length * cosine).mean())
        return spacing, None, centred * spacing + float(((frames[:, 2:4] * along).sum(1) * cosine).mean())
    source, centre = frames[:, :2], frames[:, 2:4]
    to_axis, to_detector = np.abs((source * normal).sum(1)), np.abs(((centre - source) * normal).sum(1))
    scale = to_axis / to_detector
    spacing, shift = float((length * scale).mean()), float((((centre - source) * along).sum(1) * scale).mean())
    return spacing, float(to_axis.mean()), centred * spacing + shift


def _angles(frames: np.ndarray) -> np.ndarray:
    """View angles (views) in radians: rays (sin, -cos), or sources there."""
    return np.arctan2(frames[:, 0], -frames[:, 1])


def _bins_of_points(row: list[float], x: Tensor, y: Tensor, fan: bool) -> tuple[Tensor, Tensor | None]:
    """(bins from the detector's centre where points project, D^2 / L^2 or None) of one view, shape (y x).

    The ray point + t r, r given or point - source, meets centre + a u: a = r x (centre - point) / (u x r).
    """
    ax, ay, cx, cy, ux, uy = row
    if not fan:
        return ((x - cx) * ay - (y - cy) * ax) / (ux * ay - uy * ax), None
    rx, ry = x - ax, y - ay
    across = ux * ry - uy * rx
    bins = -((cx - ax) * ry - (cy - ay) * rx) / across
    return bins, ((uy * ax - ux * ay) / across).square()


def ramp_filter(sinogram: Tensor, spacing_mm: float, settings: FbpSettings) -> Tensor:
    """Convolution along bins with the band-limited ramp: h_0 = 1/(4 t^2), h_n = -1/(pi n t)^2 for odd n, else 0."""
    bins = sinogram.shape[-1]
    beyond = bins // 2 if settings.extrapolate else 0
    size = 2 ** math.ceil(math.log2(2 * (bins + 2 * beyond)))
    n = torch.cat([torch.arange(size // 2), torch.arange(-(size // 2), 0)]).double()
    kernel = torch.where(n % 2 != 0, -1 / (math.pi * n * spacing_mm) ** 2, 0.0)
    kernel[0] = 1 / (4 * spacing_mm**2)
    response = torch.fft.rfft(kernel).real * spacing_mm
    frequency = torch.linspace(0, 1, size // 2 + 1, dtype=torch.float64) / settings.cutoff
    window = (frequency <= 1).double()
    if settings.filter == "hann":
        window = window * 0.5 * (1 + torch.cos(math.pi * frequency))
    response = (response * window).to(sinogram.device, sinogram.dtype)
    extended = continue_projections(sinogram, beyond) if beyond else sinogram
    return torch.fft.irfft(torch.fft.rfft(extended, n=size) * response, n=size)[..., beyond : beyond + bins]


def continue_projections(sinogram: Tensor, beyond: int) -> Tensor:
    """Sinogram (z views bins) with `beyond` bins at each end that fall from the edge's value to zero as cos^2.

    A smooth end in place of the step that the ramp filter turns into a bright rim (Ohnesorge et al. 2000).
    """
    fall = torch.cos(torch.linspace(0, math.pi / 2, beyond + 1, device=sinogram.device)[1:]).square()
    fall = fall.to(sinogram.dtype)
    left, right = (edge.mean(-1, keepdim=True) for edge in (sinogram[..., :3], sinogram[..., -3:]))
    return torch.cat([left * fall.flip(0), sinogram, right * fall], dim=-1)


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
