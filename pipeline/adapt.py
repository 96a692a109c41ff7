"""Adapts a prior to the study at hand, from its measurement alone, and writes it as a prior of its own.

    python -m pipeline.adapt --measurement DIR --prior DIR --out FOLDER --config configs/train/adapt.yaml

For studies that lie outside what the prior has seen. A part of the measured views or k-space lines is kept back and
says whether, and how far, adapting helped; when it did not, the written prior is the one that came in. Every later
stage takes the written folder like any other prior.
"""

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data.atomic import atomic_directory
from data.errors import InputError
from models.prior import CARD, WEIGHTS, SlicePrior, load_prior
from models.release import card_text
from pipeline.cli import main_wrapper
from pipeline.machine import choose_device
from pipeline.measurement import FILE_NAME, file_digest, read_metadata
from pipeline.problem import load_problem
from pipeline.sections import section_of
from pipeline.settings import build
from solvers.adaptation import AdaptationSettings, Adapted, adapt
from solvers.draws import Draws
from solvers.settings import SettingsError

LIMITS = "Adapted to one study from its own measurement: it is meant for that study alone. "


def adapted_card(card: dict[str, Any], measurement: Path, settings: AdaptationSettings, result: Adapted) -> dict:
    """The prior's card with what it was adapted from, on and how, and the held-out error of every round.

    The error table stays that of the prior as it came: there is no truth to measure a new one against.
    """
    return card | {
        "name": f"{card['name']}_adapted",
        "limits": LIMITS + card.get("limits", ""),
        "adapted": {
            "from_sha256": card["sha256"],
            "on_measurement_sha256": file_digest(measurement / FILE_NAME),
            "settings": asdict(settings),
            "heldout_chi2": [round(value, 4) for value in result.heldout_chi2],
            "kept_round": result.best_round,
        },
    }


def write_adapted(prior: SlicePrior, card: dict[str, Any], out: Path) -> None:
    """Weights (float16 safetensors), network configuration, card and README into `out`, whole or not at all."""
    with atomic_directory(out) as folder:
        prior.network.cpu().half().save_pretrained(folder)
        card = card | {"sha256": hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()}
        (folder / CARD).write_text(json.dumps(card, indent=1), encoding="utf-8")
        if "validation" in card and "training" in card:
            (folder / "README.md").write_text(card_text(card), encoding="utf-8")


def run(measurement: Path, prior_folder: Path, out: Path, section: dict[str, Any]) -> Adapted:
    """Adapts and writes; the settings are AdaptationSettings with `seed` and `device` beside them."""
    section = dict(section)
    seed, device = int(section.pop("seed", 0)), choose_device(section.pop("device", "auto"))
    try:
        settings = build(AdaptationSettings, section, "adapt")
    except SettingsError as error:
        raise InputError(f"adapt: {error}") from error
    metadata = read_metadata(measurement / FILE_NAME)
    prior = load_prior(prior_folder, device)
    prior.check_fits(metadata["modality"], metadata["spacing_mm"][2] * metadata.get("prior_scale", 1.0))
    problem, _ = load_problem(measurement, device)
    with tqdm(total=settings.rounds * settings.steps, desc="adapt", unit="step") as bar:
        result = adapt(problem, prior, settings, Draws(seed), lambda done, total: bar.update(done - bar.n))
    write_adapted(result.prior, adapted_card(prior.card, measurement, settings, result), out)
    return result


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measurement", type=Path, required=True, help="folder with measurement.safetensors")
    parser.add_argument("--prior", type=Path, required=True, help="folder of the prior to start from")
    parser.add_argument("--out", type=Path, required=True, help="folder of the adapted prior, replaced whole")
    parser.add_argument(
        "--config", type=Path, help="YAML file with a section `adapt`: AdaptationSettings, seed, device"
    )
    parser.add_argument("--settings", default="{}", help="JSON object of the same keys; wins over the file")
    arguments = parser.parse_args(argv)
    section = section_of(arguments.config, "adapt", arguments.settings)
    result = run(arguments.measurement, arguments.prior, arguments.out, section)
    errors = ", ".join(f"{value:.3g}" for value in result.heldout_chi2)
    print(f"held-out error by round: {errors}; kept round {result.best_round}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
