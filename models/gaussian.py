"""Gaussian slice prior with closed-form denoiser: the truth against which samplers are tested."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.denoised import Denoised


@dataclass(frozen=True, eq=False)
class GaussianPrior:
    """Independent slices x = mean + F^-1 sqrt(S) F w with orthonormal 2D FFT F and white w.

    power     S >= 0, (y x) in unshifted FFT order, or a scalar tensor for voxels that are independent; variance per
              real component of each Fourier coefficient. For real volumes S(k) must equal S(-k).
    modality  "ct" (real) or "mr" (complex)
    """

    power: Tensor
    mean: float = 0.0
    modality: str = "ct"
    card: dict = field(default_factory=dict)

    @classmethod
    def independent(cls, std: float, mean: float = 0.0, modality: str = "ct") -> GaussianPrior:
        """Independent voxels N(mean, std^2)."""
        return cls(torch.tensor(float(std) ** 2), mean, modality)

    @property
    def sigma_data(self) -> float:
        """Standard deviation of one real component of one voxel."""
        return float(self.power.double().mean().sqrt())

    def denoise(
        self,
        x: Tensor,
        sigma: float,
        spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
        noise_correlation: float = 0.0,
    ) -> Denoised:
        """Exact posterior moments of every slice given that slice of x (z y x) = truth + sigma n.

        Spacing and the correlation of the noise along z change nothing: slices are denoised one by one.
        mean: m + F^-1 S / (S + sigma^2) F (x - m); variance: mean over frequencies of S sigma^2 / (S + sigma^2).
        """
        power = self.power.to(x.device)
        gain = power / (power + sigma**2)
        mean = self._filter(x - self.mean, gain) + self.mean
        variance = float((gain.double() * sigma**2).mean())
        return Denoised(mean, torch.full(x.shape, variance, dtype=x.real.dtype, device=x.device))

    def r2_scale(self, sigma: float, purpose: str) -> float:
        """1: the variance is exact, for point estimates and for samples."""
        return 1.0

    def check_fits(self, modality: str, pixel_mm: float) -> None:
        """A closed-form prior fits every pixel spacing."""

    def draw(self, white: Tensor) -> Tensor:
        """A draw from the prior made of white noise (z y x)."""
        return self._filter(white, self.power.to(white.device).sqrt()) + self.mean

    def _filter(self, x: Tensor, gain: Tensor) -> Tensor:
        if gain.ndim == 0:
            return x * gain
        out = torch.fft.ifft2(torch.fft.fft2(x) * gain)
        return out if x.is_complex() else out.real
