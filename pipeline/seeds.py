"""Random generators for the stages: one for every purpose, so that adding one draw does not change another."""

import hashlib

import numpy as np
import torch


def generator(seed: int, *tags: str | int) -> torch.Generator:
    """A CPU generator seeded by the SHA-256 of the seed and the tags that name the purpose."""
    text = "/".join(str(part) for part in (seed, *tags))
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def numpy_generator(seed: int, *tags: str | int) -> np.random.Generator:
    """The same for numpy."""
    return np.random.default_rng(generator(seed, *tags).initial_seed())
