"""Learns a slice prior from measurements alone: no clean volume is seen at any point.

    python -m pipeline.train_measured --measurements DIR [DIR ...] --out FOLDER --state FOLDER \\
        --config configs/train/measured_ct.yaml

Expectation maximisation (Rozet et al., NeurIPS 2024, "Learning diffusion priors from observations by expectation
maximization", algorithm 1; the aim is that of Tewari et al., NeurIPS 2023). Round 0 trains the network on classical
reconstructions of the measurements. Every later round draws posterior samples of every measurement with the prior so
far (PaM; the E step) and trains the same network on them (the M step). What one measurement does not see, others with
other views or other k-space lines do: they have to differ. A run that was stopped goes on from its state; more rounds
than before go on from the last one.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.atomic import atomic_path
from data.errors import InputError
from models.prior import CARD, SlicePrior
from models.release import Provenance, card_text, release
from models.training import (
    TrainingSettings,
    TrainingState,
    draw_batch,
    load_state,
    new_state,
    save_state,
    train_step,
)
from models.volumes import TrainingVolume
from pipeline.cli import main_wrapper
from pipeline.measurement import FILE_NAME, file_digest, read_metadata, read_tensors, write_tensors
from pipeline.problem import load_problem
from pipeline.sections import section_of
from pipeline.settings import build, require_choice, require_range
from pipeline.train import parse_settings
from solvers.classical.registry import CLASSICAL
from solvers.problem import Problem
from solvers.run import run_solver

LIMITS = (
    "Research software, not a medical device. Learnt from undersampled measurements without any clean volume: its "
    "errors on the card are against its own posterior samples of held-out measurements, not against a truth, and its "
    "error variance is not calibrated on patients."
)


@dataclass(frozen=True)
class MeasuredSettings:
    """How a prior is learnt from measurements.

    rounds     trainings, the first on classical reconstructions (`start`: name and settings of a classical method)
    steps      optimiser steps of every round; the learning rate anneals within each
    samples    posterior samples of every measurement in a round
    pam        settings of PaM in the E step
    training   the keys of a `train` section: modality, network, batch, crop, learning rate; held_out: beginnings of the
               names of measurement folders that are used for the card alone
    """

    rounds: int = 4
    steps: int = 1000
    samples: int = 2
    start: dict[str, Any] = field(default_factory=lambda: {"tv": {}})
    pam: dict[str, Any] = field(default_factory=lambda: {"levels": 8, "trust": 3.0})
    training: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """One measurement: its folder's name and the problem in prior units."""

    name: str
    folder: Path
    problem: Problem


@dataclass(frozen=True)
class Learning:
    """What a run keeps at hand: settings, the network's training settings, studies, and where its state lies."""

    settings: MeasuredSettings
    training: TrainingSettings
    studies: list[Study]
    folder: Path

    def prior(self, state: TrainingState) -> SlicePrior:
        """The averaged network as it is now."""
        card = {"name": "in training", "modality": self.training.modality, "sigma_data": self.training.sigma_data}
        return SlicePrior(state.average, card, str(self.training.torch_device))


def as_training(x: Tensor, modality: str) -> np.ndarray:
    """(z y x) float32 in prior units as training volumes have them: CT not below air, MR magnitudes."""
    values = x.detach().cpu()
    return (values.abs() if modality == "mr" else values.clamp(-1, 2)).numpy().astype(np.float32)


def posterior_sample(study: Study, prior: SlicePrior, settings: MeasuredSettings, seed: int, tag: str) -> Tensor:
    """One draw (z y x) from the posterior of a study under the prior so far."""
    device = prior.device
    problem = study.problem if device.type == "cpu" else study.problem.to(device)
    return run_solver("pam", problem, prior, settings.pam | {"mode": "sample"}, seed, tag).estimate


def expectation(learning: Learning, state: TrainingState, index: int, bar: tqdm) -> list[TrainingVolume]:
    """The round's training volumes: classical reconstructions in round 0, posterior samples afterwards.

    Every study's file is written when it is finished and is found again by a run that goes on.
    """
    settings, volumes = learning.settings, []
    ((method, method_settings),) = settings.start.items()
    for study in learning.studies:
        path = learning.folder / f"round_{index}" / f"{study.name}.safetensors"
        if not path.is_file():
            if index == 0:
                drawn = [CLASSICAL[method](study.problem, method_settings)]
            else:
                prior, seed = learning.prior(state), learning.training.seed
                drawn = [
                    posterior_sample(study, prior, settings, seed, f"{index}_{k}") for k in range(settings.samples)
                ]
            chi2 = [study.problem.chi2(x.to(study.problem.device)) for x in drawn]
            stack = np.stack([as_training(x, learning.training.modality) for x in drawn])
            write_tensors(path, {"volumes": stack}, {"chi2": chi2})
        tensors, _ = read_tensors(path)
        spacing = study.problem.spacing_mm
        volumes += [TrainingVolume(study.name, v.astype(np.float16), spacing) for v in tensors["volumes"]]
        bar.update()
    return volumes


