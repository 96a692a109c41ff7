"""What the denoiser is shown in reconstructions: PaM's own states on simulated scans of clean volumes, to train on.

    python -m pipeline.chain_states --volumes FOLDER --prior FOLDER --out FOLDER --settings JSON

A prior trained on white noise alone is asked, in every chain, about images that also carry what the measurements left
open: streaks, aliasing, what earlier levels made of them. Here PaM reconstructs thin slabs of training volumes from
random scans, and every volume that it hands to its prior is kept with the noise level that it names and the truth.
`python -m pipeline.train --chain FOLDER` then trains on white noise and on these states: the mean over what a chain
visits is the best estimate there, and the variance head learns the error that such states really have. States of
one's own rollouts: Ross et al., AISTATS 2011 (DAgger, algorithm 3.1); the gap between what a denoiser is trained on
and what its sampler shows it: Ning et al., ICML 2023; reconstruction trained over many operators: Terris et al. 2025.

One file a slab; those that are there are kept, so a run that was stopped goes on and a larger `slabs` adds to them.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.errors import InputError
from data.volume import Volume
from models.denoised import Denoised
from models.prior import SlicePrior, load_prior
from models.volumes import TrainingVolume
from pipeline.cli import json_object, main_wrapper
from pipeline.measure_ct import simulate_ct
from pipeline.measure_mr import noiseless_mr, simulate_mr
from pipeline.measurement import Measurement, write_tensors
from pipeline.problem import make_problem
from pipeline.seeds import numpy_generator
from pipeline.settings import CtMeasureSettings, MrMeasureSettings, build, require_range
from pipeline.train import planes, read_training_volume, split
from solvers.problem import Problem
from solvers.run import run_solver
from solvers.wrapped_prior import WrappedPrior

LEVELS = (6, 14)


@dataclass(frozen=True)
class ChainSettings:
    """slabs: how many, of `slices` slices each, of volumes drawn by their number of slices; sample_share: part of the
    chains that draw a posterior sample, the others go to a point estimate."""

    slabs: int = 100
    slices: int = 6
    sample_share: float = 0.4
    seed: int = 0


@dataclass(frozen=True)
class Shown:
    """One volume (z y x) that the prior was asked about, its noise level and its noise's correlation along z."""

    x: Tensor
    sigma: float
    correlation: float


class ListeningPrior(WrappedPrior):
    """A prior that keeps what it is asked."""

    def __init__(self, inner: SlicePrior):
        super().__init__(inner)
        self.shown: list[Shown] = []

    def denoise(self, x, sigma, spacing_mm, noise_correlation=0.0) -> Denoised:
        self.shown.append(Shown(x.clone(), sigma, noise_correlation))
        return super().denoise(x, sigma, spacing_mm, noise_correlation)


def random_ct(draw: np.random.Generator) -> dict[str, Any]:
    """A `measure` section: 6 to 90 views over 180 degrees, 75 to 150 degrees, or a fan beam over 360 degrees; the
    noise of the largest ray is .5 to 3 %."""
    noise = float(np.exp(draw.uniform(np.log(0.005), np.log(0.03))))
    shared = {"start_deg": float(draw.uniform(0, 180)), "noise_of_largest_ray": noise, "working_matrix": None}
    kind = draw.choice(["sparse", "limited", "fan"], p=[0.55, 0.25, 0.2])
    if kind == "limited":
        degrees = float(draw.uniform(75, 150))
        return shared | {"views": round(degrees / draw.uniform(1, 3)), "range_deg": degrees}
    views = round(float(np.exp(draw.uniform(np.log(6), np.log(90)))))
    return shared | {"views": views} | ({"beam": "fan", "range_deg": 360.0} if kind == "fan" else {})


def random_mr(draw: np.random.Generator) -> dict[str, Any]:
    """A `measure` section: one to twelve coils, acceleration 3 to 14, three kinds of mask, noise .5 to 2 %."""
    mask = draw.choice(["random_1d", "equispaced_1d", "poisson_disc_2d"], p=[0.6, 0.15, 0.25])
    return {
        "coils": int(draw.choice([1, 4, 8, 12])),
        "acceleration": float(np.exp(draw.uniform(np.log(3), np.log(14)))),
        "mask": str(mask),
        "calibration_fraction": float(draw.uniform(0.03, 0.06)),
        "noise_fraction": float(np.exp(draw.uniform(np.log(0.005), np.log(0.02)))),
    }


