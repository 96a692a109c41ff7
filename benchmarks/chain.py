"""What training on chain states is worth: PaM with several priors on the slabs that settings are found on.

    python -m benchmarks.chain --volume head.nii.gz --prior models/weights/mr --prior runs/train/mr_chain

The priors are folders with a card; rows are named after them. Writes docs/results/chain_ct.md or chain_mr.md and, where
there is a chain_ct_notes.md or chain_mr_notes.md beside it, ends with that.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.measured_error import SAMPLES, Case, load_case
from benchmarks.series import machine
from data.atomic import write_text
from models.prior import SlicePrior, load_prior
from pipeline.cli import main_wrapper

NAMES = {"ct": ("ct30", "ct8", "ct_la90"), "mr": ("mr4", "mr8", "mr4_2d")}
HEAD = ("prior", "task", "point dB", "mean dB", "one sample dB", "calibration ratio", "z-jump")


def cells(case: Case) -> list[str]:
    """Figures of one prior on one task: PSNR in dB as the mean of three planes, (1 + 1/K) V / B inside the body, and
    the mean jump between slices of a sample over that of the truth."""
    values, truth = case.draws(None), torch.from_numpy(case.truth)
    jump = values[0].diff(dim=0).abs().mean() / truth.diff(dim=0).abs().mean()
    decibels = [case.point_db(None), case.psnr_of(values.mean(0).numpy()), case.psnr_of(values[0].numpy())]
    return [f"{value:.2f}" for value in (*decibels, case.ratio(values), float(jump))]


def rows(priors: list[tuple[str, SlicePrior]], volume: Path, slices: int) -> Iterator[str]:
    """Table rows, task by task."""
    modality = priors[0][1].modality
    with tqdm(total=len(NAMES[modality]) * len(priors), unit="row", desc="chain") as bar:
        for task in NAMES[modality]:
            case = load_case(volume, task, priors[0][1], slices)
            for name, prior in priors:
                yield f"| {' | '.join([name, task, *cells(replace(case, prior=prior))])} |"
                bar.update()


def page(table: list[str], priors: list[tuple[str, SlicePrior]], arguments: argparse.Namespace) -> str:
    """The page's text, without the notes."""
    named = " ".join(f"--prior {path}" for path in arguments.prior)
    lines = [
        f"# Training on chain states: {priors[0][1].modality.upper()}",
        "",
        f"Command: `python -m benchmarks.chain --volume {arguments.volume.name} {named} --slices {arguments.slices}`. "
        f"Seed 0, {SAMPLES} samples. {machine()}.",
        "",
        "A patient that no prior was trained on, with which settings are found: the benchmark is in",
        "[bench.md](bench.md). PSNR: mean of the three planes; 1 is right for calibration ratio and z-jump.",
        "",
        *(f"- {name}: `{prior.card['command']}`, weights {prior.card['sha256'][:12]}" for name, prior in priors),
        "",
        f"| {' | '.join(HEAD)} |",
        "|" + " --- |" * len(HEAD),
        *table,
    ]
    return "\n".join(lines) + "\n"


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chain", description=__doc__.split("\n")[0])
    parser.add_argument("--volume", type=Path, required=True, help="a held-out patient's volume")
    parser.add_argument("--prior", type=Path, action="append", required=True)
    parser.add_argument("--slices", type=int, default=8)
    parser.add_argument("--docs", type=Path, default=Path(__file__).parent.parent / "docs" / "results")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    priors = [(path.name, load_prior(path)) for path in arguments.prior]
    text = page(list(rows(priors, arguments.volume, arguments.slices)), priors, arguments)
    name = f"chain_{priors[0][1].modality}"
    notes = arguments.docs / f"{name}_notes.md"
    text += "\n" + notes.read_text(encoding="utf-8") if notes.is_file() else ""
    write_text(arguments.docs / f"{name}.md", text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
