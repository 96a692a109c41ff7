"""Random training crops of neighbouring slices from a set of clean volumes."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class TrainingVolume:
    """Clean slices (z y x), float16, in the prior's units; `spacing_mm` (z, y, x)."""

    name: str
    slices: np.ndarray
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True)
class CropSettings:
    """How crops are drawn: `size` pixels a side, zoom range, largest slice spacing to reach by skipping slices."""

    size: int = 128
    zoom: tuple[float, float] = (0.8, 1.25)
    zoom_probability: float = 0.5
    largest_spacing_mm: float = 5.0
    transpose: bool = False


def neighbours(index: int, stride: int, count: int) -> list[int]:
    """Indices of the slices `stride` below, at and above `index`; the ends are reflected."""
    below, above = index - stride, index + stride
    return [below if below >= 0 else above % count, index, above if above < count else below % count]


def random_crop(
    volumes: list[TrainingVolume], settings: CropSettings, generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """One triplet (3, y, x) float32 and its (ln slice spacing, ln pixel) in mm; volumes weighted by their slices."""
    counts = np.array([v.slices.shape[0] for v in volumes], dtype=float)
    volume = volumes[generator.choice(len(volumes), p=counts / counts.sum())]
    dz, pixel = volume.spacing_mm[0], volume.spacing_mm[2]
    stride = int(generator.integers(1, max(1, min(3, int(settings.largest_spacing_mm / dz))) + 1))
    z = neighbours(int(generator.integers(volume.slices.shape[0])), stride, volume.slices.shape[0])
    zoom = generator.uniform(*settings.zoom) if generator.random() < settings.zoom_probability else 1.0
    side = round(settings.size / zoom)
    rows, columns = volume.slices.shape[1:]
    top = int(generator.integers(0, max(rows - side, 0) + 1))
    left = int(generator.integers(0, max(columns - side, 0) + 1))
    crop = torch.from_numpy(volume.slices[z, top : top + side, left : left + side].astype(np.float32))
    missing = (0, side - crop.shape[2], 0, side - crop.shape[1])
    if any(missing):
        crop = functional.pad(crop[None], missing, mode="replicate")[0]
    if side != settings.size:
        crop = functional.interpolate(crop[None], size=settings.size, mode="bilinear", antialias=True)[0]
    crop = _flip(crop, settings.transpose, generator)
    return crop, torch.tensor([np.log(dz * stride), np.log(pixel * side / settings.size)], dtype=torch.float32)


def _flip(crop: Tensor, transpose: bool, generator: np.random.Generator) -> Tensor:
    flips = [axis for axis in (0, 1, 2) if generator.random() < 0.5]
    crop = crop.flip(flips) if flips else crop
    return crop.transpose(1, 2) if transpose and generator.random() < 0.25 else crop


def smooth_phase(size: int, generator: np.random.Generator, waves: int = 5) -> Tensor:
    """Unit phasor (y, x) complex64: a random constant plus a few plane waves of at most about one period a crop."""
    y, x = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size), indexing="ij")
    phase = np.full((size, size), generator.uniform(-np.pi, np.pi))
    for _ in range(waves):
        ky, kx = generator.normal(0, 1.5, 2)
        phase += generator.normal(0, 0.6) * np.cos(ky * y + kx * x + generator.uniform(-np.pi, np.pi))
    return torch.from_numpy(np.exp(1j * phase).astype(np.complex64))


def complex_channels(crop: Tensor, generator: np.random.Generator) -> Tensor:
    """Magnitudes (3, y, x) to (6, y, x): real and imaginary part of each slice under one random smooth phase."""
    scaled = crop * float(generator.uniform(0.8, 1.2))
    return (
        torch.view_as_real(scaled * smooth_phase(crop.shape[-1], generator))
        .permute(0, 3, 1, 2)
        .reshape(6, *crop.shape[1:])
    )
