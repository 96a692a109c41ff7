"""Preconditioned conjugate gradients for Hermitian positive definite systems on whole volumes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def real_inner(a: Tensor, b: Tensor) -> Tensor:
    """Re <a, b> as a float64 scalar tensor: the inner product of (real, imaginary) pairs."""
    if a.is_complex():
        a, b = torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj())
    return torch.dot(a.reshape(-1), b.reshape(-1)).double()


def conjugate_gradient(
    matvec: Callable[[Tensor], Tensor],
    b: Tensor,
    x0: Tensor,
    iterations: int,
    tolerance: float = 0.0,
    precondition: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Solve M x = b for Hermitian positive definite M, given as `matvec`, starting from x0.

    Stops after `iterations` or when |b - M x| <= tolerance |b|. `precondition` applies an approximation of M^-1.
    Hestenes and Stiefel 1952, with the real inner product Re <a, b> for complex tensors, so that M need only be linear
    over the reals.
    """
    identity = precondition is None
    x = x0.clone()
    r = b - matvec(x)
    z = r if identity else precondition(r)
    p = z.clone()
    rz = real_inner(r, z)
    limit = (tolerance**2) * real_inner(b, b)
    for _ in range(iterations):
        if real_inner(r, r) <= limit or rz <= 0:
            break
        q = matvec(p)
        curvature = real_inner(p, q)
        if curvature <= 0:
            break
        alpha = (rz / curvature).item()
        x.add_(p, alpha=alpha)
        r = r - alpha * q
        z = r if identity else precondition(r)
        rz_next = real_inner(r, z)
        p = z + (rz_next / rz).item() * p
        rz = rz_next
    return x
