"""Linear operators on torch tensors whose automatic derivative is the exact adjoint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor


class _Apply(torch.autograd.Function):
    """y = A x (or A^H x). The derivative of a linear map is the map itself, its transpose the adjoint."""

    @staticmethod
    def forward(ctx, x: Tensor, operator: LinearOperator, adjoint: bool) -> Tensor:
        ctx.operator, ctx.adjoint = operator, adjoint
        return operator._adjoint(x) if adjoint else operator._forward(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Apply.apply(gradient, ctx.operator, not ctx.adjoint), None, None

    @staticmethod
    def jvp(ctx, tangent: Tensor, *_: None) -> Tensor:
        return _Apply.apply(tangent, ctx.operator, ctx.adjoint)


class LinearOperator(ABC):
    """Base of all operators: a subclass gives ``_forward`` and ``_adjoint``.

    ``forward``, ``adjoint`` and ``A(x)`` may be used under autograd to any order; the backward pass of the one is
    the other. ``A.H`` is the adjoint, ``A @ B`` the composition, ``A @ x`` the same as ``A(x)``. Complex operators
    use the inner product <u, v> = sum conj(u) v, which is also torch's convention for complex gradients.
    """

    @abstractmethod
    def _forward(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _adjoint(self, y: Tensor) -> Tensor: ...

    @property
    def device(self) -> torch.device:
        """Device of the operator's own tensors (cpu for operators that hold none)."""
        return torch.device("cpu")

    def forward(self, x: Tensor) -> Tensor:
        """A x."""
        return _Apply.apply(x, self, False)

    def adjoint(self, y: Tensor) -> Tensor:
        """A^H y."""
        return _Apply.apply(y, self, True)

    def gram(self, x: Tensor) -> Tensor:
        """A^H A x."""
        return self.adjoint(self.forward(x))

    def normal(self, weights: Tensor) -> Callable[[Tensor], Tensor]:
        """The map x -> A^H W A x for real weights W on the data; operators that know a shorter way override it."""
        return lambda x: self.adjoint(weights * self.forward(x))

    def to(self, device: torch.device | str) -> Self:
        """A copy whose tensors live on ``device`` (the operator itself when it holds none)."""
        return self

    def __call__(self, x: Tensor) -> Tensor:
        return self.forward(x)

    def __matmul__(self, other: LinearOperator | Tensor) -> LinearOperator | Tensor:
        if isinstance(other, LinearOperator):
            return Composition(self, other)
        if isinstance(other, Tensor):
            return self.forward(other)
        return NotImplemented

    @property
    def H(self) -> LinearOperator:
        return Adjoint(self)


class Adjoint(LinearOperator):
    """A^H as an operator; its own adjoint is A again."""

    def __init__(self, operator: LinearOperator) -> None:
        self.operator = operator

    def _forward(self, x: Tensor) -> Tensor:
        return self.operator._adjoint(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.operator._forward(y)

    @property
    def device(self) -> torch.device:
        return self.operator.device

    def to(self, device: torch.device | str) -> Adjoint:
        return Adjoint(self.operator.to(device))

    @property
    def H(self) -> LinearOperator:
        return self.operator


class Composition(LinearOperator):
    """(A B) x = A (B x), with adjoint B^H A^H."""

    def __init__(self, outer: LinearOperator, inner: LinearOperator) -> None:
        self.outer, self.inner = outer, inner

    def _forward(self, x: Tensor) -> Tensor:
        return self.outer._forward(self.inner._forward(x))

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.inner._adjoint(self.outer._adjoint(y))

    @property
    def device(self) -> torch.device:
        return self.outer.device

    def to(self, device: torch.device | str) -> Composition:
        return Composition(self.outer.to(device), self.inner.to(device))


class Identity(LinearOperator):
    """x -> x (denoising problems, tests)."""

    def _forward(self, x: Tensor) -> Tensor:
        return x.clone()

    def _adjoint(self, y: Tensor) -> Tensor:
        return y.clone()
