"""Does adapting a prior to a study help where the prior is at a loss, and do no harm where it is not?

    python -m benchmarks.adaptation --ct HELD_OUT_CT.nii.gz --mr OTHER_ANATOMY.nii.gz --prior models/weights/ct

Three studies measured as CT from 30 views: the CT patient, who was held out of training (in distribution); the same
patient with inverted contrast; a head, an MR magnitude presented as HU (another anatomy and contrast). The truth is for
the scores alone. Writes docs/results/adaptation.json and docs/results/adaptation.md; the page also has the prior learnt
from measurements when `python -m benchmarks.measured_prior` has left docs/results/measured_prior.json.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from torch import Tensor

from benchmarks.measured_prior import PAGES, psnr_axial, read_truth
from benchmarks.series import machine, make_series
from models.prior import load_prior
from pipeline import adapt, measure
from pipeline.cli import main_wrapper
from pipeline.problem import load_problem
from pipeline.settings import build
from solvers.adaptation import AdaptationSettings
from solvers.classical.registry import CLASSICAL
from solvers.run import run_solver

MEASURE = {"modality": "ct", "views": 30, "noise_of_largest_ray": 0.01, "working_matrix": 128}
SLICES = 8
TV_WEIGHTS = (1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True)
class Case:
    """A study: its name, words for the page, and how its volume (x y z) becomes HU."""

    name: str
    words: str
    source: str
    to_hu: Any


def head_as_hu(magnitude: np.ndarray) -> np.ndarray:
    """MR magnitude to HU: background is air, the 99.5th percentile 300 HU."""
    return -1000 + 1300 * np.clip(magnitude / np.percentile(magnitude, 99.5), 0, 1.5)


def inverted(hu: np.ndarray) -> np.ndarray:
    """Air at 100 HU, water at -900 HU, bone darker still."""
    return -900 - np.clip(hu, -1000, 400)


CASES = (
    Case("in_distribution", "the held-out CT patient", "ct", lambda hu: hu),
    Case("head", "a head: MR magnitude presented as HU", "mr", head_as_hu),
    Case("inverted", "the held-out CT patient, contrast inverted", "ct", inverted),
)


def make_measurement(case: Case, volume: Path, folder: Path) -> Path:
    """Measurement folder of the middle slices of a case."""
    image = nibabel.as_closest_canonical(nibabel.load(volume))
    values = case.to_hu(np.asarray(image.dataobj, dtype=np.float32))
    folder.mkdir(parents=True)
    nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), image.affine), folder / "volume.nii.gz")
    first = values.shape[2] // 2 - SLICES // 2
    series = make_series(folder / "volume.nii.gz", "ct", (first, first + SLICES), folder)
    arguments = ["--input", str(series), "--out", str(folder / "measure"), "--settings", json.dumps(MEASURE)]
    if measure.main(arguments) != 0:
        raise SystemExit(1)
    return folder / "measure"


def study(case: Case, volume: Path, prior: Path, section: dict[str, Any], folder: Path) -> dict[str, Any]:
    """PSNR of TV, of the prior and of the adapted prior, and what the held-out views said."""
    measurement = make_measurement(case, volume, folder / case.name)
    problem, units = load_problem(measurement)
    truth = read_truth(measurement)

    def psnr(x: Tensor) -> float:
        return psnr_axial(units.to_physical(x), truth)

    def point(weights: Path) -> float:
        return psnr(run_solver("pam", problem, load_prior(weights), {"mode": "point"}).estimate)

    row: dict[str, Any] = {"words": case.words, "volume": volume.name}
    row["tv"] = {str(w): psnr(CLASSICAL["tv"](problem, {"weight": w})) for w in TV_WEIGHTS}
    row["prior"] = point(prior)
    start = time.process_time()
    result = adapt.run(measurement, prior, folder / f"{case.name}_prior", section)
    row["cpu_seconds"] = time.process_time() - start
    row |= {"heldout_chi2": result.heldout_chi2, "kept_round": result.best_round}
    row["adapted"] = point(folder / f"{case.name}_prior")
    print(case.name, row, flush=True)
    return row


def adaptation_lines(result: dict[str, Any]) -> list[str]:
    """The first half of the page."""
    lines = [
        "## Adapting to one study",
        "",
        f"Command: `{result['command']}`. Seed 0. Machine: {result['machine']}.",
        "",
        f"{SLICES} middle slices on a grid of 128, measurement `{json.dumps(MEASURE)}`. PSNR in dB, axial, of PaM's",
        "point estimate from all views; TV is at its best weight for the truth. Held-out: mean W |y - A x|^2 over the",
        "views kept back, before adapting and after every round; the smallest is kept. CPU seconds are of adapting.",
        "",
        "| study | TV | prior | adapted | gain | held-out by round | kept | CPU s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["cases"].values():
        held = ", ".join(f"{value:.2f}" for value in row["heldout_chi2"])
        best_tv = max(row["tv"].values())
        lines.append(
            f"| {row['words']} | {best_tv:.2f} | {row['prior']:.2f} | {row['adapted']:.2f} "
            f"| {row['adapted'] - row['prior']:+.2f} | {held} | {row['kept_round']} | {row['cpu_seconds']:.0f} |"
        )
    return [*lines, "", f"Settings: `{json.dumps(result['settings'])}`.", ""]


def measured_lines(result: dict[str, Any]) -> list[str]:
    """The second half of the page."""
    tv = ", ".join(f"{value:.2f} (weight {weight})" for weight, value in result["tv"].items())
    lines = [
        "## A prior learnt from measurements alone",
        "",
        f"Command: `{result['command']}`. Seed 0. Machine: {result['machine']}.",
        "",
        f"Learnt from {len(result['measurements']) - 1} sparse sinograms of {result['slices']} slices each"
        f" ({result['views']} views, another first angle each, grid of {result['matrix']}), without any clean volume.",
        f"Scored on {result['held_out']}, axial PSNR in dB. Round 0 is trained on TV reconstructions.",
        "",
        f"TV on the held-out measurement: {tv}.",
        "",
        "| round | point estimate | mean of 4 samples | one sample | CPU s of the round |",
        "| --- | --- | --- | --- | --- |",
    ]
    for index, row in enumerate(result["rounds"]):
        cells = (f"{row['point']:.2f}", f"{row['mean']:.2f}", f"{row['sample']:.2f}", f"{row['cpu_seconds']:.0f}")
        lines.append(f"| {index} | " + " | ".join(cells) + " |")
    last, tuned = result["rounds"][-1]["point"], max(result["tv"].values())
    lines += ["", f"Against tuned TV the last round's point estimate is {last - tuned:+.2f} dB."]
    return [*lines, "", f"Settings: `{json.dumps(result['settings'])}`.", ""]


NOTES = """\
## Limits

