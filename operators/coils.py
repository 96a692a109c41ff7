"""Receive coils: sensitivity operator, simulated sensitivities and image phase, estimation from calibration data."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from operators.coil_encoding import CoilEncoding

# In units of half the field of view: where the coils sit, and how large they are.
_RING_RADIUS, _COIL_RADIUS, _RING_OFFSET = 1.8, 0.8, 0.25
_COARSE_GRID = 96
_CALIBRATION_LIMIT = 32


class SensitivityOp(CoilEncoding):
    """x (z y x) -> S_c x (z coils y x), with adjoint sum_c conj(S_c) y_c."""

    def to(self, device: torch.device | str) -> SensitivityOp:
        return SensitivityOp(self.sensitivities.to(device))

    def _forward(self, x: Tensor) -> Tensor:
        return self.sensitivities * x[:, None]

    def _adjoint(self, y: Tensor) -> Tensor:
        return (self.sensitivities.conj() * y).sum(dim=1)


def _axis(length: int, unit: float) -> Tensor:
    return (torch.arange(length, dtype=torch.float32) - (length - 1) / 2) / unit


def simulate_sensitivities(
    coils: int,
    shape_zyx: tuple[int, int, int],
    generator: torch.Generator,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Tensor:
    """Smooth complex sensitivities (z coils y x), complex64, sum_c |S_c|^2 = 1 everywhere.

    The coils stand on a ring around the volume, at alternating heights and slightly jittered angles; each receives the
    transverse field B_x - i B_y of a dipole (3 (m.d) d - m) / (|d|^2 + a^2)^(3/2) that points to the axis.
    """
    slices, rows, columns = shape_zyx
    z = _axis(slices, rows / 2 * spacing_mm[1] / spacing_mm[0])
    y, x = _axis(rows, rows / 2), _axis(columns, columns / 2)
    jitter = torch.rand((coils, 2), generator=generator, device=generator.device).cpu()
    out = torch.empty((slices, coils, rows, columns), dtype=torch.complex64)
    for coil in range(coils):
        angle = 2 * math.pi * (coil + 0.3 * float(jitter[coil, 0])) / coils
        dz = (z - _RING_OFFSET * (-1) ** coil)[:, None, None]
        dy = (y - _RING_RADIUS * math.sin(angle))[None, :, None]
        dx = (x - _RING_RADIUS * math.cos(angle))[None, None, :]
        square = dz**2 + dy**2 + dx**2
        along = 3 * (math.cos(angle) * dx + math.sin(angle) * dy) / square
        field = torch.complex(along * dx - math.cos(angle), math.sin(angle) - along * dy)
        turn = torch.polar(torch.tensor(1.0), 2 * math.pi * jitter[coil, 1])
        out[:, coil] = field * turn / (square + _COIL_RADIUS**2) ** 1.5
    return out / out.abs().square().sum(dim=1, keepdim=True).sqrt()


def simulate_smooth_phase(
    shape_zyx: tuple[int, int, int], generator: torch.Generator, spread_rad: float = 0.8, waves: int = 6
) -> Tensor:
    """Smooth random image phase as unit phasors exp(i phi) (z y x), complex64: multiply the image by it.

    phi is a random constant plus ``waves`` plane waves of standard deviation ``spread_rad`` together, each of at most
    one period over the field of view along y and x and of half a period over the same length along z.
    """
    slices, rows, columns = shape_zyx
    draws = torch.rand((waves, 4), generator=generator, device=generator.device).cpu()
    constant = 2 * math.pi * torch.rand((), generator=generator, device=generator.device).cpu()
    z, y, x = _axis(slices, rows)[:, None, None], _axis(rows, rows)[None, :, None], _axis(columns, columns)
    phase = constant.expand(shape_zyx).clone()
    for wave in range(waves):
        fz, fy, fx = (2 * draws[wave, :3] - 1) * torch.tensor([0.5, 1.0, 1.0])
        argument = 2 * math.pi * (fz * z + fy * y + fx * x + draws[wave, 3])
        phase += spread_rad * math.sqrt(2 / waves) * torch.sin(argument)
    return torch.polar(torch.ones_like(phase), phase)


def patches(calibration: Tensor, kernel: int) -> Tensor:
    """All kernel x kernel patches of (coils y x) as rows: (patches, coils*ky*kx)."""
    unfolded = calibration.unfold(-2, kernel, 1).unfold(-2, kernel, 1)
    return rearrange(unfolded, "coils y x ky kx -> (y x) (coils ky kx)")


def _signal_projector(calibration: Tensor, kernel: int, threshold: float) -> Tensor:
    """P = E E^H on patches (coils*ky*kx), E the principal directions with singular value > threshold * largest."""
    rows = patches(calibration.to(torch.complex128), kernel)
    values, vectors = torch.linalg.eigh(rows.mT @ rows.conj())
    keep = values > threshold**2 * values[-1]
    basis = vectors[:, keep]
    return basis @ basis.mH


def _lag_sums(projector: Tensor, coils: int, kernel: int) -> Tensor:
    """W[c, d, l] = sum over p - q = l of P[(c p), (d q)] / kernel^2: (coils coils 2k-1 2k-1)."""
    blocks = projector.reshape(coils, kernel, kernel, coils, kernel, kernel)
    lags = projector.new_zeros((coils, coils, 2 * kernel - 1, 2 * kernel - 1))
    for row in range(kernel):
        for column in range(kernel):
            lags[..., row : row + kernel, column : column + kernel] += blocks[:, row, column].flip(-2, -1)
    return lags / kernel**2


def _waves(places: Tensor, length: int, kernel: int) -> Tensor:
    """exp(2 pi i l r / N) for the centred places r and the lags l = 1-k..k-1: (places, 2k-1)."""
    lags = torch.arange(1 - kernel, kernel, dtype=torch.float64)
    angle = 2 * math.pi / length * (places - length // 2)[:, None] * lags
    return torch.polar(torch.ones_like(angle), angle)


def _eigenmaps(
    calibration: Tensor, shape_yx: tuple[int, int], kernel: int, threshold: float, grid: int
) -> tuple[Tensor, Tensor]:
    """Eigenvectors (y x coils coils) and eigenvalues (y x coils), ascending, of G_r = sum_l W_l exp(2 pi i l.r / N) on
    a grid of at most `grid` points along each axis."""
    coils = calibration.shape[0]
    lags = _lag_sums(_signal_projector(calibration, kernel, threshold), coils, kernel)
    across = [_waves(torch.linspace(0, n - 1, min(n, grid), dtype=torch.float64), n, kernel) for n in shape_yx]
    matrices = torch.einsum("yl,cdlm,xm->yxcd", across[0], lags, across[1])
    values, vectors = torch.linalg.eigh(matrices.to(torch.complex64))
    return vectors, values


def _upsample(maps: Tensor, shape_yx: tuple[int, int]) -> Tensor:
    """Bicubic, first and last samples on the first and last pixels; real (channels y x)."""
    if tuple(maps.shape[-2:]) == tuple(shape_yx):
        return maps
    return F.interpolate(maps[None], size=shape_yx, mode="bicubic", align_corners=True)[0]


def _virtual_coil(calibration: Tensor) -> Tensor:
    """Unit weights (coils) of the strongest combination of coils over all slices; largest weight real and positive."""
    covariance = torch.einsum("zcyx,zdyx->cd", calibration, calibration.conj())
    weights = torch.linalg.eigh(covariance)[1][:, -1]
    largest = weights[weights.abs().argmax()]
    return weights * (largest.conj() / largest.abs())


def calibration_region(kspace: Tensor, calibration: tuple[slice, slice]) -> Tensor:
    """At most the central 32 x 32 samples of the region, (z coils y x); ValueError for a small or empty one."""
    region = kspace[..., calibration[0], calibration[1]]
    size = tuple(min(n, _CALIBRATION_LIMIT) for n in region.shape[-2:])
    if min(size) < 4:
        raise ValueError(f"The calibration region of {size[0]} x {size[1]} samples is smaller than 4 x 4.")
    top, left = (n // 2 - s // 2 for n, s in zip(region.shape[-2:], size))
    region = region[..., top : top + size[0], left : left + size[1]].cpu()
    if not bool(region.abs().amax() > 0):
        raise ValueError("The calibration region holds no signal.")
    return region


def estimate_sensitivities(
    kspace: Tensor,
    calibration: tuple[slice, slice],
    kernel: int = 6,
    threshold: float = 0.03,
    crop: float = 0.8,
) -> Tensor:
    """Coil sensitivities (z coils y x), complex64, from a fully sampled region, by ESPIRiT with one set of maps.

    ``kspace`` is (z coils y x), centred as ``operators.fourier.fft2`` leaves it; ``calibration`` are the slices of y
    and x of the region, of which at most the central 32 x 32 samples are used. Steps (Uecker et al. 2014): patches of
    the region span a signal space; its projector, averaged over shifts, acts at each pixel as a small matrix over
    coils, whose eigenvector of eigenvalue one is the sensitivity. sum_c |S_c|^2 = 1; the phase is that at which
    one virtual coil, the same for all slices, is real. Where the eigenvalue is below ``crop`` (air) the maps are
    zero; crop=0 keeps unit norm everywhere. ``threshold`` is relative to the largest singular value. Raises ValueError
    for a region smaller than 4 x 4 samples or without signal.
    """
    shape_yx = tuple(kspace.shape[-2:])
    region = calibration_region(kspace, calibration)
    kernel = min(kernel, min(region.shape[-2:]) // 2)
    virtual = _virtual_coil(region)
    out = torch.empty(kspace.shape, dtype=torch.complex64)
    for index, slice_region in enumerate(region):
        vectors, values = _eigenmaps(slice_region, shape_yx, kernel, threshold, _COARSE_GRID)
        maps, values = _phased(vectors[..., -1], virtual), values[..., -1]
        smooth = _upsample(torch.cat([maps.real, maps.imag, values[None]]), shape_yx)
        real, imaginary = smooth[:-1].chunk(2)
        fine = torch.complex(real, imaginary)
        fine = fine / fine.abs().square().sum(dim=0).sqrt().clamp_min(1e-6)
        out[index] = fine * (smooth[-1] >= crop)
    return out.to(kspace.device)


def _phased(vectors: Tensor, virtual: Tensor) -> Tensor:
    """Maps (coils y x) from eigenvectors (y x coils), with the phase at which the virtual coil is real."""
    maps = rearrange(vectors, "y x coils -> coils y x")
    reference = torch.einsum("c,cyx->yx", virtual.conj(), maps)
    return maps * torch.polar(torch.ones_like(reference.real), -reference.angle())


def estimate_sets(
    kspace: Tensor,
    calibration: tuple[slice, slice],
    sets: int = 2,
    kernel: int = 6,
    threshold: float = 0.03,
    crop: float = 0.8,
) -> Tensor:
    """Several sets of maps (z sets coils y x) by ESPIRiT, for a field of view smaller than the object.

    Where the object folds onto itself, two eigenvalues are near one: the coils see two places at once, and the k-space
    is sum_m F S_m x_m. Sets are ordered by eigenvalue at each pixel, and zero where it is below ``crop``; the other
    arguments are those of `estimate_sensitivities`.
    """
    shape_yx = tuple(kspace.shape[-2:])
    region = calibration_region(kspace, calibration)
    kernel = min(kernel, min(region.shape[-2:]) // 2)
    virtual = _virtual_coil(region)
    out = kspace.new_zeros((kspace.shape[0], sets, *kspace.shape[1:]), dtype=torch.complex64)
    for index, slice_region in enumerate(region):
        vectors, values = _eigenmaps(slice_region, shape_yx, kernel, threshold, max(shape_yx))
        for number in range(min(sets, kspace.shape[1])):
            kept = values[..., -1 - number] >= crop
            out[index, number] = (_phased(vectors[..., -1 - number], virtual) * kept).to(out.device)
    return out


def folded_share(
    kspace: Tensor, calibration: tuple[slice, slice], kernel: int = 6, threshold: float = 0.03, crop: float = 0.8
) -> float:
    """Share of the pixels with signal in which two sets of maps are needed, in about eight slices on a coarse grid."""
    region = calibration_region(kspace, calibration)
    kernel = min(kernel, min(region.shape[-2:]) // 2)
    signal = twice = 0
    for slice_region in region[:: -(-len(region) // 8)] if kspace.shape[1] > 1 else ():
        values = _eigenmaps(slice_region, tuple(kspace.shape[-2:]), kernel, threshold, _COARSE_GRID // 2)[1]
        signal += int((values[..., -1] >= crop).sum())
        twice += int((values[..., -2] >= crop).sum())
    return twice / max(signal, 1)
