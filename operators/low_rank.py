"""Calibration data for coil sensitivities where the centre of k-space was not sampled whole.

SAKE (Shin et al., Magn Reson Med 72, 2014, 959): all small patches of the coils' k-space, as rows of a matrix, span few
directions. Missing samples are those that make that matrix nearest to one of low rank.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from operators.coils import patches


def complete_kspace(
    kspace: Tensor, mask: Tensor, kernel: int = 6, rank_per_kernel: float = 1.0, iterations: int = 60
) -> Tensor:
    """K-space (coils y x) with its gaps filled, complex64; the measured samples stay as they are.

    mask: bool (y x), where it was measured. rank_per_kernel: directions kept, in units of kernel^2 (its windows).
    Works for gaps without a regular pattern; a lattice of gaps is low-rank with its aliases, and stays wrong.
    """
    coils, rows, columns = kspace.shape
    rank = min(round(rank_per_kernel * kernel**2), coils * kernel**2 - 1)
    measured = kspace * mask
    ones = torch.ones((coils * kernel**2, (rows - kernel + 1) * (columns - kernel + 1)))
    counts = _spread_back(ones, rows, columns, kernel)
    filled = measured.clone()
    for _ in range(iterations):
        matrix = patches(filled, kernel)
        basis = torch.linalg.eigh(matrix.mH @ matrix)[1][:, -rank:]
        low = (matrix @ basis @ basis.mH).T
        parts = (_spread_back(part, rows, columns, kernel) for part in (low.real, low.imag))
        mean = torch.complex(*parts) / counts
        filled = torch.where(mask, measured, mean)
    return filled


def _spread_back(columns_of: Tensor, rows: int, columns: int, kernel: int) -> Tensor:
    """Sum of patches (coils*ky*kx, patches) at their places: (coils y x)."""
    return F.fold(columns_of[None], (rows, columns), kernel)[0]
