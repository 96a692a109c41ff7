"""What all MR encodings with coil sensitivities share."""

from __future__ import annotations

import torch
from torch import Tensor

from operators.linear import LinearOperator


class CoilEncoding(LinearOperator):
    """An operator on complex images (z y x) seen through ``sensitivities``, (z coils y x), z = 1 where all slices share
    them. Raises ValueError for sensitivities of another form."""

    def __init__(self, sensitivities: Tensor) -> None:
        if sensitivities.ndim != 4 or not sensitivities.is_complex():
            raise ValueError("Coil sensitivities must be complex with axes (z coils y x).")
        self.sensitivities = sensitivities

    @property
    def device(self) -> torch.device:
        return self.sensitivities.device

    @property
    def coils(self) -> int:
        return self.sensitivities.shape[1]
