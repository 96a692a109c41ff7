"""l1-wavelet reconstruction of 2D slices (Lustig, Donoho and Pauly 2007) with random shifts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from solvers.draws import Draws
from solvers.problem import Problem
from solvers.settings import require
from solvers.slice_coupling import soft_threshold

# Daubechies 1988, table of extremal-phase filters with four vanishing moments; analysis low pass.
DB4 = (
    -0.010597401785069032,
    0.0328830116668852,
    0.030841381835560764,
    -0.18703481171909309,
    -0.027983769416859854,
    0.6308807679298589,
    0.7148465705529157,
    0.2303778133088965,
)
TAPS = len(DB4)


@dataclass(frozen=True)
class WaveletSettings:
    """weight: lambda in 1 / image units. scales: wavelet levels. iterations: of FISTA."""

    weight: float = 30.0
    scales: int = 4
    iterations: int = 50

    def __post_init__(self) -> None:
        require(self.weight > 0, "weight must be positive.")
        require(self.scales >= 1 and self.iterations >= 1, "scales and iterations must be at least 1.")


def wavelet(problem: Problem, settings: WaveletSettings) -> Tensor:
    """argmin_x |y - A x|^2_W / 2 + lambda sum |details of Psi x|, shape (z y x).

    FISTA (Beck and Teboulle 2009) with step 1 / (max W |A|^2), |A| = 1. Psi is the orthonormal db4 transform of every
    slice, shifted by a random offset in every iteration to suppress block artefacts (Figueiredo and Nowak 2003).
    """
    lipschitz = float(problem.weights.max())
    backprojection, draws = problem.backprojection(), Draws(0)
    x = momentum = problem.x_init
    t = 1.0
    for iteration in range(settings.iterations):
        z = momentum + (backprojection - problem.normal(momentum)) / lipschitz
        new = shifted_shrink(
            z, settings.weight / lipschitz, settings.scales, _offset(draws, iteration, settings.scales)
        )
        t_next = (1 + (1 + 4 * t * t) ** 0.5) / 2
        momentum = new + (t - 1) / t_next * (new - x)
        x, t = new, t_next
    return x


def shifted_shrink(z: Tensor, threshold: float, scales: int, offset: tuple[int, int]) -> Tensor:
    """Proximal map of threshold * |details|_1 in the transform of the circularly shifted slices, z (z y x)."""
    rolled = torch.roll(_pad(z, scales), offset, dims=(-2, -1))
    shrunk = shrink(rolled, threshold, scales)
    restored = torch.roll(shrunk, (-offset[0], -offset[1]), dims=(-2, -1))
    return restored[..., : z.shape[-2], : z.shape[-1]].contiguous()


def shrink(z: Tensor, threshold: float, scales: int) -> Tensor:
    """Psi^H S(Psi z) with the coarsest approximation kept; sides must be multiples of 2^scales."""
    approximation, details = analysis(z)
    if scales > 1:
        approximation = shrink(approximation, threshold, scales - 1)
    return synthesis(approximation, soft_threshold(details, threshold))


def analysis(x: Tensor) -> tuple[Tensor, Tensor]:
    """One periodic orthonormal level: x (z y x) -> approximation (z y/2 x/2) and details (3 z y/2 x/2).

    a_k = sum_n h_n x_{2k + 4 - n} along each axis, indices modulo the length.
    """
    bands = _per_component(x, _analysis_real)
    return bands[0], bands[1:]


def synthesis(approximation: Tensor, details: Tensor) -> Tensor:
    """Inverse and adjoint of `analysis`."""
    return _per_component(torch.cat([approximation[None], details]), _synthesis_real)


def _per_component(x: Tensor, transform) -> Tensor:
    return torch.complex(transform(x.real), transform(x.imag)) if x.is_complex() else transform(x)


def _filters(like: Tensor) -> Tensor:
    """(4 1 taps taps) correlation kernels of the four bands."""
    low = torch.tensor(DB4, dtype=like.dtype, device=like.device)
    signs = torch.tensor([(-1.0) ** (n + 1) for n in range(TAPS)], dtype=like.dtype, device=like.device)
    high = low.flip(0) * signs
    pair = [low.flip(0), high.flip(0)]
    return torch.stack([torch.outer(a, b) for a in pair for b in pair])[:, None]


def _analysis_real(x: Tensor) -> Tensor:
    before, after = TAPS // 2 - 1, TAPS // 2
    padded = _wrap(x, before, after)
    return F.conv2d(padded[:, None], _filters(x), stride=2).transpose(0, 1)


def _synthesis_real(bands: Tensor) -> Tensor:
    before = TAPS // 2 - 1
    wide = F.conv_transpose2d(bands.transpose(0, 1), _filters(bands), stride=2)[:, 0]
    for axis in (-2, -1):
        length = 2 * bands.shape[axis]
        wide = _fold(wide, axis, length, before)
    return wide


def _wrap(x: Tensor, before: int, after: int) -> Tensor:
    for axis in (-2, -1):
        index = torch.arange(-before, x.shape[axis] + after, device=x.device) % x.shape[axis]
        x = x.index_select(axis, index)
    return x


def _fold(x: Tensor, axis: int, length: int, before: int) -> Tensor:
    """Adjoint of `_wrap` along one axis."""
    index = (torch.arange(x.shape[axis], device=x.device) - before) % length
    shape = list(x.shape)
    shape[axis] = length
    return x.new_zeros(shape).index_add_(axis, index, x)


def _pad(z: Tensor, scales: int) -> Tensor:
    """Zeros at the far ends up to multiples of 2^scales."""
    unit = 2**scales
    missing = [(-n) % unit for n in z.shape[-2:]]
    return F.pad(z, (0, missing[1], 0, missing[0])) if any(missing) else z


def _offset(draws: Draws, iteration: int, scales: int) -> tuple[int, int]:
    """Random shift below 2^scales on each axis."""
    values = torch.randint(2**scales, (2,), generator=draws.generator("shift", iteration))
    return int(values[0]), int(values[1])
