"""Every baseline and solver on one CT and one MR volume that no prior has seen, with the same prior for all solvers.

    python -m benchmarks.first_light --ct chest.nii.gz --ct-slices 96 160 --mr head.nii.gz --mr-slices 180 244

Runs the pipeline's own stages below --work (finished results are kept, so an interrupted run goes on) and writes
docs/results/first_light.md and its pictures. Methods take their settings from tuned_ct.json and tuned_mr.json, which
`python -m benchmarks.tune` found on training patients; ours takes the pipeline's defaults.
"""

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.first_light_page import write_page
from benchmarks.methods import MEASURE, solver_of
from benchmarks.series import make_series
from data.errors import InputError
from pipeline import baseline, evaluate, measure, reconstruct, uncertainty
from pipeline.cli import main_wrapper
from solvers.classical.registry import CLASSICAL

HERE = Path(__file__).parent
OURS = {"pam": {}}


def run_stage(stage: Any, out: Path, arguments: list[str]) -> None:
    """Runs a stage's main unless its output is there; InputError when it fails."""
    if out.exists():
        return
    if stage.main([*arguments, "--out", str(out)]) != 0:
        raise InputError(f"{stage.__name__} failed for {out}; its message is above.")


def run_modality(modality: str, volume: Path, slices: tuple[int, int], prior: Path, work: Path, samples: int) -> Path:
    """All methods on one slab; the series folder with metrics.tsv."""
    tuned = json.loads((HERE / f"tuned_{modality}.json").read_text(encoding="utf-8"))
    series = work / modality / "series"
    ingested = work / modality / "ingested"
    source = next(ingested.glob("ingest/*/volume.nii.gz"), None)
    folder = source.parent if source else make_series(volume, modality, slices, ingested)
    section = json.dumps(MEASURE[modality] | {"modality": modality})
    run_stage(measure, series / "measurement", ["--input", str(folder), "--settings", section])
    common = ["--measurement", str(series / "measurement")]
    for method, settings in tuned.items():
        if method in CLASSICAL:
            out = series / "baseline" / f"{method}.nii.gz"
            run_stage(baseline, out, [*common, "--method", method, "--settings", json.dumps(settings)])
    solvers = {method: settings for method, settings in tuned.items() if method not in CLASSICAL}
    for method, settings in (OURS | solvers).items():
        ours = method in OURS
        section = {
            "prior": str(prior),
            "samples": samples if ours else 2,
            "point": ours,
            "overrides": {solver_of(method): settings},
        }
        out = series / "reconstruct" / method
        run_stage(reconstruct, out, [*common, "--solver", solver_of(method), "--settings", json.dumps(section)])
        run_stage(uncertainty, series / "uncertainty" / method, ["--reconstruction", str(out), "--settings", "{}"])
    identity = ["--cohort", "first_light", "--study", modality, "--series", folder.name]
    evaluate.main(["--series-dir", str(series), "--out", str(series / "metrics.tsv"), *identity])
    return series


def read_rows(series: Path) -> list[dict[str, str]]:
    with (series / "metrics.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ct", type=Path)
    parser.add_argument("--ct-slices", type=int, nargs=2, default=(96, 160))
    parser.add_argument("--mr", type=Path)
    parser.add_argument("--mr-slices", type=int, nargs=2, default=(180, 244))
    parser.add_argument("--weights", type=Path, default=HERE.parent / "models" / "weights")
    parser.add_argument("--work", type=Path, default=HERE.parent / "results" / "first_light")
    parser.add_argument("--samples", type=int, default=4)
    arguments = parser.parse_args(argv)
    series = {}
    for modality in ("ct", "mr"):
        volume = getattr(arguments, modality)
        if volume is not None:
            slices = tuple(getattr(arguments, f"{modality}_slices"))
            prior = arguments.weights / modality
            series[modality] = run_modality(modality, volume, slices, prior, arguments.work, arguments.samples)
        elif (arguments.work / modality / "series" / "metrics.tsv").exists():
            series[modality] = arguments.work / modality / "series"
    if not series:
        raise InputError("first_light: name a volume with --ct or --mr.")
    command = "python -m benchmarks.first_light" + "".join(
        f" --{m} {getattr(arguments, m).name} --{m}-slices {' '.join(map(str, getattr(arguments, f'{m}_slices')))}"
        for m in ("ct", "mr")
        if getattr(arguments, m) is not None
    )
    write_page({m: (path, read_rows(path)) for m, path in series.items()}, command, HERE.parent / "docs" / "results")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
