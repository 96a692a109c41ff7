"""MR encoding along radial, spiral and other trajectories: coil sensitivities, non-uniform FFT, density weighting."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from operators.coil_encoding import CoilEncoding
from operators.nufft import Nufft, toeplitz_kernel


class NonCartesianMri(CoilEncoding):
    """y_c = d^(1/2) F (S_c x): complex x (z y x) -> samples (z coils n).

    ``trajectory`` is (n 2), or (z n 2) where slices differ: ky and kx in cycles per field of view. ``sensitivities``
    are (z coils y x), z = 1 where all slices share them. ``density`` (n) or (z n), the area that each sample stands for
    (operators.nufft.density_compensation); None: one. With it and sum|S|^2 = 1, A^H A is near the identity on the disc
    that is sampled; the noise variance of a sample is then d times that of the scanner's, and weights d^-1 / sigma^2
    keep the noise model exact.
    """

    def __init__(self, trajectory: Tensor, sensitivities: Tensor, density: Tensor | None = None) -> None:
        super().__init__(sensitivities)
        paths = trajectory if trajectory.ndim == 3 else trajectory[None]
        if paths.ndim != 3 or len(paths) not in (1, sensitivities.shape[0]):
            raise ValueError(f"The trajectory {tuple(trajectory.shape)} does not fit {sensitivities.shape[0]} slices.")
        self.trajectory = trajectory
        self.density = torch.ones(paths.shape[:2]) if density is None else density
        self._root = torch.atleast_2d(self.density).sqrt().to(sensitivities.device)
        if self._root.shape[-1] != paths.shape[1] or len(self._root) not in (1, len(paths)):
            raise ValueError(f"The density {tuple(self.density.shape)} does not fit the trajectory.")
        self._paths = paths
        self._transforms = [Nufft(path, tuple(sensitivities.shape[2:])) for path in paths]

    def to(self, device: torch.device | str) -> NonCartesianMri:
        return NonCartesianMri(self.trajectory, self.sensitivities.to(device), self.density)

    def _forward(self, x: Tensor) -> Tensor:
        if x.ndim != 3 or x.shape[1:] != self.sensitivities.shape[2:]:
            raise ValueError(f"The image {tuple(x.shape)} does not fit {tuple(self.sensitivities.shape)}.")
        rows = [_pick(self._transforms, z).forward(_pick(self.sensitivities, z) * image) for z, image in enumerate(x)]
        return torch.stack(rows) * self._root[:, None]

    def _adjoint(self, y: Tensor) -> Tensor:
        if y.ndim != 3 or y.shape[1:] != (self.coils, self._paths.shape[1]):
            raise ValueError(f"The samples {tuple(y.shape)} are not (z coils n) of this operator.")
        weighted = y * self._root[:, None]
        coils = [_pick(self._transforms, z).adjoint(samples) for z, samples in enumerate(weighted)]
        return torch.stack([(image * _pick(self.sensitivities, z).conj()).sum(0) for z, image in enumerate(coils)])

    def normal(self, weights: Tensor) -> Callable[[Tensor], Tensor]:
        """x -> A^H W A x by Toeplitz embedding, two FFTs of twice the size a coil and slice.

        Needs weights that are a number per coil times a number per sample: (z or 1, coils or 1, n or 1) of rank one;
        for others the plain way.
        """
        weights = weights.to(self.device)
        largest = weights.amax(dim=2, keepdim=True)
        scale = largest / largest[:, :1].clamp_min(torch.finfo(weights.dtype).tiny)
        sample = (self._root**2)[:, None] * weights[:, :1]
        if not torch.allclose(scale * weights[:, :1], weights, rtol=1e-5, atol=0):
            return super().normal(weights)
        shape = tuple(self.sensitivities.shape[2:])
        count = max(len(self._paths), len(sample))
        kernels = []
        for z in range(count):
            density = _pick(sample, z)[0].cpu()
            kernels.append(toeplitz_kernel(_pick(self._paths, z), density, shape).to(self.device))

        def one(x: Tensor, z: int) -> Tensor:
            maps, share = _pick(self.sensitivities, z), _pick(scale, z)[..., None]
            wide = torch.fft.fft2(maps * x, s=(2 * shape[0], 2 * shape[1])).mul_(_pick(kernels, z))
            back = torch.fft.ifft2(wide)[..., : shape[0], : shape[1]]
            return (share * maps.conj() * back).sum(0)

        return lambda x: torch.stack([one(x[z], z) for z in range(len(x))])


def _pick(parts, z: int):
    """The part of slice z, or the one that all slices share."""
    return parts[z if len(parts) > 1 else 0]