def simulate(modality: str, slab: Volume, section: dict[str, Any], name: str) -> tuple[Measurement, Tensor]:
    """(measurement, truth (z y x)): HU for CT, the complex noiseless image in scanner units for MR."""
    if modality == "ct":
        measurement, truth = simulate_ct(slab, build(CtMeasureSettings, section, "measure"), name)
        return measurement, torch.from_numpy(truth)
    settings = build(MrMeasureSettings, section, "measure")
    measurement, _ = simulate_mr(slab, settings, name)
    return measurement, noiseless_mr(slab, settings).image


def chain(prior: SlicePrior, problem: Problem, mode: str, levels: int, seed: int) -> list[Shown]:
    """What PaM shows its prior, in the volume's own frame; reflections are left to the training."""
    listening = ListeningPrior(prior)
    run_solver("pam", problem, listening, {"mode": mode, "levels": levels, "paths": 1, "reflect": False}, seed=seed)
    return listening.shown


def random_slab(volumes: list[TrainingVolume], slices: int, draw: np.random.Generator) -> tuple[str, Volume]:
    """Name and values (z y x; prior units) of neighbouring slices of a volume."""
    counts = np.array([len(v.slices) for v in volumes], dtype=float)
    volume = volumes[draw.choice(len(volumes), p=counts / counts.sum())]
    first = int(draw.integers(0, max(len(volume.slices) - slices, 0) + 1))
    dz, dy, dx = volume.spacing_mm
    array = volume.slices[first : first + slices].astype(np.float32)
    return volume.name, Volume(array, np.diag([dx, dy, dz, 1.0]), volume.spacing_mm)


def write_slab(path: Path, prior: SlicePrior, volumes: list[TrainingVolume], settings: ChainSettings) -> None:
    """Simulates, reconstructs and writes one slab: noisy (n z y x), clean (z y x), sigma (n), correlation (n)."""
    draw = numpy_generator(settings.seed, "chain", path.stem)
    name, slab = random_slab(volumes, settings.slices, draw)
    ct = prior.modality == "ct"
    if ct:
        slab = replace(slab, array_zyx=1000 * slab.array_zyx)
    section = (random_ct if ct else random_mr)(draw) | {"seed": int(draw.integers(2**31))}
    measurement, truth = simulate(prior.modality, slab, section, name)
    problem, units = make_problem(measurement)
    mode = "sample" if draw.random() < settings.sample_share else "point"
    shown = chain(prior, problem, mode, int(draw.integers(*LEVELS)), int(draw.integers(2**31)))
    tensors = {
        "noisy": _half(torch.stack([s.x for s in shown])),
        "clean": _half(truth / units.scale),
        "sigma": np.array([s.sigma for s in shown], np.float32),
        "correlation": np.array([s.correlation for s in shown], np.float32),
    }
    about = {"volume": name, "spacing_mm": list(problem.spacing_mm), "measure": section, "mode": mode}
    write_tensors(path, tensors, about)


def _half(values: Tensor) -> np.ndarray:
    """float16, with a last axis (real, imaginary) for complex values."""
    return (torch.view_as_real(values) if values.is_complex() else values).half().numpy()


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volumes", type=Path, required=True)
    parser.add_argument("--prior", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--settings", required=True, help="JSON object of ChainSettings and held_out")
    arguments = parser.parse_args(argv)
    values = json_object(arguments.settings)
    held_out = values.pop("held_out", [])
    settings = build(ChainSettings, values, "chain")
    require_range(settings.slabs, 1, 100_000, "chain.slabs")
    require_range(settings.slices, 2, 512, "chain.slices")
    prior = load_prior(arguments.prior)
    kept, _ = split(arguments.volumes, held_out)
    volumes = [p for path in kept for p in planes(read_training_volume(path, prior.modality), prior.modality)]
    wanted = [arguments.out / f"slab{index:04d}_seed{settings.seed}.safetensors" for index in range(settings.slabs)]
    arguments.out.mkdir(parents=True, exist_ok=True)
    for path in tqdm([p for p in wanted if not p.exists()], desc="chain", unit="slab"):
        try:
            write_slab(path, prior, volumes, settings)
        except (InputError, ValueError) as error:
            tqdm.write(f"{path.name} is left out: {error}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
