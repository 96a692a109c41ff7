"""Stage `alarm`: does the prior know images like those of this study?

    python -m pipeline.alarm check --reconstruction DIR --out alarm.json --settings JSON
    python -m pipeline.alarm table --prior DIR [--volumes FOLDER]

`check` judges the mean of a study's posterior samples against the alarm table of the prior's card. `table` makes that
table from a folder of clean volumes that the prior should know, and writes it on the card: no training is needed.
Without a folder the limits are found again from the ratios on the card.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.atomic import write_text
from data.errors import InputError
from models.ood import SIGMAS, Ratios, judge, limits_again, ratios, reference_table
from models.prior import CARD, SlicePrior, load_prior
from models.release import card_text
from pipeline.cli import json_object, main_wrapper
from pipeline.machine import choose_device
from pipeline.measurement import read_tensors
from pipeline.settings import ReconstructSettings, build
from pipeline.train import read_training_volume


def check(reconstruction: Path, out: Path, settings: ReconstructSettings) -> None:
    """Writes alarm.json: verdict (in, unsure, out), sentence, ratios [[sigma, error over the card's]], predicted
    [[sigma, error over the network's own prediction]] and the card's limits; without ratios for a card without an alarm
    table, which is "unsure"."""
    tensors, metadata = read_tensors(reconstruction / "samples.safetensors")
    try:
        scale = float(json.loads((reconstruction / "run.json").read_text(encoding="utf-8"))["units_per_normalised"])
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{reconstruction / 'run.json'} is missing or damaged; reconstruct again.") from error
    prior = load_prior(settings.prior, choose_device(settings.device))
    affine = np.asarray(metadata["affine"])
    told = metadata.get("prior_scale", 1.0)
    spacing = tuple(told * float(s) for s in np.linalg.norm(affine[:3, :3], axis=0)[::-1])
    mean = torch.from_numpy(tensors["samples"].mean(axis=0, dtype=np.float64).astype(np.float32) / scale)
    known = "alarm" in prior.card
    measured = ratios(prior, mean, spacing, settings.seed) if known else Ratios((), ())
    verdict = judge(measured, prior.card)
    report = {
        "verdict": verdict.name,
        "sentence": verdict.sentence,
        "ratios": pairs(measured.error) if known else [],
        "predicted": pairs(measured.predicted) if known else [],
        "limits": prior.card.get("alarm"),
        "prior": prior.card["name"],
    }
    write_text(out, json.dumps(report, indent=1) + "\n")


def pairs(values: Sequence[float]) -> list[list[float]]:
    return [[sigma, round(value, 4)] for sigma, value in zip(SIGMAS, values, strict=True)]


def table(prior_folder: Path, volumes: Path | None) -> None:
    """Writes the alarm table of all volumes in a folder, or of those on the card, on the card and into its README."""
    prior = load_prior(prior_folder)
    if volumes is None:
        if "alarm" not in prior.card:
            raise InputError(
                f"{prior_folder / CARD} has no alarm table; name a folder of clean volumes with --volumes."
            )
        limits = limits_again(prior.card["alarm"])
    else:
        limits = table_of(prior, volumes)
    card = prior.card | {"alarm": limits}
    write_text(prior_folder / CARD, json.dumps(card, indent=1))
    write_text(prior_folder / "README.md", card_text(card))


def table_of(prior: SlicePrior, volumes: Path) -> dict[str, Any]:
    paths = sorted(volumes.glob("*.nii.gz")) + sorted(volumes.glob("*.nii"))
    try:
        return reference_table(prior, [read_training_volume(path, prior.modality) for path in paths])
    except ValueError as error:
        raise InputError(f"{volumes}: {error}; name a folder with more clean volumes.") from error


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("check", help="judge a reconstruction")
    checking.add_argument("--reconstruction", type=Path, required=True, help="folder with samples.safetensors")
    checking.add_argument("--out", type=Path, required=True, help="alarm.json to write")
    checking.add_argument("--settings", default="{}", help="JSON object: the cohort's `reconstruct` section")
    making = commands.add_parser("table", help="write the alarm table on a prior's card")
    making.add_argument("--prior", type=Path, required=True)
    making.add_argument("--volumes", type=Path, help="folder of clean volumes that the prior should know")
    arguments = parser.parse_args(argv)
    if arguments.command == "table":
        table(arguments.prior, arguments.volumes)
        return 0
    settings = build(ReconstructSettings, json_object(arguments.settings), "reconstruct")
    check(arguments.reconstruction, arguments.out, settings)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
