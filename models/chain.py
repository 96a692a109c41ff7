"""Training crops of chain states: what a sampler showed its prior, beside the truth."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.volumes import neighbours


@dataclass(frozen=True)
class ChainSlab:
    """Volumes that a prior was asked about in one reconstruction, in its units.

    noisy (n z y x) or, complex, (n z y x 2); clean (z y x) or (z y x 2); float16. sigma (n): the noise level that the
    prior was told; correlation (n): of the noise along z; spacing_mm (z, y, x).
    """

    noisy: np.ndarray
    clean: np.ndarray
    sigma: np.ndarray
    correlation: np.ndarray
    spacing_mm: tuple[float, float, float]


class ChainCrop(NamedTuple):
    """Clean and noisy triplets (3 channels, y, x), sigma, and (ln slice spacing, ln pixel, noise correlation)."""

    clean: Tensor
    noisy: Tensor
    sigma: float
    conditions: Tensor


def random_chain_crop(slabs: list[ChainSlab], size: int, transpose: bool, draw: np.random.Generator) -> ChainCrop:
    """One crop of a random slab, level, slice and place, reflected at random, complex values under a random phase.

    Slabs smaller than `size` pixels are continued by their edge.
    """
    slab = slabs[draw.integers(len(slabs))]
    level, index = int(draw.integers(len(slab.sigma))), int(draw.integers(len(slab.clean)))
    z = neighbours(index, 1, len(slab.clean))
    rows, columns = slab.clean.shape[1:3]
    top, left = (int(draw.integers(0, max(n - size, 0) + 1)) for n in (rows, columns))
    window = (z, slice(top, top + size), slice(left, left + size))
    pair = np.stack([slab.clean[window], slab.noisy[level][window]]).astype(np.float32)
    missing = [(0, size - n) for n in pair.shape[2:4]]
    pair = torch.from_numpy(np.pad(pair, [(0, 0), (0, 0), *missing, *[(0, 0)] * (pair.ndim - 4)], mode="edge"))
    if pair.ndim == 4:
        pair = pair[..., None]
    else:
        phase = torch.tensor(draw.uniform(0, 2 * np.pi))
        pair = torch.view_as_real(torch.view_as_complex(pair) * torch.polar(torch.ones(()), phase.float()))
    pair = pair.permute(0, 1, 4, 2, 3).flip([axis for axis in (1, 3, 4) if draw.random() < 0.5])
    if transpose and draw.random() < 0.5:
        pair = pair.transpose(3, 4)
    clean, noisy = pair.flatten(1, 2)
    dz, _, dx = slab.spacing_mm
    conditions = torch.tensor([np.log(dz), np.log(dx), slab.correlation[level]], dtype=torch.float32)
    return ChainCrop(clean.contiguous(), noisy.contiguous(), float(slab.sigma[level]), conditions)


def chain_batch(
    slabs: list[ChainSlab], count: int, size: int, transpose: bool, draw: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Clean triplets (b, 3c, y, x), noise = (noisy - clean) / sigma likewise, sigma (b,), conditions (b, 3)."""
    crops = [random_chain_crop(slabs, size, transpose, draw) for _ in range(count)]
    clean, noisy = (torch.stack(values) for values in zip(*((c.clean, c.noisy) for c in crops), strict=True))
    sigma = torch.tensor([c.sigma for c in crops])
    return clean, (noisy - clean) / sigma[:, None, None, None], sigma, torch.stack([c.conditions for c in crops])
