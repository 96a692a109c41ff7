"""Classical methods by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from solvers.classical.cg_sense import CgSenseSettings, cg_sense
from solvers.classical.cgls import CglsSettings, cgls
from solvers.classical.fbp import FbpSettings
from solvers.classical.fdk import analytic, fdk
from solvers.classical.total_variation import TvSettings, total_variation
from solvers.classical.wavelet import WaveletSettings, wavelet
from solvers.classical.zero_filled import ZeroFilledSettings, zero_filled
from solvers.problem import Problem
from solvers.settings import SettingsError, settings_from_dict


@dataclass(frozen=True)
class ClassicalMethod:
    """A reconstruction without a learnt prior, its settings and the modalities it serves.

    tells_steps: whether the function takes a third argument, called with the estimate after each of the at most
    `settings.iterations` steps.
    """

    name: str
    function: Callable[..., Tensor]
    settings_class: type
    modalities: tuple[str, ...]
    tells_steps: bool = False

    def settings(self, values: Mapping[str, Any] | None = None) -> Any:
        """Settings from a mapping; SettingsError for unknown keys and impossible values."""
        return settings_from_dict(self.settings_class, values or {}, self.name)

    def __call__(
        self, problem: Problem, settings: Any = None, callback: Callable[[Tensor], None] | None = None
    ) -> Tensor:
        """Reconstruction (z y x) in prior units; `settings` is a mapping, an object of settings_class, or None.

        `callback` is called after every step where the method tells its steps, else never.
        """
        modality = "mr" if problem.dtype.is_complex else "ct"
        if modality not in self.modalities:
            raise SettingsError(f"{self.name} does not reconstruct {modality.upper()} data.")
        if settings is None or isinstance(settings, Mapping):
            settings = self.settings(settings)
        return self.function(problem, settings, callback) if self.tells_steps else self.function(problem, settings)


CLASSICAL: dict[str, ClassicalMethod] = {
    method.name: method
    for method in (
        ClassicalMethod("fbp", analytic, FbpSettings, ("ct",)),
        ClassicalMethod("fdk", fdk, FbpSettings, ("ct",)),
        ClassicalMethod("cgls", cgls, CglsSettings, ("ct", "mr")),
        ClassicalMethod("tv", total_variation, TvSettings, ("ct", "mr"), tells_steps=True),
        ClassicalMethod("zero_filled", zero_filled, ZeroFilledSettings, ("mr",)),
        ClassicalMethod("cg_sense", cg_sense, CgSenseSettings, ("mr",)),
        ClassicalMethod("wavelet", wavelet, WaveletSettings, ("mr",)),
    )
}
