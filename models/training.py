"""Training of a slice prior: EDM loss plus variance head, EMA, wall-clock schedule, resumable without pickles."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.chain import ChainSlab, chain_batch
from models.denoised import LARGEST_CORRELATION
from models.network import SliceNetwork, fast_bfloat16
from models.preconditioning import training_loss
from models.volumes import CropSettings, TrainingVolume, complex_channels, random_crop


@dataclass(frozen=True)
class TrainingSettings:
    """Everything that a training run depends on. `minutes` is the budget of the cosine schedule, resumes included.

    neighbours, preconditioning   of the network, see SliceNetwork
    residual_sigma   0, or the noise level at which the chain starts from the volumes' `degraded` reconstruction; such a
                     prior needs the chain of benchmarks/networks.py, no registered solver shifts its re-noise so
    chain_share      part of every batch that is chain states, where there are any; the rest is white noise
    start_share      part of the weights of the prior that the training began with in those that are released
    """

    modality: str
    sigma_data: float
    widths: tuple[int, ...] = (48, 96, 144, 144)
    layers: int = 1
    patch: int = 2
    neighbours: int = 3
    preconditioning: str = "edm"
    residual_sigma: float = 0.0
    chain_share: float = 0.5
    start_share: float = 0.0
    minutes: float = 60.0
    batch: int = 8
    crop: CropSettings = field(default_factory=CropSettings)
    learning_rate: float = 4e-4
    warmup_steps: int = 200
    log_sigma_mean: float = -1.4
    log_sigma_std: float = 1.4
    ema: float = 0.9995
    seed: int = 0
    save_every_minutes: float = 3.0
    device: str = "auto"

    @property
    def torch_device(self) -> torch.device:
        """The named device; `auto` is CUDA where there is one."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    @property
    def channels(self) -> int:
        return 2 if self.modality == "mr" else 1


@dataclass
class TrainingState:
    """The network, its moving average, the optimiser and how far they are."""

    network: SliceNetwork
    average: SliceNetwork
    optimiser: torch.optim.AdamW
    step: int = 0
    seconds: float = 0.0


def new_network(settings: TrainingSettings) -> SliceNetwork:
    network = SliceNetwork(
        settings.channels,
        settings.widths,
        settings.layers,
        settings.patch,
        settings.neighbours,
        settings.preconditioning,
    )
    return network.to(settings.torch_device, memory_format=torch.channels_last)


def new_state(settings: TrainingSettings, start: SliceNetwork | None = None) -> TrainingState:
    """A state at step 0, with the weights of `start` or random ones."""
    torch.manual_seed(settings.seed)
    network, average = new_network(settings), new_network(settings)
    if start is not None:
        network.load_state_dict(start.state_dict())
    average.load_state_dict(network.state_dict())
    return TrainingState(
        network, average.requires_grad_(False), torch.optim.AdamW(network.parameters(), settings.learning_rate)
    )


def draw_batch(volumes: list[TrainingVolume], settings: TrainingSettings, generator: np.random.Generator):
    """Clean triplets (b, 3c, y, x), unit noise of the same shape, sigma (b,) and conditions (b, 3).

    Half of the batch has independent noise in the three slices, the rest AR(1) noise along z with a random correlation.
    With residual_sigma the noise carries the residual R of the degraded reconstruction, see `residual_share`.
    """
    crops = [random_crop(volumes, settings.crop, generator) for _ in range(settings.batch)]
    stacks = [c.slices if c.residual is None else torch.cat([c.slices, c.residual]) for c in crops]
    clean = torch.stack([complex_channels(s, generator) for s in stacks] if settings.modality == "mr" else stacks)
    noise, correlation = draw_noise(settings, clean.shape[-2:], generator)
    log_sigma = generator.normal(settings.log_sigma_mean, settings.log_sigma_std, settings.batch)
    sigma = torch.from_numpy(np.exp(np.clip(log_sigma, math.log(0.003), math.log(10.0))).astype(np.float32))
    if settings.residual_sigma > 0:
        clean, residual = clean.chunk(2, dim=1)
        noise = noise + (residual_share(sigma, settings.residual_sigma) / sigma)[:, None, None, None] * residual
    conditions = torch.cat([torch.stack([c.log_spacing for c in crops]), correlation[:, None]], dim=1)
    return clean[:, : 3 * settings.channels], noise, sigma, conditions


