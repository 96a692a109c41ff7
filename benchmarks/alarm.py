"""Which images raise the alarm: volumes the prior should know, volumes it should not, and what a study sees of both.

    python -m benchmarks.alarm --prior models/weights/ct --known FILE [--known FILE ...] --base FILE --other FILE

The limits are those of the card. `--known` are volumes of patients that are in no table; what the prior should not know
is made of the middle slices of `--base` and of `--other`, a volume of the other modality. Writes
docs/results/alarm_<modality>.md.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.series import machine
from data.nifti import write_volume
from models.ood import KINDS, SIGMAS, Ratios, card_error, judge, limits_again, ratios
from models.prior import SlicePrior, load_prior
from models.volumes import TrainingVolume
from pipeline import measure
from pipeline.cli import main_wrapper
from pipeline.problem import load_problem
from pipeline.train import read_training_volume
from solvers.run import run_solver

PAGES = Path(__file__).parent.parent / "docs" / "results"
SLICES = 6
RECONSTRUCTED = ("base", "inverted", "other modality", "discs")
MEASURE = {
    "ct": {"modality": "ct", "views": 30, "noise_of_largest_ray": 0.01, "working_matrix": None},
    "mr": {"modality": "mr", "coils": 8, "acceleration": 4, "noise_fraction": 0.01},
}
Case = tuple[Tensor, tuple[float, float, float]]


def slab(volume: TrainingVolume, count: int = SLICES) -> Case:
    start = max((len(volume.slices) - count) // 2, 0)
    return torch.from_numpy(volume.slices[start : start + count].astype(np.float32)), volume.spacing_mm


def discs(shape: tuple[int, ...], low: float, high: float, seed: int = 0) -> Tensor:
    """Random discs of constant value on `low`, the same in every slice."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape[1:]), indexing="ij")
    image = np.full(shape[1:], low)
    for _ in range(25):
        (cy, cx), radius = rng.uniform(-0.8, 0.8, 2), rng.uniform(0.05, 0.3)
        image[(x - cx) ** 2 + (y - cy) ** 2 < radius**2] = rng.uniform(low, high)
    return torch.from_numpy(image.astype(np.float32)).expand(shape).contiguous()


