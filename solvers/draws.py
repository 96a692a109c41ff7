"""Counter-based random numbers: a draw depends on its tags alone, never on what was drawn before it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draws:
    """Standard normal tensors addressed by (seed, tags).

    The same tags give the same bits, whatever the order of calls, the batch size or an interruption in between.
    """

    seed: int
    prefix: tuple[int | str, ...] = ()

    def child(self, *tags: int | str) -> Draws:
        """Draws that put `tags` before the tags of every call (one sample of several, say)."""
        return Draws(self.seed, (*self.prefix, *tags))

    def generator(self, *tags: int | str) -> torch.Generator:
        """CPU generator seeded by SHA-256 of the seed and the tags."""
        parts = [self.seed, *self.prefix, *tags]
        key = "\x1f".join(f"{'s' if isinstance(part, str) else 'i'}{part}" for part in parts)
        digest = hashlib.sha256(key.encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)

    def normal(self, shape: tuple[int, ...], dtype: torch.dtype, *tags: int | str) -> Tensor:
        """White N(0, 1) of `shape` on the CPU; complex dtypes have unit variance in each real component."""
        generator = self.generator(*tags)
        if dtype.is_complex:
            parts = torch.randn((*shape, 2), dtype=dtype.to_real(), generator=generator)
            return torch.view_as_complex(parts)
        return torch.randn(tuple(shape), dtype=dtype, generator=generator)
