"""EDM preconditioning (Karras et al. 2022, arXiv:2206.00364, table 1) around the slice network."""

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


def denoise_middle(
    network: SliceNetwork, triplet: Tensor, sigma: Tensor, conditions: Tensor, sigma_data: float
) -> tuple[Tensor, Tensor]:
    """Clean mean (batch, channels, y, x) of the middle slice of `triplet` and the log-variance of its error over
    c_out^2.

    D(x; sigma) = c_skip x + c_out F(c_in x; sigma), with x the middle slice; the error's variance is c_out^2 exp(u).
    """
    channels = network.config.channels
    scale = scalings(sigma, sigma_data)
    raw, log_variance = network(scale.input * triplet, sigma, conditions)
    return scale.skip * triplet[:, channels : 2 * channels] + scale.out * raw, log_variance


def training_loss(
    network: SliceNetwork, clean: Tensor, noise: Tensor, sigma: Tensor, conditions: Tensor, sigma_data: float
) -> tuple[Tensor, Tensor]:
    """(loss, mean squared error in units of c_out^2) of one batch of clean triplets (batch, 3 * channels, y, x).

    The mean has EDM's loss |D - x|^2 / c_out^2. The variance head has the Gaussian likelihood of that error, which is
    detached so that the head cannot buy a better likelihood with a worse mean.
    """
    channels = network.config.channels
    noisy = clean + sigma[:, None, None, None] * noise
    mean, log_variance = denoise_middle(network, noisy, sigma, conditions, sigma_data)
    out = scalings(sigma, sigma_data).out
    error2 = (((mean - clean[:, channels : 2 * channels]) / out) ** 2).mean(dim=1, keepdim=True)
    likelihood = 0.5 * (error2.detach() * torch.exp(-log_variance) + log_variance).mean()
    return error2.mean() + 0.1 * likelihood, error2.detach().mean(dim=(1, 2, 3))
