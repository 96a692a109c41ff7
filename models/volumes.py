"""Random training crops of neighbouring slices from a set of clean volumes."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class TrainingVolume:
    """Clean slices (z y x), float16, in the prior's units; `spacing_mm` (z, y, x).

    `degraded`: a classical reconstruction of the same slices from too few data, where the training starts from one.
    """

    name: str
    slices: np.ndarray
    spacing_mm: tuple[float, float, float]
    degraded: np.ndarray | None = None


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


class Crop(NamedTuple):
    """Clean triplet (3, y, x) float32 and (ln slice spacing, ln pixel) in mm; `residual` (3, y, x) is degraded minus
    clean, or None."""

    slices: Tensor
    log_spacing: Tensor
    residual: Tensor | None


def random_crop(volumes: list[TrainingVolume], settings: CropSettings, generator: np.random.Generator) -> Crop:
    """One crop at a random place and zoom, flipped at random; volumes weighted by their slices."""
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
    place = (z, slice(top, top + side), slice(left, left + side))
    crop = _at_size(volume.slices[place], side, settings.size)
    if volume.degraded is not None:
        crop = torch.cat([crop, _at_size(volume.degraded[place], side, settings.size) - crop])
    crop = _flip(crop, settings.transpose, generator)
    log_spacing = torch.tensor([np.log(dz * stride), np.log(pixel * side / settings.size)], dtype=torch.float32)
    return Crop(crop[:3], log_spacing, crop[3:] if volume.degraded is not None else None)


def _at_size(values: np.ndarray, side: int, size: int) -> Tensor:
    """Triplet (3, y, x) as float32, replicated outwards to `side` pixels and resampled to `size`."""
    crop = torch.from_numpy(values.astype(np.float32))
    missing = (0, side - crop.shape[2], 0, side - crop.shape[1])
    if any(missing):
        crop = functional.pad(crop[None], missing, mode="replicate")[0]
    if side != size:
        crop = functional.interpolate(crop[None], size=size, mode="bilinear", antialias=True)[0]
    return crop


def _flip(crop: Tensor, transpose: bool, generator: np.random.Generator) -> Tensor:
    """Flips along z, y and x and a transposition at random, of clean and residual triplets alike."""
    below, top, left = (generator.random() < 0.5 for _ in range(3))
    if below:
        crop = crop.unflatten(0, (-1, 3)).flip(1).flatten(0, 1)
    if top:
        crop = crop.flip(1)
    if left:
        crop = crop.flip(2)
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
    """Magnitudes (n, y, x) to (2n, y, x): real and imaginary part of each slice under one random smooth phase."""
    scaled = crop * float(generator.uniform(0.8, 1.2))
    parts = torch.view_as_real(scaled * smooth_phase(crop.shape[-1], generator)).permute(0, 3, 1, 2)
    return parts.reshape(2 * len(crop), *crop.shape[1:])
