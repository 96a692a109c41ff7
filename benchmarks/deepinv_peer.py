"""deepinv as a peer to check against: imported without torchvision, our prior and operator in its forms."""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from solvers.problem import Problem

OPTIONAL = ("torchvision", "torchmetrics", "natsort")


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Empty modules in place of packages that deepinv imports at its top and that are not installed."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in OPTIONAL:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        module = ModuleType(spec.name)

        def attribute(name: str) -> type:
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {})

        module.__getattr__ = attribute
        return module

    def exec_module(self, module):
        return None


def import_deepinv() -> ModuleType:
    """deepinv, with stand-ins for torchvision, torchmetrics and natsort where they are not installed. ImportError when
    deepinv itself is missing."""
    if importlib.util.find_spec("deepinv") is None:
        raise ImportError("deepinv is not installed: see requirements-extra.txt")
    finder = _StandIns()
    sys.meta_path.append(finder)
    try:
        return importlib.import_module("deepinv")
    finally:
        sys.meta_path.remove(finder)


def deepinv_denoiser(deepinv: ModuleType, prior: Any, spacing_mm, centred: bool) -> torch.nn.Module:
    """The prior as a deepinv denoiser of (z 1 y x); images in [0, 1] become u = 2 x - 1; `centred`: they are u."""

    class Wrapped(deepinv.models.Denoiser):
        def forward(self, x: Tensor, sigma: Tensor | float, *_, **__) -> Tensor:
            u, level = (x, float(sigma)) if centred else (2 * x - 1, 2 * float(sigma))
            mean = prior.denoise(u[:, 0].float(), level, spacing_mm).mean[:, None].to(x.dtype)
            return mean if centred else (mean + 1) / 2

    return Wrapped()


def deepinv_physics(deepinv: ModuleType, problem: Problem) -> Any:
    """The operator on (z 1 y x), a batch of slices; its least-squares solver is run to convergence."""
    return deepinv.physics.LinearPhysics(
        A=lambda x, **_: problem.A(x[:, 0].float()).to(x.dtype),
        A_adjoint=lambda y, **_: problem.A.adjoint(y.float())[:, None].to(y.dtype),
        max_iter=200,
        tol=1e-6,
        implicit_backward_solver=False,
    )
