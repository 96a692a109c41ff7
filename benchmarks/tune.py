"""Finds every method's best setting on a training patient's slab, and writes it down.

    python -m benchmarks.tune --modality ct --volume training_patient.nii.gz --slices 40 56 --prior models/weights/ct

Writes benchmarks/tuned_<modality>.json (best settings, read by first_light) and docs/results/tuning_<modality>.md
(the whole search). The score is the mean over planes of the PSNR that the pipeline reports. Solvers run once, with
seed 0.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from tqdm import tqdm

from benchmarks.methods import ABLATION, MEASURE, SEARCH, solver_of
from benchmarks.series import machine, make_series
from models.prior import load_prior
from pipeline import measure, metrics
from pipeline.cli import main_wrapper
from pipeline.evaluate import patient_mask, scale_of
from pipeline.problem import Units, load_problem
from solvers.classical.registry import CLASSICAL
from solvers.problem import Problem
from solvers.run import run_solver

HERE = Path(__file__).parent
PAGES = HERE.parent / "docs" / "results"


def score(estimate: np.ndarray, truth: np.ndarray, modality: str) -> float:
    """Mean over the three planes of the PSNR in dB, as the pipeline's own table has it."""
    scale, mask = scale_of(truth, modality), patient_mask(truth, modality)
    volumes = [np.clip(v * scale.factor, *scale.limits) for v in (estimate, truth)]
    return float(np.mean([metrics.psnr_db(*volumes, scale.data_range, plane, mask) for plane in metrics.PLANES]))


def search(problem: Problem, units: Units, truth: np.ndarray, prior, modality: str) -> list[dict[str, Any]]:
    """One row a method and setting: method, settings, psnr_db, seconds."""
    rows = []
    jobs = [(method, settings) for method, grid in SEARCH[modality].items() for settings in grid]
    jobs += [("pam", settings) for settings in ABLATION]
    for method, settings in tqdm(jobs, desc=f"tune {modality}"):
        start = time.perf_counter()
        if method in CLASSICAL:
            estimate = CLASSICAL[method](problem, settings)
        else:
            estimate = run_solver(solver_of(method), problem, prior, settings).estimate
        psnr = score(units.to_physical(estimate), truth, modality)
        rows.append({"method": method, "settings": settings, "psnr_db": psnr, "seconds": time.perf_counter() - start})
    return rows


def best(rows: list[dict[str, Any]], modality: str) -> dict[str, dict[str, Any]]:
    """Settings with the highest PSNR of every method."""
    chosen: dict[str, dict[str, Any]] = {}
    for row in sorted((r for r in rows if r["method"] in SEARCH[modality]), key=lambda r: r["psnr_db"]):
        chosen[row["method"]] = row["settings"]
    return chosen


def page(rows: list[dict[str, Any]], modality: str, command: str, volume: str) -> str:
    lines = [
        f"# Settings searched on a training patient, {modality.upper()}",
        "",
        f"Command: `{command}`. Volume {volume}, not the benchmark patient.",
        f"Measurement: `{json.dumps(MEASURE[modality])}`.",
        f"Seed 0. Machine: {machine()}.",
        "",
        "| method | settings | PSNR dB (mean of three planes) | seconds |",
        "| --- | --- | --- | --- |",
        *(f"| {r['method']} | `{json.dumps(r['settings'])}` | {r['psnr_db']:.2f} | {r['seconds']:.0f} |" for r in rows),
        "",
        f"The best row of each method is used unchanged by `python -m benchmarks.first_light` (tuned_{modality}.json).",
        "Rows of pam change one default of the point estimate at a time; the benchmark keeps the defaults.",
        "",
    ]
    return "\n".join(lines)


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modality", choices=("ct", "mr"), required=True)
    parser.add_argument("--volume", type=Path, required=True)
    parser.add_argument("--slices", type=int, nargs=2, required=True)
    parser.add_argument("--prior", type=Path, required=True)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        series = make_series(arguments.volume, arguments.modality, tuple(arguments.slices), Path(folder))
        out = Path(folder) / "measurement"
        section = MEASURE[arguments.modality] | {"modality": arguments.modality}
        measure.main(["--input", str(series), "--out", str(out), "--settings", json.dumps(section)])
        problem, units = load_problem(out)
        truth = np.asarray(nibabel.load(out / "truth.nii.gz").dataobj, dtype=np.float32).transpose(2, 1, 0)
        rows = search(problem, units, truth, load_prior(arguments.prior), arguments.modality)
    (HERE / f"tuned_{arguments.modality}.json").write_text(
        json.dumps(best(rows, arguments.modality), indent=1) + "\n", encoding="utf-8"
    )
    PAGES.mkdir(parents=True, exist_ok=True)
    first, last = arguments.slices
    command = (
        f"python -m benchmarks.tune --modality {arguments.modality} --volume {arguments.volume.name} "
        f"--slices {first} {last} --prior {arguments.prior}"
    )
    text = page(rows, arguments.modality, command, arguments.volume.name)
    (PAGES / f"tuning_{arguments.modality}.md").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
