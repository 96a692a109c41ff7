"""Checks and readers shared by the tests of the operators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from operators.linear import LinearOperator


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def adjoint_error(operator: LinearOperator, shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> float:
    """|<A x, y> - <x, A^H y>| / (|A x| |y|) for random x and y, the inner products in double precision."""
    generator = seeded(seed)
    x = torch.randn(shape, dtype=dtype, generator=generator).to(operator.device)
    image = operator(x)
    y = torch.randn(image.shape, dtype=image.dtype, generator=generator).to(operator.device)
    back = operator.adjoint(y)
    assert back.shape == x.shape
    assert back.dtype == x.dtype
    wide = torch.complex128 if image.is_complex() else torch.float64
    left = torch.vdot(image.to(wide).flatten(), y.to(wide).flatten())
    right = torch.vdot(x.to(wide).flatten(), back.to(wide).flatten())
    scale = torch.linalg.vector_norm(image) * torch.linalg.vector_norm(y)
    return float((left - right).abs() / scale)


def dense(operator: LinearOperator, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The operator as a matrix, one column for each unit vector."""
    size = int(np.prod(shape))
    columns = [operator(unit.reshape(shape)).flatten() for unit in torch.eye(size, dtype=dtype)]
    return torch.stack(columns, dim=1)


def write_cfl(stem: Path, array: np.ndarray) -> None:
    """BART's format: a text header with 16 dimensions, complex64 samples with the first axis fastest."""
    dimensions = [*array.shape, *[1] * (16 - array.ndim)]
    stem.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, dimensions)) + "\n", encoding="ascii")
    array.astype(np.complex64).ravel(order="F").tofile(stem.with_suffix(".cfl"))


def read_cfl(stem: Path) -> np.ndarray:
    header = stem.with_suffix(".hdr").read_text(encoding="ascii").splitlines()
    dimensions = [int(field) for field in header[1].split()]
    return np.fromfile(stem.with_suffix(".cfl"), np.complex64).reshape(dimensions, order="F")
