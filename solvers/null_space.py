"""Which part of a volume the data measured, which part the prior filled in, and where the two should be doubted.

With the normal operator N = A^H W A and a signal of standard deviation sigma_d, the resolution operator

    P x = N (N + eps I)^-1 x,    eps = 1 / sigma_d^2

is what a ridge reconstruction would recover of x from noiseless data (Backus and Gilbert 1968). P x is the measured
part, x - P x the part in the effective null space: nothing in the data speaks for it or against it. Structure there that
is wrong is a null-space hallucination (Bhadra et al. 2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from solvers.conjugate_gradient import conjugate_gradient
from solvers.problem import Problem


@dataclass(frozen=True)
class SupportSettings:
    """How volumes are split and which details count.

    signal_std          sigma_d in prior units: details much weaker than noise allows count as not measured
    fine_mm, coarse_mm  a detail is what a Gaussian of standard deviation fine_mm keeps and one of coarse_mm removes
    floor               spread, as a fraction of the median, that even the surest place is granted
    cg_iterations, cg_tolerance   of every split
    """

    signal_std: float = 0.1
    fine_mm: float = 1.5
    coarse_mm: float = 6.0
    floor: float = 0.5
    cg_iterations: int = 40
    cg_tolerance: float = 1e-3


def measured_part(problem: Problem, x: Tensor, settings: SupportSettings = SupportSettings()) -> Tensor:
    """P x for a volume (z y x) in prior units, by conjugate gradients on (N + eps I) u = N x."""
    eps = settings.signal_std**-2

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
    flag_score   |m_0| / s with s^2 the samples' variance of details plus a floor: large where the mean is confident of
                 a detail that the data do not support

    A complex volume is split as such; details are then taken along the mean's own phase, as its magnitude shows them.
    """
    mean = torch.as_tensor(mean).to(device=problem.device, dtype=problem.dtype)
    samples = torch.as_tensor(samples).to(device=problem.device, dtype=problem.dtype)
    if samples.ndim != 4 or samples.shape[0] < 2 or samples.shape[1:] != mean.shape:
        raise ValueError(f"need two samples or more of shape {tuple(mean.shape)}, got {tuple(samples.shape)}")
    seen = measured_part(problem, mean, settings)
    spread = [_deviation_parts(problem, sample - mean, settings) for sample in samples]
    return _maps(_real(seen, mean), _real(mean - seen, mean), [_real_pair(p, mean) for p in spread], problem, settings)


def _deviation_parts(problem: Problem, deviation: Tensor, settings: SupportSettings) -> tuple[Tensor, Tensor]:
    seen = measured_part(problem, deviation, settings)
    return seen, deviation - seen


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
    # Few samples give a rough variance: averaged over the width of a detail before it divides anything.
    variance = smooth(variance, settings.fine_mm, spacing)
    granted = (settings.floor**2) * float(np.median(variance)) + np.finfo(np.float32).tiny
    maps = {
        "support": power_seen / np.maximum(power_seen + power_unseen, np.finfo(np.float32).tiny),
        "sd_measured": np.sqrt(sum(p**2 for p, _ in spread) / (draws - 1)),
        "sd_null": np.sqrt(sum(q**2 for _, q in spread) / (draws - 1)),
        "flag_score": np.abs(detail_unseen) / np.sqrt(variance + granted),
    }
    return {name: array.astype(np.float32) for name, array in maps.items()}
