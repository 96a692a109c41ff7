"""Convolutional slice network: neighbouring noisy slices in, clean means and log-variances out."""

import torch
from diffusers import UNet2DModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor
from torch.nn import functional

# Noise levels are embedded as 200 (ln sigma + 6): sigma in [.0025, 20] covers the sinusoidal range [0, 1800].
EMBED_SCALE, EMBED_OFFSET = 200.0, 6.0
CONDITIONS = 3


class SliceNetwork(ModelMixin, ConfigMixin):
    """U-Net without attention on space-to-depth patches.

    Input: `slices` (batch, 3 * channels, y, x), slices below, at and above the wanted one, already scaled to unit
    variance; `sigma` (batch,) noise level; `conditions` (batch, 3): ln(slice spacing / mm), ln(pixel / mm), lag-1
    correlation of the noise between slices. Output: (batch, channels, y, x) raw mean of the middle slice and (batch, 1,
    y, x) log-variance of its error. Sides that are no multiple of `patch * 2**(levels - 1)` are replicated outwards and
    cropped back.

    neighbours       3: all slices are seen; 1: the middle one alone (2D)
    preconditioning  a key of models.preconditioning.SCALINGS
    """

    @register_to_config
    def __init__(
        self,
        channels: int = 1,
        widths: tuple[int, ...] = (48, 96, 144, 144),
        layers: int = 1,
        patch: int = 2,
        neighbours: int = 3,
        preconditioning: str = "edm",
    ):
        super().__init__()
        levels = len(widths)
        self.unet = UNet2DModel(
            in_channels=neighbours * channels * patch**2 + CONDITIONS,
            out_channels=(channels + 1) * patch**2,
            block_out_channels=tuple(widths),
            layers_per_block=layers,
            down_block_types=("DownBlock2D",) * levels,
            up_block_types=("UpBlock2D",) * levels,
            norm_num_groups=8,
            add_attention=False,
        )

    def forward(self, slices: Tensor, sigma: Tensor, conditions: Tensor) -> tuple[Tensor, Tensor]:
        channels, patch = self.config.channels, self.config.patch
        if self.config.neighbours == 1:
            slices = slices[:, channels : 2 * channels]
        rows, columns = slices.shape[-2:]
        multiple = patch * 2 ** (len(self.config.widths) - 1)
        padding = (0, -columns % multiple, 0, -rows % multiple)
        padded = functional.pad(slices, padding, mode="replicate") if any(padding) else slices
        patches = functional.pixel_unshuffle(padded, patch)
        maps = conditions[:, :, None, None].expand(-1, -1, *patches.shape[-2:])
        inputs = torch.cat([patches, maps], dim=1).contiguous(memory_format=torch.channels_last)
        time = EMBED_SCALE * (sigma.clamp_min(1e-4).log() + EMBED_OFFSET)
        output = functional.pixel_shuffle(self.unet(inputs, time).sample, patch)[..., :rows, :columns].float()
        return output[:, :channels], output[:, channels:].clamp(-12.0, 6.0)


def fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 convolutions are faster than float32 here: on CUDA, or on a CPU with AVX512-BF16
    instructions."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported()
