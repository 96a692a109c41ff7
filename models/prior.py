"""A trained slice prior: denoises whole volumes slice by slice and says how wrong it expects to be."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from models.denoised import LARGEST_CORRELATION, Denoised
from models.network import SliceNetwork, fast_bfloat16
from models.preconditioning import denoise_middle, scalings

WEIGHTS = "diffusion_pytorch_model.safetensors"
CARD = "prior.json"
MAX_CARD_BYTES = 2**24


class PriorError(ValueError):
    """A prior that cannot be used, in one sentence for the user."""


class SlicePrior:
    """Denoiser D(x; sigma) over volumes (z y x), real for CT and complex for MR, with a variance for every voxel."""

    def __init__(self, network: SliceNetwork, card: dict, device: str = "cpu", batch: int = 8):
        self.network = network.to(device=device, memory_format=torch.channels_last).eval()
        self.card = card
        self.device = torch.device(device)
        self.batch = batch
        self.modality: str = card["modality"]
        self.sigma_data: float = card["sigma_data"]
        self.bfloat16 = fast_bfloat16(self.device)

    def denoise(
        self, x: Tensor, sigma: float, spacing_mm: tuple[float, float, float], noise_correlation: float = 0.0
    ) -> Denoised:
        """Posterior mean (z y x) of x = clean + sigma * noise, and the variance of its error per real component (z y
        x).

        `spacing_mm` is (z, y, x). `noise_correlation` is the lag-1 correlation of the noise along z. The two end
        slices see their only neighbour twice. A single slice sees itself, and the network is told that the noise of the
        three is alike (`told_correlation`). Differentiable in `x` where x.requires_grad; activations are then
        recomputed batch by batch, so that memory does not grow with the number of slices.
        """
        differentiable = torch.is_grad_enabled() and x.requires_grad
        with torch.set_grad_enabled(differentiable):
            return self._denoise(x, sigma, spacing_mm, noise_correlation, differentiable)

    def _denoise(self, x: Tensor, sigma: float, spacing_mm, correlation: float, differentiable: bool) -> Denoised:
        channels = torch.view_as_real(x).permute(0, 3, 1, 2) if x.is_complex() else x[:, None]
        count = channels.shape[0]
        correlation = told_correlation(count, correlation)
        index = torch.arange(count, device=x.device)
        below = torch.where(index > 0, index - 1, min(1, count - 1))
        above = torch.where(index < count - 1, index + 1, max(count - 2, 0))
        means, variances = [], []
        for chosen in index.split(self.batch):
            triplet = torch.cat([channels[below[chosen]], channels[chosen], channels[above[chosen]]], dim=1)
            arguments = (triplet.to(self.device), sigma, spacing_mm, correlation)
            if differentiable:
                mean, variance = checkpoint(self._denoise_batch, *arguments, use_reentrant=False)
            else:
                mean, variance = self._denoise_batch(*arguments)
            means.append(mean.to(x.device))
            variances.append(variance.to(x.device))
        mean = torch.cat(means)
        mean = torch.view_as_complex(mean.permute(0, 2, 3, 1).contiguous()) if x.is_complex() else mean[:, 0]
        return Denoised(mean, torch.cat(variances))

    def _denoise_batch(self, triplet: Tensor, sigma: float, spacing_mm, correlation: float) -> tuple[Tensor, Tensor]:
        count = triplet.shape[0]
        sigmas = torch.full((count,), sigma, device=triplet.device)
        values = [float(np.log(spacing_mm[0])), float(np.log(spacing_mm[2])), correlation]
        conditions = torch.tensor(values, device=triplet.device).expand(count, 3)
        with torch.autocast(triplet.device.type, torch.bfloat16, enabled=self.bfloat16):
            mean, log_variance = denoise_middle(self.network, triplet, sigmas, conditions, self.sigma_data)
        return mean, (scalings(sigmas, self.sigma_data).out ** 2 * log_variance.exp())[:, 0]

    def r2_scale(self, sigma: float, purpose: str) -> float:
        """Factor on the predicted variance at `sigma` for `purpose` "point" or "sample"; 1 where the card has no
        fit."""
        table = self.card.get("r2_scale", {}).get(purpose)
        if not table:
            return 1.0
        return float(np.exp(np.interp(np.log(sigma), np.log(table["sigma"]), np.log(table["scale"]))))

    def check_fits(self, modality: str, pixel_mm: float) -> None:
        """Raises PriorError when the study's modality or pixel size is outside what the prior is for.

        The card's `usable_pixel_mm` goes beyond `pixel_mm`, the pixels of the training, where it was tried.
        """
        name, (low, high) = self.card["name"], usable_pixels(self.card)
        if modality != self.modality:
            raise PriorError(
                f"prior {name} was trained for {self.modality}, the study is {modality}; "
                "choose another prior in the config."
            )
        if not low <= pixel_mm <= high:
            raise PriorError(
                f"prior {name} knows pixels of {low:g} to {high:g} mm, the working grid has {pixel_mm:.3g} mm; "
                "choose another working grid or another prior in the config."
            )


def told_correlation(count: int, correlation: float) -> float:
    """Lag-1 correlation along z that the network is told of the noise of a volume of `count` slices.

    A single slice is its own neighbour: its noise comes three times, and taken for independent it would pass for
    structure. The largest correlation of the training says so.
    """
    return LARGEST_CORRELATION if count == 1 else correlation


def usable_pixels(card: dict) -> tuple[float, float]:
    """Smallest and largest pixel in mm that a prior takes: card `usable_pixel_mm`, without it those of its training."""
    low, high = card["usable_pixel_mm" if "usable_pixel_mm" in card else "pixel_mm"]
    return float(low), float(high)


def load_prior(directory: str | Path, device: str = "cpu") -> SlicePrior:
    """Reads network, card and weights of `directory`; PriorError on missing or damaged files, or a wrong checksum."""
    folder = Path(directory)
    for name in (CARD, WEIGHTS, "config.json"):
        if not (folder / name).is_file():
            raise PriorError(f"{folder / name} is missing; name a folder with a trained prior in the config.")
    card = _read_card(folder)
    if hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest() != card["sha256"]:
        raise PriorError(f"{folder / WEIGHTS} has another checksum than its card says; restore it from the release.")
    try:
        _check_widths(folder)
        network = SliceNetwork.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False, torch_dtype=torch.float32
        )
    except Exception as error:  # diffusers, safetensors and torch raise what they like for a damaged folder
        raise PriorError(
            f"{folder} holds no network that fits its weights; restore it from the release or train again."
        ) from error
    return SlicePrior(network, card, device)


def _read_card(folder: Path) -> dict:
    """The card with the keys that every stage needs; PriorError for any other file."""
    path = folder / CARD
    try:
        if path.stat().st_size > MAX_CARD_BYTES:
            raise ValueError("too long")
        card = json.loads(path.read_text(encoding="utf-8"))
        ranges = usable_pixels(card), tuple(float(length) for length in card["pixel_mm"])
        usable = card["modality"] in ("ct", "mr") and 0 < float(card["sigma_data"]) < math.inf
        usable = usable and all(0 < low <= high for low, high in ranges)
        if not usable or not all(isinstance(card[key], str) for key in ("name", "sha256")):
            raise ValueError("values that cannot be")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PriorError(f"{path} is no valid prior card; restore it from the release or train again.") from error
    return card


def _check_widths(folder: Path) -> None:
    """ValueError where the network would be larger than its weights: a layer of width w has 9 w^2 of them or more."""
    widths = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("widths", ())
    if 9 * max((int(width) for width in widths), default=0) ** 2 > (folder / WEIGHTS).stat().st_size:
        raise ValueError("wider than its weights")
