"""Non-uniform Fourier transform in the plane, by finufft (Barnett, Magland, af Klinteberg, SIAM J Sci Comput 2019)."""

from __future__ import annotations

import math
import os

import numpy as np
import torch
from torch import Tensor

# Relative accuracy asked of finufft, by the precision of the data.
_TOLERANCE = {torch.complex64: 1e-6, torch.complex128: 1e-12}


class NufftMissing(ImportError):
    """finufft is not installed; str() is a sentence for the user."""

    @property
    def user_message(self) -> str:
        return "Radial and spiral data need finufft: pip install -r requirements-extra.txt, then run again."


def _finufft():
    # Another OpenMP runtime than torch's must not be made to spin while torch works.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        import finufft
    except ImportError as error:
        raise NufftMissing("finufft is not installed") from error
    return finufft


class Nufft:
    """F x = (rows columns)^(-1/2) sum_r x_r exp(-2 pi i (k_y r_y / rows + k_x r_x / columns)), r counted from n // 2.

    trajectory: (n 2), ky and kx in cycles per field of view; on whole numbers F agrees with ``operators.fourier.fft2``.
    forward: (batch y x) -> (batch n); adjoint: back, with the same weights of the same spreading kernel, so that it is
    the adjoint to rounding. Works on the CPU; tensors of another device are moved there and back. Raises ValueError for
    a trajectory that is not finite or reaches beyond the matrix, NufftMissing without finufft.
    """

    def __init__(self, trajectory: Tensor, shape_yx: tuple[int, int]) -> None:
        if trajectory.ndim != 2 or trajectory.shape[1] != 2 or not bool(torch.isfinite(trajectory).all()):
            raise ValueError("A trajectory must be finite with axes (samples, ky kx).")
        self.shape_yx = (int(shape_yx[0]), int(shape_yx[1]))
        half = torch.tensor(self.shape_yx, dtype=torch.float64) / 2
        if bool((trajectory.double().abs().amax(0) > half + 1).any()):
            raise ValueError(f"The trajectory reaches beyond a matrix of {self.shape_yx}.")
        self._angles = (math.pi * trajectory.double().cpu() / half).numpy()
        self._scale = 1 / math.sqrt(self.shape_yx[0] * self.shape_yx[1])
        self._plans: dict = {}

    @property
    def samples(self) -> int:
        return len(self._angles)

    def _plan(self, kind: int, batch: int, dtype: torch.dtype):
        key = (kind, batch, dtype)
        if key not in self._plans:
            self._plans.clear() if len(self._plans) > 4 else None
            name = "complex64" if dtype == torch.complex64 else "complex128"
            sign = 1 if kind == 1 else -1
            plan = _finufft().Plan(
                kind, self.shape_yx, n_trans=batch, eps=_TOLERANCE[dtype], isign=sign, dtype=name,
                nthreads=torch.get_num_threads(),
            )  # fmt: skip
            real = np.float32 if dtype == torch.complex64 else np.float64
            plan.setpts(*(np.ascontiguousarray(self._angles[:, axis], real) for axis in (0, 1)))
            self._plans[key] = plan
        return self._plans[key]

    def _execute(self, kind: int, x: Tensor) -> Tensor:
        values = x.resolve_conj().detach().cpu().contiguous().numpy()
        found = self._plan(kind, len(values), x.dtype).execute(values if len(values) > 1 else values[0])
        return torch.from_numpy(np.atleast_2d(found) if kind == 2 else found.reshape(-1, *self.shape_yx)).to(x.device)

    def forward(self, x: Tensor) -> Tensor:
        return self._execute(2, x).mul_(self._scale)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._execute(1, y).mul_(self._scale)


def toeplitz_kernel(trajectory: Tensor, weights: Tensor, shape_yx: tuple[int, int]) -> Tensor:
    """Real transfer function (2 rows, 2 columns), float32, with F^H diag(weights) F x = crop ifft2(K fft2(pad x)).

    F^H W F is a convolution with p(d) = sum_j w_j exp(2 pi i k_j d / n) / (rows columns), needed for |d| < n only
    (Wajer and Pruessmann 2001; Fessler et al. 2005). weights: real (n).
    """
    rows, columns = shape_yx
    wide = Nufft(trajectory.double() * 2, (2 * rows, 2 * columns))
    spread = wide.adjoint(weights.to(torch.complex128)[None])[0] * (2 / math.sqrt(rows * columns))
    spread[0, :] = spread[:, 0] = 0
    return torch.fft.fft2(torch.fft.ifftshift(spread)).real.float()


def autocorrelation_window(shape_yx: tuple[int, int]) -> Tensor:
    """The field of view's disc correlated with itself, one at the centre: (2 rows, 2 columns), float64.

    Zero from the distance of one field of view on.
    """
    rows, columns = shape_yx
    y = (torch.arange(2 * rows, dtype=torch.float64) - rows) / rows
    x = (torch.arange(2 * columns, dtype=torch.float64) - columns) / columns
    t = torch.hypot(y[:, None], x[None]).clamp(max=1)
    return (torch.acos(t) - t * (1 - t**2).sqrt()) * (2 / math.pi)


def density_compensation(trajectory: Tensor, shape_yx: tuple[int, int], iterations: int = 30) -> Tensor:
    """Area of k-space that each sample stands for, (n) float32, in (cycles per field of view)^2.

    Pipe and Menon (1999): w <- w / (w convolved with psi), to the fixed point where that is one. psi is the transform
    of the autocorrelation of the field of view's disc (Johnson and Pipe 2009): it is not negative, its integral is one,
    and samples of a full grid have w = 1.
    """
    rows, columns = shape_yx
    wide = Nufft(trajectory.double() * 2, (2 * rows, 2 * columns))
    window = 4 * autocorrelation_window(shape_yx).to(torch.complex128)
    weights = torch.ones(wide.samples, dtype=torch.float64)
    for _ in range(iterations):
        around = wide.forward(window * wide.adjoint(weights.to(torch.complex128)[None]))[0].real
        weights = weights / around.clamp_min(1e-12)
    return weights.float()