def strangers(base: Case, other: Case, modality: str) -> dict[str, Case]:
    """Images made of a known volume and of one of the other modality, in the prior's units."""
    x, spacing = base
    rows, columns = x.shape[1:]
    centre = x[None, :, rows // 4 : rows // 4 + rows // 2, columns // 4 : columns // 4 + columns // 2]
    half = functional.avg_pool2d(x[None], 2)[0]
    border = (0, columns - half.shape[2], 0, rows - half.shape[1])
    noise = 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    ct = modality == "ct"
    return {
        "base": base,
        "inverted": (-0.5 - x if ct else torch.where(x > 0.05, 1.1 - x, x).clamp(min=0), spacing),
        "transposed": (x.transpose(1, 2).contiguous(), (spacing[0], spacing[2], spacing[1])),
        "magnified twice": (functional.interpolate(centre, size=(rows, columns), mode="bilinear")[0], spacing),
        "half the size": (functional.pad(half, border, value=float(x.min())), spacing),
        "noise of 0.05": (x + noise if ct else (x + noise).abs(), spacing),
        "blurred by 5 pixels": (functional.avg_pool2d(x[None], 5, 1, 2, count_include_pad=False)[0], spacing),
        "discs": (discs(x.shape, -1.0 if ct else 0.0, 1.0), spacing),
        "other modality": (1.3 * other[0] - 1 if ct else (other[0] + 1) / 1.2, other[1]),
    }


def reconstructed(prior: SlicePrior, case: Case, modality: str) -> Case:
    """Mean of two posterior samples of the measured case, as magnitudes for MR."""
    x, spacing = case
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "in", Path(folder) / "out"
        source.mkdir()
        affine = np.diag([-spacing[2], -spacing[1], spacing[0], 1.0])
        write_volume(source / "volume.nii.gz", (1000 * x).numpy(), affine, np.float32, "case")
        measure.main(["--input", str(source), "--out", str(out), "--settings", json.dumps(MEASURE[modality])])
        problem, _ = load_problem(out)
    samples = [run_solver("pam", problem, prior, {"mode": "sample"}, sample=k).estimate for k in range(2)]
    return torch.stack([s.abs() if s.is_complex() else s for s in samples]).mean(dim=0), problem.spacing_mm


def sure(prior: SlicePrior, case: Case, sigma: float, seed: int) -> tuple[float, float]:
    """(|D - x|^2/d, Stein's estimate of it with one probe), over the card's error; real volumes alone."""
    x, spacing = case
    generator = torch.Generator().manual_seed(seed)
    noisy, probe = x + sigma * torch.randn(x.shape, generator=generator), torch.randn(x.shape, generator=generator)
    step = 0.01 * sigma
    mean = prior.denoise(noisy, sigma, spacing).mean
    divergence = (probe * (prior.denoise(noisy + step * probe, sigma, spacing).mean - mean)).mean() / step
    stein = (noisy - mean).square().mean() - sigma**2 + 2 * sigma**2 * divergence
    error = card_error(prior.card, sigma)
    return float((mean - x).square().mean()) / error, float(stein) / error


def line(name: str, measured: Ratios, prior: SlicePrior) -> str:
    values = [f"{v:.2f}" for kind in KINDS for v in getattr(measured, kind)]
    row = f"| {name} | " + " | ".join(values) + f" | {judge(measured, prior.card).name} |"
    print(row, flush=True)
    return row


def sure_lines(prior: SlicePrior, case: Case) -> list[str]:
    both = np.array([sure(prior, case, 1.0, seed) for seed in range(4)])
    mean, spread = both.mean(axis=0), both.std(axis=0, ddof=1)
    return [
        "",
        f"Stein's estimate with one probe against the residual, base, sigma 1, four noises: {mean[1]:.2f} +- "
        f"{spread[1]:.2f} against {mean[0]:.2f} +- {spread[0]:.2f}, at twice the network calls.",
    ]


def table_lines(prior: SlicePrior, arguments: argparse.Namespace) -> list[str]:
    modality, table = prior.modality, prior.card["alarm"]
    head = [f"{kind} {sigma:g}" for kind in KINDS for sigma in SIGMAS]
    lines = ["| images | " + " | ".join(head) + " | verdict |", "|" + " --- |" * (len(head) + 2)]
    for limit in ("low", "usual", "unsure", "out"):
        limits = [v for kind in KINDS for v in table[kind].get(limit, [None] * len(SIGMAS))]
        values = " | ".join("" if v is None else f"{v:.2f}" for v in limits)
        lines.append(f"| limit: {limit} | {values} | |")
    for path in arguments.known:
        volume = read_training_volume(path, modality)
        x = torch.from_numpy(volume.slices.astype(np.float32))
        # the calibration patients' slices are no stack
        x = x[:1] if len(x) < 3 else x
        lines.append(line(f"known: {volume.name}", ratios(prior, x, volume.spacing_mm), prior))
        seen = reconstructed(prior, (slab(volume)[0] if len(x) > 1 else x, volume.spacing_mm), modality)
        lines.append(line(f"known: {volume.name}, reconstructed", ratios(prior, *seen), prior))
    other = slab(read_training_volume(arguments.other, "mr" if modality == "ct" else "ct"))
    cases = strangers(slab(read_training_volume(arguments.base, modality)), other, modality)
    lines += [line(name, ratios(prior, *case), prior) for name, case in cases.items()]
    for name in RECONSTRUCTED:
        measured = ratios(prior, *reconstructed(prior, cases[name], modality))
        lines.append(line(f"{name}, reconstructed", measured, prior))
    return lines + (sure_lines(prior, cases["base"]) if modality == "ct" else [])


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", type=Path, required=True, help="folder of a prior whose card has an alarm table")
    parser.add_argument("--known", type=Path, action="append", default=[])
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--other", type=Path, required=True)
    arguments = parser.parse_args(argv)
    prior = load_prior(arguments.prior)
    prior.card["alarm"] = limits_again(prior.card["alarm"])
    write_page(prior, arguments, table_lines(prior, arguments))
    return 0


def write_page(prior: SlicePrior, arguments: argparse.Namespace, rows: list[str]) -> None:
    """The table under its conditions; ends with alarm_<modality>_notes.md where there is one."""
    modality, table = prior.modality, prior.card["alarm"]
    known = " ".join(f"--known {path.name}" for path in arguments.known)
    held_out = sorted(set(table["volumes"]) - set(table["trained_on"]))
    lines = [
        f"# What raises the alarm, {modality.upper()}",
        "",
        f"Command: `python -m benchmarks.alarm --prior {arguments.prior} {known} --base {arguments.base.name} --other "
        f"{arguments.other.name}`.",
        f"Seed 0. Machine: {machine()}. Prior: sha256 {prior.card['sha256'][:12]}. Reconstructions: mean of two PaM "
        f"samples, `{json.dumps(MEASURE[modality])}`.",
        f"Limits are prediction intervals from {len(table['volumes'])} volumes (held out from training: "
        f"{', '.join(held_out)}); known volumes are in no table. Columns: the ratio and its noise level, see "
        "models/ood.py.",
        "",
        *rows,
    ]
    notes = PAGES / f"alarm_{modality}_notes.md"
    if notes.is_file():
        lines += ["", notes.read_text(encoding="utf-8").strip()]
    PAGES.mkdir(parents=True, exist_ok=True)
    (PAGES / f"alarm_{modality}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