def mixed_batch(
    volumes: list[TrainingVolume],
    slabs: Sequence[ChainSlab],
    settings: TrainingSettings,
    generator: np.random.Generator,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A batch as `draw_batch` gives it, `chain_share` of it chain states where there are slabs."""
    count = round(settings.chain_share * settings.batch) if slabs else 0
    if count == settings.batch:
        return chain_batch(slabs, count, settings.crop.size, settings.crop.transpose, generator)
    white = draw_batch(volumes, replace(settings, batch=settings.batch - count), generator)
    if count == 0:
        return white
    shown = chain_batch(slabs, count, settings.crop.size, settings.crop.transpose, generator)
    return tuple(torch.cat(pair) for pair in zip(white, shown, strict=True))


def draw_noise(
    settings: TrainingSettings, size: tuple[int, int], generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Unit noise (b, 3c, y, x) and its lag-1 correlation (b,) between the slices."""
    white = torch.from_numpy(generator.standard_normal((settings.batch, 3, settings.channels, *size), dtype=np.float32))
    independent = generator.random(settings.batch) < 0.5
    drawn = np.where(independent, 0, generator.uniform(0, LARGEST_CORRELATION, settings.batch))
    correlation = torch.from_numpy(drawn.astype(np.float32))
    c = correlation[:, None, None, None]
    below = white[:, 0]
    middle = c * below + (1 - c**2).sqrt() * white[:, 1]
    return torch.cat([below, middle, c * middle + (1 - c**2).sqrt() * white[:, 2]], dim=1), correlation


def residual_share(sigma: Tensor, start: float) -> Tensor:
    """a(sigma) of x_sigma = x + a(sigma) R + sigma n with R = x_init - x: linear in sigma, 1 from the start level on.

    Residual-started chains: Resfusion (Shi et al. 2024), RDDM (Liu et al. 2024).
    """
    return (sigma / start).clamp(max=1.0)


def learning_rate(settings: TrainingSettings, step: int, fraction: float) -> float:
    """Linear warm-up, then a cosine over the fraction of the time budget that is used."""
    warm = min(1.0, (step + 1) / settings.warmup_steps)
    return warm * settings.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0))))


def train_step(state: TrainingState, batch: tuple[Tensor, Tensor, Tensor, Tensor], settings: TrainingSettings) -> float:
    """One optimiser and EMA step; returns the mean squared error over c_out^2."""
    device = settings.torch_device
    clean, noise, sigma, conditions = (tensor.to(device) for tensor in batch)
    fraction = state.seconds / (60 * settings.minutes)
    for group in state.optimiser.param_groups:
        group["lr"] = learning_rate(settings, state.step, fraction)
    with torch.autocast(device.type, torch.bfloat16, enabled=fast_bfloat16(device)):
        loss, error2 = training_loss(state.network, clean, noise, sigma, conditions, settings.sigma_data)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(state.network.parameters(), 1.0)
    state.optimiser.step()
    state.optimiser.zero_grad(set_to_none=True)
    decay = min(settings.ema, (1 + state.step) / (10 + state.step))
    with torch.no_grad():
        torch._foreach_lerp_(list(state.average.parameters()), list(state.network.parameters()), 1 - decay)
    state.step += 1
    return float(error2.mean())


def blend(average: SliceNetwork, start: SliceNetwork, share: float) -> None:
    """average <- (1 - share) average + share start, in place.

    Wortsman et al., CVPR 2022 ("Robust fine-tuning of zero-shot models"), eq. 1: between the weights before and after a
    fine-tuning lie networks that keep most of its gain and more of what the first knew of other data.
    """
    with torch.no_grad():
        for mine, other in zip(average.parameters(), start.parameters(), strict=True):
            mine.lerp_(other.to(mine), share)


def save_state(state: TrainingState, folder: Path) -> None:
    """Writes `training.safetensors` (network, average, optimiser moments) beside its name and renames it."""
    tensors = {f"network.{k}": v for k, v in state.network.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in state.average.state_dict().items()}
    for index, moments in state.optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{k}": v for k, v in moments.items()}
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "training.safetensors.part"
    metadata = {"step": str(state.step), "seconds": str(state.seconds)}
    save_file({k: v.contiguous() for k, v in tensors.items()}, part, metadata)
    part.replace(folder / "training.safetensors")


def load_state(state: TrainingState, folder: Path) -> TrainingState:
    """Continues from `training.safetensors` in `folder`; leaves a new state as it is where there is none."""
    path = folder / "training.safetensors"
    if not path.exists():
        return state
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    pick = lambda prefix: {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}  # noqa: E731
    state.network.load_state_dict(pick("network."))
    state.average.load_state_dict(pick("average."))
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in pick("optimiser.").items():
        index, name = key.split(".", 1)
        moments.setdefault(int(index), {})[name] = value
    state.optimiser.load_state_dict({"state": moments, "param_groups": state.optimiser.state_dict()["param_groups"]})
    state.step, state.seconds = int(metadata["step"]), float(metadata["seconds"])
    return state


def train(
    volumes: list[TrainingVolume],
    settings: TrainingSettings,
    folder: Path,
    report: Callable[[TrainingState, float], None],
    slabs: Sequence[ChainSlab] = (),
    start: SliceNetwork | None = None,
) -> TrainingState:
    """Trains until `minutes` of wall-clock time are used in all, saving every `save_every_minutes`; resumes from
    `folder`, and where that holds nothing begins with the weights of `start`.

    `slabs`: chain states that take `chain_share` of every batch. `report(state, running error)` is called after every
    save.
    """
    state = load_state(new_state(settings, start), folder)
    generator = np.random.default_rng([settings.seed, state.step])
    running, saved = None, time.monotonic()
    while state.seconds < 60 * settings.minutes:
        began = time.monotonic()
        error2 = train_step(state, mixed_batch(volumes, slabs, settings, generator), settings)
        running = error2 if running is None else 0.995 * running + 0.005 * error2
        state.seconds += time.monotonic() - began
        if time.monotonic() - saved > 60 * settings.save_every_minutes:
            save_state(state, folder)
            report(state, running)
            saved = time.monotonic()
    save_state(state, folder)
    report(state, running if running is not None else float("nan"))
    return state
