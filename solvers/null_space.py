"""Which part of a volume the data measured and which part the prior filled in.

With the normal operator N = A^H W A and a signal of standard deviation sigma_d, the resolution operator

    P x = N (N + eps I)^-1 x,    eps = 1 / sigma_d^2

is what a ridge reconstruction would recover of x from noiseless data (Backus and Gilbert 1968). P x is the measured
part, x - P x the part in the effective null space: nothing in the data speaks for it or against it. Structure there
that is wrong is a null-space hallucination (Bhadra et al. 2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from solvers.conjugate_gradient import conjugate_gradient
from solvers.problem import Problem

TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class SupportSettings:
    """How volumes are split and which details count.

    signal_std          sigma_d in prior units; null takes the standard deviation of the mean over its voxels
    fine_mm, coarse_mm  a detail is what a Gaussian of standard deviation fine_mm keeps and one of coarse_mm removes
    floor               `unsupported` only: spread, as a fraction of the median, that even the surest place is granted
    cg_iterations, cg_tolerance   of every split
    """

    signal_std: float | None = None
    fine_mm: float = 1.5
    coarse_mm: float = 6.0
    floor: float = 0.5
    cg_iterations: int = 60
    cg_tolerance: float = 1e-3


def measured_part(
    problem: Problem, x: Tensor, signal_std: float, settings: SupportSettings = SupportSettings()
) -> Tensor:
    """P x for a volume (z y x) in prior units, by conjugate gradients on (N + eps I) u = N x."""
    eps = signal_std**-2

    def ridge(u: Tensor) -> Tensor:
        return problem.normal(u) + eps * u

    b = problem.normal(x)
    return conjugate_gradient(ridge, b, torch.zeros_like(b), settings.cg_iterations, settings.cg_tolerance)


def smooth(array: np.ndarray, width_mm: float, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Gaussian average (z y x) of standard deviation width_mm; edges repeat."""
    return ndimage.gaussian_filter(array, [width_mm / edge for edge in spacing_mm], mode="nearest", truncate=3.0)


def details(
    array: np.ndarray, spacing_mm: tuple[float, float, float], settings: SupportSettings = SupportSettings()
) -> np.ndarray:
    """Structure of the sizes that matter (z y x): fine minus coarse Gaussian average; zero for a constant."""
    return smooth(array, settings.fine_mm, spacing_mm) - smooth(array, settings.coarse_mm, spacing_mm)


@torch.no_grad()
def support_maps(
    problem: Problem,
    mean: Tensor | np.ndarray,
    samples: Tensor | np.ndarray,
    settings: SupportSettings = SupportSettings(),
) -> dict[str, np.ndarray]:
    """Maps (z y x, float32) of a posterior mean and samples (K z y x), K >= 2, all in prior units.

    support      share in [0, 1] of the mean's detail that the data measured: G * m_P^2 / (G * m_P^2 + G * m_0^2), with
                 m_P, m_0 the details of the mean's measured and null parts, G the coarse average
    sd_measured  standard deviation of the samples' measured parts, prior units
    sd_null      standard deviation of their null parts, prior units
    unsupported  |m_0| / s: large where the mean is sure of a detail that the data do not support; s^2 is the samples'
                 variance of details averaged over fine and coarse widths. Not a sign of error by itself: where the
                 samples are calibrated, sure details are nearly always right

    A complex volume is split as such; details are then taken along the mean's own phase, as its magnitude shows them.
    """
    mean = torch.as_tensor(mean).to(device=problem.device, dtype=problem.dtype)
    samples = torch.as_tensor(samples).to(device=problem.device, dtype=problem.dtype)
    if samples.ndim != 4 or samples.shape[0] < 2 or samples.shape[1:] != mean.shape:
        raise ValueError(f"need two samples or more of shape {tuple(mean.shape)}, got {tuple(samples.shape)}")
    signal_std = settings.signal_std or _signal_std(mean)
    seen = measured_part(problem, mean, signal_std, settings)
    spread = []
    for sample in samples:
        deviation = measured_part(problem, sample - mean, signal_std, settings)
        spread.append((deviation, sample - mean - deviation))
    return _maps(_real(seen, mean), _real(mean - seen, mean), [_real_pair(p, mean) for p in spread], problem, settings)


def _signal_std(mean: Tensor) -> float:
    """Standard deviation over the voxels, per real component; 1 for a constant."""
    parts = torch.view_as_real(mean.resolve_conj()) if mean.is_complex() else mean
    return float(parts.std()) or 1.0


def _real(x: Tensor, mean: Tensor) -> np.ndarray:
    """The component along the mean's phase; real volumes as they are."""
    if x.is_complex():
        x = (x * torch.sgn(mean).conj()).real
    return x.cpu().numpy().astype(np.float64)


def _real_pair(parts: tuple[Tensor, Tensor], mean: Tensor) -> tuple[np.ndarray, np.ndarray]:
    return _real(parts[0], mean), _real(parts[1], mean)


def _maps(
    seen: np.ndarray,
    unseen: np.ndarray,
    spread: list[tuple[np.ndarray, np.ndarray]],
    problem: Problem,
    settings: SupportSettings,
) -> dict[str, np.ndarray]:
    spacing, draws = problem.spacing_mm, len(spread)
    detail_seen, detail_unseen = details(seen, spacing, settings), details(unseen, spacing, settings)
    power_seen = smooth(detail_seen**2, settings.coarse_mm, spacing)
    power_unseen = smooth(detail_unseen**2, settings.coarse_mm, spacing)
    variance = sum(details(p + q, spacing, settings) ** 2 for p, q in spread) / (draws - 1)
    # Few samples give a rough variance; neighbours share what they know.
    variance = np.maximum(
        sum(smooth(variance, width, spacing) / 2 for width in (settings.fine_mm, settings.coarse_mm)), 0
    )
    granted = (settings.floor**2) * float(np.median(variance)) + TINY
    maps = {
        "support": power_seen / np.maximum(power_seen + power_unseen, TINY),
        "sd_measured": np.sqrt(sum(p**2 for p, _ in spread) / (draws - 1)),
        "sd_null": np.sqrt(sum(q**2 for _, q in spread) / (draws - 1)),
        "unsupported": np.abs(detail_unseen) / np.sqrt(variance + granted),
    }
    return {name: array.astype(np.float32) for name, array in maps.items()}
