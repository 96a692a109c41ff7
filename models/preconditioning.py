"""Preconditioning around the slice network: EDM (Karras et al. 2022, arXiv:2206.00364, table 1) or rectified flow."""

from typing import NamedTuple

import torch
from torch import Tensor

from models.network import SliceNetwork


class Scalings(NamedTuple):
    """c_skip, c_out and c_in of one batch of noise levels, each shaped (batch, 1, 1, 1)."""

    skip: Tensor
    out: Tensor
    input: Tensor


def scalings(sigma: Tensor, sigma_data: float) -> Scalings:
    """c_skip = s_d^2/(s^2+s_d^2), c_out = s s_d/sqrt(s^2+s_d^2), c_in = 1/sqrt(s^2+s_d^2) for sigma (batch,)."""
    s = sigma[:, None, None, None]
    total = s**2 + sigma_data**2
    return Scalings(sigma_data**2 / total, s * sigma_data / total.sqrt(), total.rsqrt())


def flow_scalings(sigma: Tensor, sigma_data: float) -> Scalings:
    """Rectified flow (Liu et al. 2023, arXiv:2209.03003) read as a denoiser, for sigma (batch,).

    With t = s/(s+s_d) the flow's point x_t = (1-t) x/s_d + t n is x_sigma/(s+s_d). The network gives the negative
    velocity x/s_d - n, and x/s_d = x_t + t (x/s_d - n), hence c_skip = s_d/(s+s_d), c_out = s s_d/(s+s_d), c_in =
    1/(s+s_d); 1/c_out^2 makes the loss that of the velocity, and ln(s/s_d) is the logit of t.
    """
    s = sigma[:, None, None, None]
    total = s + sigma_data
    return Scalings(sigma_data / total, s * sigma_data / total, 1 / total)


SCALINGS = {"edm": scalings, "flow": flow_scalings}


def denoise_middle(
    network: SliceNetwork, triplet: Tensor, sigma: Tensor, conditions: Tensor, sigma_data: float
) -> tuple[Tensor, Tensor]:
    """Clean mean (batch, channels, y, x) of the middle slice of `triplet` and the log-variance (batch, 1, y, x) of its
    error over EDM's c_out^2, so that the error's variance is c_out^2 exp(u).

    D(x; sigma) = c_skip x + c_out F(c_in x; sigma), x being the middle slice.
    """
    scale = SCALINGS[network.config.preconditioning](sigma, sigma_data)
    raw, log_variance = network(scale.input * triplet, sigma, conditions)
    return scale.skip * middle(network, triplet) + scale.out * raw, log_variance


def middle(network: SliceNetwork, triplet: Tensor) -> Tensor:
    """The middle slice (batch, channels, y, x) of `triplet` (batch, 3 * channels, y, x)."""
    channels = network.config.channels
    return triplet[:, channels : 2 * channels]


def training_loss(
    network: SliceNetwork, clean: Tensor, noise: Tensor, sigma: Tensor, conditions: Tensor, sigma_data: float
) -> tuple[Tensor, Tensor]:
    """(loss, mean squared error in units of EDM's c_out^2) of one batch of clean triplets (batch, 3 * channels, y, x).

    The mean has the loss |D - x|^2 / c_out^2 of its parametrisation, c_out at the noise level that the triplet carries:
    sigma itself for unit noise, more for chain states, whose small sigma would else count most. The variance head has
    the Gaussian likelihood of the error over EDM's c_out^2 at sigma, which is detached so that the head cannot buy a
    better likelihood with a worse mean.
    """
    noisy = clean + sigma[:, None, None, None] * noise
    mean, log_variance = denoise_middle(network, noisy, sigma, conditions, sigma_data)
    squares = (mean - middle(network, clean)).square().mean(dim=1, keepdim=True)
    error2 = squares / scalings(sigma, sigma_data).out ** 2
    carried = sigma * noise.square().mean(dim=(1, 2, 3)).sqrt()
    weighted = squares / SCALINGS[network.config.preconditioning](carried, sigma_data).out ** 2
    likelihood = 0.5 * (error2.detach() * torch.exp(-log_variance) + log_variance).mean()
    return weighted.mean() + 0.1 * likelihood, error2.detach().mean(dim=(1, 2, 3))
