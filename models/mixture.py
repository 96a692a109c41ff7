"""Gaussian-mixture slice prior with closed-form denoiser: the truth against which samplers meet several modes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from models.denoised import Denoised


@dataclass(frozen=True, eq=False)
class MixturePrior:
    """Independent slices x = mu_k + std w with probability weights_k, w white with unit variance per real component.

    means    mu, (m y x), real for "ct" and complex for "mr"
    std      standard deviation of a mode per real component
    weights  probabilities of the m modes, positive with sum 1

    Raises ValueError when the parts do not fit together.
    """

    means: Tensor
    std: float
    weights: tuple[float, ...]
    modality: str = "ct"
    card: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", tuple(float(w) for w in self.weights))
        if self.means.ndim != 3 or len(self.weights) != self.means.shape[0]:
            raise ValueError(f"{len(self.weights)} weights do not fit means of shape {tuple(self.means.shape)} (m y x)")
        if min(self.weights) <= 0 or abs(sum(self.weights) - 1) > 1e-6 or self.std <= 0:
            raise ValueError("weights must be positive with sum 1 and std positive")

    @property
    def sigma_data(self) -> float:
        """Standard deviation of one real component of one voxel, over all modes, root mean square over voxels."""
        between = (self._probabilities()[:, None, None] * self._centred().abs().square()).sum(0)
        return float(self.std**2 + between.mean() / self._components) ** 0.5

    def denoise(
        self,
        x: Tensor,
        sigma: float,
        spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
        noise_correlation: float = 0.0,
    ) -> Denoised:
        """Exact posterior moments of every slice given that slice of x (z y x) = truth + sigma n; differentiable in x.

        With p_k the posterior probability of mode k and g = std^2 / (std^2 + sigma^2):
        mean: g x + (1 - g) sum_k p_k mu_k; variance of a voxel: g sigma^2 + (1 - g)^2 sum_k p_k |mu_k - mu_p|^2 per
        real component, mu_p = sum_k p_k mu_k. Spacing and correlation along z change nothing.
        """
        means = self.means.to(x.device, x.dtype)
        gain = self.std**2 / (self.std**2 + sigma**2)
        p = self.responsibilities(x, sigma).to(means.real.dtype)
        middle = torch.einsum("zm,myx->zyx", p.to(x.dtype), means)
        between = sum(p[:, k, None, None] * (means[k] - middle).abs().square() for k in range(len(self.weights)))
        variance = gain * sigma**2 + (1 - gain) ** 2 * between / self._components
        return Denoised(gain * x + (1 - gain) * middle, variance)

    def responsibilities(self, x: Tensor, sigma: float) -> Tensor:
        """Posterior probability (z m) of every mode given every slice of x = truth + sigma n, float64."""
        wide = torch.complex128 if x.is_complex() else torch.float64
        means, log_weights = self.means.to(x.device, wide), self._probabilities().log().to(x.device)
        inner = torch.einsum("zyx,myx->zm", x.to(wide), means.conj()).real
        norm = means.abs().square().sum((1, 2))
        return torch.softmax(log_weights + (inner - norm / 2) / (self.std**2 + sigma**2), 1)

    def r2_scale(self, sigma: float, purpose: str) -> float:
        """1: the variance is exact, for point estimates and for samples."""
        return 1.0

    def check_fits(self, modality: str, pixel_mm: float) -> None:
        """A closed-form prior fits every pixel spacing."""

    def draw(self, white: Tensor, modes: Tensor | None = None) -> Tensor:
        """A draw from the prior made of white noise (z y x); `modes` (z) chooses the mode of every slice.

        Without `modes` the slices take the modes in blocks whose sizes follow the weights (stratified, not random).
        """
        if modes is None:
            quantiles = (torch.arange(white.shape[0], dtype=torch.float64) + 0.5) / white.shape[0]
            modes = torch.searchsorted(self._probabilities().cumsum(0)[:-1], quantiles)
        return self.means.to(white.device, white.dtype)[modes.to(white.device)] + self.std * white

    @property
    def _components(self) -> int:
        return 2 if self.means.is_complex() else 1

    def _probabilities(self) -> Tensor:
        return torch.tensor(self.weights, dtype=torch.float64)

    def _centred(self) -> Tensor:
        wide = self.means.to(torch.complex128 if self.means.is_complex() else torch.float64).cpu()
        return wide - (self._probabilities()[:, None, None] * wide).sum(0)


class MixturePosterior(NamedTuple):
    """Exact posterior of one slice of n voxels, float64 (complex128 for complex slices).

    weights     (m) probability of every mode
    means       (m n) mean of every mode
    covariance  (n n) shared by the modes, per real component
    """

    weights: Tensor
    means: Tensor
    covariance: Tensor

    def mean(self) -> Tensor:
        """(n) posterior mean over all modes."""
        return self.weights.to(self.means.dtype) @ self.means

    def variance(self) -> Tensor:
        """(n) posterior variance per real component over all modes."""
        between = self.weights @ (self.means - self.mean()).abs().square()
        return self.covariance.diagonal().real + between / (2 if self.means.is_complex() else 1)


def mixture_posterior(prior: MixturePrior, matrix: Tensor, y: Tensor, weights: Tensor | float) -> MixturePosterior:
    """Posterior of one slice given y (r) = matrix (r n) x + noise, `weights` = inverse noise variance per real
    component (r, or one number; zero: not measured).

    Every mode keeps the covariance S = (I / std^2 + A^H W A)^-1 and has the mean mu_k + S A^H W (y - A mu_k). Its
    probability is proportional to weights_k N(y; A mu_k, W^-1 + std^2 A A^H), written with Woodbury's identity.
    """
    wide = torch.complex128 if prior.means.is_complex() else torch.float64
    A, y, mu = matrix.to(wide), y.to(wide), prior.means.to(wide).flatten(1)
    W = torch.as_tensor(weights, dtype=torch.float64).expand(y.shape)
    covariance = torch.linalg.inv(torch.eye(mu.shape[1], dtype=wide) / prior.std**2 + A.mH @ (W[:, None] * A))
    residual = y - mu @ A.T
    back = (W * residual) @ A.conj()
    shift = back @ covariance.T
    distance = (W * residual.abs().square()).sum(1) - (back.conj() * shift).sum(1).real
    log_weights = torch.tensor(prior.weights, dtype=torch.float64).log()
    return MixturePosterior(torch.softmax(log_weights - distance / 2, 0), mu + shift, covariance)