Adapting cannot add what the measurement does not hold: the held-out views decide when to stop, and where no round
predicts them at least 3 % better the prior is kept as it was. A tuned TV image can stay ahead on anatomy that is nearly
piecewise constant. A prior learnt from measurements in a few CPU minutes is far from trained: what is shown is the
direction from round to round; a prior for use needs the hours that `configs/train/ct.yaml` takes.
"""


def write_page() -> None:
    """docs/results/adaptation.md from the JSON files that are there."""
    lines = ["# Priors that adapt, and priors without clean data", ""]
    for name, section in (("adaptation", adaptation_lines), ("measured_prior", measured_lines)):
        path = PAGES / f"{name}.json"
        if path.is_file():
            lines += section(json.loads(path.read_text(encoding="utf-8")))
    (PAGES / "adaptation.md").write_text("\n".join([*lines, NOTES]), encoding="utf-8")


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ct", type=Path, help="CT volume of a patient held out of training")
    parser.add_argument("--mr", type=Path, help="MR volume of a head")
    parser.add_argument("--prior", type=Path, help="folder of the CT prior")
    parser.add_argument("--settings", default="{}", help="JSON object: AdaptationSettings")
    parser.add_argument("--page-only", action="store_true", help="write the page from the JSON files again")
    arguments = parser.parse_args(argv)
    if not arguments.page_only:
        section = json.loads(arguments.settings)
        sources = {"ct": arguments.ct, "mr": arguments.mr}
        with tempfile.TemporaryDirectory() as folder:
            cases = {c.name: study(c, sources[c.source], arguments.prior, section, Path(folder)) for c in CASES}
        command = (
            f"python -m benchmarks.adaptation --ct {arguments.ct.name} --mr {arguments.mr.name} "
            f"--prior {arguments.prior} --settings '{arguments.settings}'"
        )
        result = {
            "command": command,
            "machine": machine(),
            "settings": asdict(build(AdaptationSettings, section, "adapt")),
            "cases": cases,
        }
        PAGES.mkdir(parents=True, exist_ok=True)
        (PAGES / "adaptation.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    write_page()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
