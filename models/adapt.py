"""The few parameters of a slice network that are tuned to one study: low-rank updates of its convolutions, or its last
layers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from models.denoised import Denoised
from models.network import SliceNetwork
from models.preconditioning import denoise_middle, scalings
from models.prior import SlicePrior, told_correlation
from models.volumes import neighbours

KINDS = ("low_rank", "last_layers")


class LowRank(nn.Module):
    """W -> W + B A for a convolution's weight W (out in ky kx), seen as a matrix (out, in ky kx).

    Hu et al., ICLR 2022 (LoRA), eq. 3: A (rank, in ky kx) random, B (out, rank) zero, so that training starts at W.
    """

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator):
        super().__init__()
        rows, columns = weight.shape[0], weight[0].numel()
        rank = min(rank, rows, columns)
        white = torch.randn(rank, columns, generator=generator) / math.sqrt(columns)
        self.down = nn.Parameter(white.to(weight))
        self.up = nn.Parameter(weight.new_zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view(weight.shape)


def make_adaptable(network: SliceNetwork, kind: str, rank: int, generator: torch.Generator) -> list[nn.Parameter]:
    """Freezes the network and returns the parameters that are left to train.

    "low_rank": a rank-`rank` update of every convolution. "last_layers": the convolutions of the last up-sampling block
    and the one after it; normalisations stay, since torch 2.13 writes to a null pointer in the backward pass of a group
    norm in channels-last layout that has a gradient for its weight and none for its input. ValueError for another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
    network.requires_grad_(False)
    if kind == "last_layers":
        unet = network.unet
        layers = [m for part in (unet.up_blocks[-1], unet.conv_out) for m in part.modules() if isinstance(m, nn.Conv2d)]
        return [p.requires_grad_(True) for layer in layers for p in layer.parameters()]
    chosen = []
    for layer in [m for m in network.modules() if isinstance(m, nn.Conv2d)]:
        update = LowRank(layer.weight, rank, generator)
        parametrize.register_parametrization(layer, "weight", update)
        chosen += [update.up, update.down]
    return chosen


def merge(network: SliceNetwork) -> None:
    """Adds the low-rank updates to the weights, in place: the network is a plain one again, with its usual names."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def snapshot(parameters: list[nn.Parameter]) -> list[Tensor]:
    """A copy of the parameters' values."""
    return [p.detach().clone() for p in parameters]


def restore(parameters: list[nn.Parameter], values: list[Tensor]) -> None:
    """Puts a snapshot's values back."""
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)


def denoise_slab(
    prior: SlicePrior, x: Tensor, slab: slice, sigma: float, spacing_mm: tuple[float, float, float]
) -> Denoised:
    """Mean and variance of some slices of x (z y x) = clean + sigma * noise, differentiable in the network's weights.

    The same numbers as `prior.denoise` gives for those slices under noise that is independent along z.
    """
    channels = torch.view_as_real(x).permute(0, 3, 1, 2) if x.is_complex() else x[:, None]
    chosen = [neighbours(z, 1, len(x)) for z in range(*slab.indices(len(x)))]
    triplet = torch.stack([torch.cat([channels[z] for z in three]) for three in chosen]).to(prior.device)
    sigmas = torch.full((len(chosen),), sigma, device=prior.device)
    values = [math.log(spacing_mm[0]), math.log(spacing_mm[2]), told_correlation(len(x), 0.0)]
    conditions = torch.tensor(values, device=prior.device).expand(len(chosen), 3)
    with torch.autocast(prior.device.type, torch.bfloat16, enabled=prior.bfloat16):
        mean, log_variance = denoise_middle(prior.network, triplet, sigmas, conditions, prior.sigma_data)
    variance = (scalings(sigmas, prior.sigma_data).out ** 2 * log_variance.exp())[:, 0]
    mean = torch.view_as_complex(mean.permute(0, 2, 3, 1).contiguous()) if x.is_complex() else mean[:, 0]
    return Denoised(mean.to(x.device), variance.to(x.device))