def maximisation(
    learning: Learning, state: TrainingState, index: int, volumes: list[TrainingVolume], bar: tqdm
) -> float:
    """Denoising training on the round's volumes; mean error of its last quarter in units of c_out^2.

    Batches depend on seed, round and step alone, so that a run that goes on takes the same ones.
    """
    training, steps = learning.training, learning.settings.steps
    first, errors = index * steps, []
    while state.step < first + steps:
        inside = state.step - first
        state.seconds = 60 * training.minutes * inside / steps
        generator = np.random.default_rng([training.seed, index, inside])
        errors.append(train_step(state, draw_batch(volumes, training, generator), training))
        bar.update()
        bar.set_postfix_str(f"round {index}, error {errors[-1]:.3f}", refresh=False)
        if state.step % 250 == 0:
            save_state(state, learning.folder)
    save_state(state, learning.folder)
    return float(np.mean(errors[-max(1, steps // 4) :])) if errors else float("nan")


def learn(learning: Learning, state: TrainingState) -> TrainingState:
    """All rounds that the state has not finished."""
    settings = learning.settings
    first = min(state.step // settings.steps, settings.rounds)
    with tqdm(total=(settings.rounds - first) * (settings.steps + len(learning.studies)), unit="step") as bar:
        bar.set_description(f"learn {learning.training.modality}")
        for index in range(first, settings.rounds):
            volumes = expectation(learning, state, index, bar)
            maximisation(learning, state, index, volumes, bar)
    return state


def read_studies(folders: list[Path], modality: str) -> list[Study]:
    """The measurements as problems; InputError for another modality or equal names."""
    names = [folder.name for folder in folders]
    if len(set(names)) != len(names):
        raise InputError("--measurements: two folders have the same name; rename one.")
    for folder in folders:
        found = read_metadata(folder / FILE_NAME)["modality"]
        if found != modality:
            raise InputError(f"{folder / FILE_NAME}: is {found.upper()}, the settings say {modality}; leave it out.")
    return [Study(folder.name, folder, load_problem(folder)[0]) for folder in folders]


def write_prior(learning: Learning, state: TrainingState, held: list[Study], out: Path, command: str) -> None:
    """The released folder; its card says what it was learnt from and what its error table means."""
    prior, training = learning.prior(state), learning.training
    studies = held or learning.studies[:1]
    validation = []
    for study in studies:
        drawn = posterior_sample(study, prior, learning.settings, training.seed, "card")
        slices = as_training(drawn, training.modality).astype(np.float16)
        validation.append(TrainingVolume(f"{study.name} (posterior sample)", slices, study.problem.spacing_mm))
    pixels, (smallest, largest) = [s.problem.spacing_mm[2] for s in learning.studies], training.crop.zoom
    seen = (min(pixels) / largest, max(pixels) / smallest)
    provenance = Provenance(command, "see the measurements")
    release(state, training, validation, [s.name for s in learning.studies], seen, provenance, out)
    card = json.loads((out / CARD).read_text(encoding="utf-8"))
    card["limits"] = LIMITS
    card["training"]["minutes"] = 0.0
    card["learnt_from"] = {
        "what": "measurements alone, by expectation maximisation",
        "settings": asdict(learning.settings),
        "measurements": {s.name: file_digest(s.folder / FILE_NAME) for s in learning.studies},
    }
    for name, text in ((CARD, json.dumps(card, indent=1)), ("README.md", card_text(card))):
        with atomic_path(out / name) as part:
            part.write_text(text, encoding="utf-8")


def prepare(folders: list[Path], settings: MeasuredSettings, state: Path) -> tuple[Learning, list[Study]]:
    """The run and its held-out studies; InputError names the setting that cannot be used."""
    training, held_out = parse_settings(json.dumps(settings.training))
    require_choice(training.modality, ("ct", "mr"), "training.modality")
    require_range(settings.rounds, 1, 100, "rounds")
    require_range(settings.steps, 1, 10_000_000, "steps")
    require_range(settings.samples, 1, 1000, "samples")
    if len(settings.start) != 1 or next(iter(settings.start)) not in CLASSICAL:
        raise InputError(f"start: give one classical method and its settings; there are {', '.join(CLASSICAL)}.")
    held = [f for f in folders if f.name.startswith(tuple(held_out))] if held_out else []
    kept = [f for f in folders if f not in held]
    if not kept:
        raise InputError("held_out: leaves no measurement to learn from; name fewer.")
    learning = Learning(settings, training, read_studies(kept, training.modality), state)
    return learning, read_studies(held, training.modality)


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measurements", type=Path, nargs="+", required=True, help="folders that `measure` wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder of the prior, replaced whole")
    parser.add_argument("--state", type=Path, required=True, help="folder of the resumable state")
    parser.add_argument("--config", type=Path, help="YAML file with a section `train_measured`: MeasuredSettings")
    parser.add_argument("--settings", default="{}", help="JSON object of the same keys; wins over the file")
    arguments = parser.parse_args(argv)
    section = section_of(arguments.config, "train_measured", arguments.settings)
    settings = build(MeasuredSettings, section, "train_measured")
    learning, held = prepare(arguments.measurements, settings, arguments.state)
    torch.manual_seed(learning.training.seed)
    state = learn(learning, load_state(new_state(learning.training), arguments.state))
    command = f"python -m pipeline.train_measured --measurements ... --settings '{json.dumps(asdict(settings))}'"
    write_prior(learning, state, held, arguments.out, command)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
