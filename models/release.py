"""Turns a training state into the folder that ships: weights, card with held-out errors, README."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.ood import reference_table
from models.prior import CARD, WEIGHTS, SlicePrior, usable_pixels
from models.training import TrainingSettings, TrainingState
from models.volumes import TrainingVolume, smooth_phase

VALIDATION_SIGMAS = tuple(float(s) for s in np.geomspace(0.01, 3.0, 12))
LIMITS = (
    "Research software, not a medical device. Trained on few patients from public collections; unusual anatomy, "
    "implants, other body regions, paediatric scans and other pixel sizes are outside what it has seen."
)


@dataclass(frozen=True)
class Provenance:
    """Where a prior comes from: the command that trained it, the training data with their licences, and what else the
    card says about the training."""

    command: str
    licence: str
    training: dict[str, Any] = field(default_factory=dict)


def validation_table(
    prior: SlicePrior, volumes: list[TrainingVolume], slices: int = 16, seed: int = 1
) -> dict[str, list[float]]:
    """White-noise error on held-out volumes: true mean squared error and predicted variance at every noise level.

    From each volume a contiguous slab of `slices` middle slices; MR magnitudes under one random smooth phase.
    """
    generator = torch.Generator().manual_seed(seed)
    slabs = [_slab(prior, volume, slices, seed) for volume in volumes]
    table: dict[str, list[float]] = {"sigma": [], "error_variance": [], "predicted_variance": []}
    for sigma in VALIDATION_SIGMAS:
        errors, predictions = [], []
        for clean, spacing in slabs:
            noise = torch.randn(clean.shape, dtype=clean.dtype, generator=generator) * (
                2**0.5 if clean.is_complex() else 1
            )
            denoised = prior.denoise(clean + sigma * noise, sigma, spacing)
            error = (denoised.mean - clean).abs() ** 2 / (2 if clean.is_complex() else 1)
            errors.append(float(error.mean()))
            predictions.append(float(denoised.variance.mean()))
        table["sigma"].append(sigma)
        table["error_variance"].append(float(np.mean(errors)))
        table["predicted_variance"].append(float(np.mean(predictions)))
    return table


def _slab(prior: SlicePrior, volume: TrainingVolume, slices: int, seed: int):
    start = max((len(volume.slices) - slices) // 2, 0)
    clean = torch.from_numpy(volume.slices[start : start + slices].astype(np.float32))
    if prior.modality == "mr":
        side = max(clean.shape[1:])
        clean = clean * smooth_phase(side, np.random.default_rng(seed))[: clean.shape[1], : clean.shape[2]]
    return clean, volume.spacing_mm


def release(
    state: TrainingState,
    settings: TrainingSettings,
    validation: list[TrainingVolume],
    training_names: list[str],
    pixel_mm: tuple[float, float],
    provenance: Provenance,
    out: Path,
    reference: Sequence[TrainingVolume] = (),
) -> None:
    """Writes the averaged network (float16 safetensors, diffusers layout), its card and README into `out`, all or
    nothing.

    `reference`: volumes that the prior should know, three or more, for the card's alarm table.
    """
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    # float16 rounding is part of what is validated
    state.average.cpu().half().save_pretrained(part)
    state.average.float()
    card = {
        "name": out.name,
        "modality": settings.modality,
        "units": "HU / 1000"
        if settings.modality == "ct"
        else "complex image over the 99.5th percentile of its magnitude",
        "sigma_data": settings.sigma_data,
        "pixel_mm": [round(float(p), 2) for p in pixel_mm],
        "parameters": sum(p.numel() for p in state.average.parameters()),
        "training": {
            "volumes": training_names,
            "steps": state.step,
            "minutes": round(state.seconds / 60, 1),
            "batch": settings.batch,
            "crop": settings.crop.size,
            "residual_sigma": settings.residual_sigma,
        }
        | provenance.training,
        "held_out": [v.name for v in validation],
        "command": provenance.command,
        "licence": provenance.licence,
        "limits": LIMITS,
        "sha256": hashlib.sha256((part / WEIGHTS).read_bytes()).hexdigest(),
    }
    prior = SlicePrior(state.average, card)
    card["validation"] = validation_table(prior, validation)
    if len(reference) >= 3:
        card["alarm"] = reference_table(prior, list(reference))
    (part / CARD).write_text(json.dumps(card, indent=1))
    (part / "README.md").write_text(card_text(card))
    shutil.rmtree(out, ignore_errors=True)
    part.replace(out)


def card_text(card: dict) -> str:
    """The model card as Markdown, all figures from prior.json."""
    rows = zip(*(card["validation"][k] for k in ("sigma", "error_variance", "predicted_variance")), strict=True)
    training, (low, high) = card["training"], card["pixel_mm"]
    lines = [
        f"# Slice prior {card['name']}",
        "",
        f"Modality {card['modality']}, units {card['units']}, {card['parameters'] / 1e6:.1f} M weights, "
        f"pixels {low:g} to {high:g} mm{beyond_training(card)}.",
        "",
        f"Trained {training['minutes']:g} minutes, {training['steps']} steps of {training['batch']} crops of "
        f"{training['crop']} pixels, on: {', '.join(training['volumes'])}.",
        f"Held out: {', '.join(card['held_out'])}.",
        *chain_lines(training),
        "",
        f"Training command: `{card['command']}`",
        "",
        f"Data and licences: {card['licence']}",
        "",
        f"Limits: {card['limits']}",
        "",
        "Error on the held-out volumes under white noise, in units squared (prior.json, `validation`):",
        "",
        "| sigma | mean squared error | predicted variance |",
        "| --- | --- | --- |",
        *(f"| {s:.4f} | {e:.3e} | {p:.3e} |" for s, e, p in rows),
        "",
        "The solvers multiply the predicted variance by `r2_scale`, fitted along reconstructions of held-out patients",
        "by `python -m pipeline.calibrate`; prior.json has the tables and what they were fitted on.",
        "",
        *alarm_lines(card),
    ]
    return "\n".join(lines)


def beyond_training(card: dict) -> str:
    """Where the card takes other pixels than those of the training, and what says so."""
    if "usable_pixel_mm" not in card:
        return ""
    low, high = usable_pixels(card)
    return f" in training, taken from {low:g} to {high:g} mm ({card['usable_pixel_source']})"


def chain_lines(training: dict) -> list[str]:
    """What the training began with and the chain states that it took, where there were any."""
    lines = []
    if start := training.get("start"):
        before = f"a prior of {start['steps']} steps, {start['minutes']:g} minutes (`{start['command']}`)"
        share = f", whose share in these weights is {start['share']:g}" if start["share"] else ""
        lines += ["", f"Began with {before}{share}."]
    if slabs := training.get("chain_slabs"):
        share = round(100 * training["chain_share"])
        lines += ["", f"{share} % of every batch: chain states of {slabs} slabs (`pipeline.chain_states`)."]
    return lines


def alarm_lines(card: dict) -> list[str]:
    """The limits of the out-of-distribution alarm, where the card has them."""
    table = card.get("alarm")
    if not table:
        return []
    lines = [
        f"Out-of-distribution alarm (`python -m pipeline.alarm`), from {len(table['volumes'])} volumes, "
        f"{len(table['trained_on'])} of them trained on. Ratio of a study's denoising error to the table above (error) "
        "and to the network's own prediction (predicted):",
        "",
        "| ratio | sigma | usual | too smooth below | unsure above | out above |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for kind in ("error", "predicted"):
        for i, sigma in enumerate(table["sigma"]):
            limits = [table[kind].get(name) for name in ("usual", "low", "unsure", "out")]
            values = " | ".join(f"{limit[i]:.2f}" if limit else "" for limit in limits)
            lines.append(f"| {kind} | {sigma:g} | {values} |")
    return [*lines, ""]
