"""A prior learnt from sparse sinograms alone, against total variation and against its own first round.

    python -m benchmarks.measured_prior --volumes FOLDER --held-out lungfcp --work FOLDER

Every volume of the folder gives a slab of a few slices on a coarse grid, measured from few views that start at an angle
of its own. The clean volumes simulate the measurements and score the held-out patient; nothing is learnt from them.
Writes docs/results/measured_prior.json, from which `python -m benchmarks.adaptation` writes the page.
"""

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch

from benchmarks.series import machine, make_series
from models.prior import load_prior
from pipeline import measure, metrics, train_measured
from pipeline.cli import main_wrapper
from pipeline.evaluate import patient_mask, scale_of
from pipeline.problem import load_problem
from solvers.classical.registry import CLASSICAL
from solvers.run import run_solver

PAGES = Path(__file__).parent.parent / "docs" / "results"
VIEWS, MATRIX, SLICES, HELD_SLICES, SAMPLES = 16, 64, 10, 12, 4
TV_WEIGHTS = (0.5, 1.0, 2.0, 4.0)
POINT = {"mode": "point", "levels": 10, "trust": 3.0}
SETTINGS: dict[str, Any] = {
    "steps": 500,
    "samples": 2,
    "start": {"tv": {}},
    "pam": {"levels": 8, "trust": 1.0},
    "training": {
        "modality": "ct",
        "widths": [32, 64, 96],
        "batch": 8,
        "crop": {"size": 64, "zoom": [0.95, 1.05], "largest_spacing_mm": 0.1},
        "learning_rate": 1e-3,
        "warmup_steps": 50,
        "ema": 0.99,
    },
}


def psnr_axial(estimate: np.ndarray, truth: np.ndarray) -> float:
    """PSNR in dB of the axial plane as the pipeline reports it, for CT volumes (z y x) in HU."""
    scale, mask = scale_of(truth, "ct"), patient_mask(truth, "ct")
    clipped = [np.clip(v * scale.factor, *scale.limits) for v in (estimate, truth)]
    return float(metrics.psnr_db(*clipped, scale.data_range, "axial", mask))


def read_truth(measurement: Path) -> np.ndarray:
    """Truth (z y x) in HU beside a simulated measurement."""
    return np.asarray(nibabel.load(measurement / "truth.nii.gz").dataobj, dtype=np.float32).transpose(2, 1, 0)


def simulate(volumes: list[Path], held_out: str, work: Path) -> list[Path]:
    """One measurement folder a volume: its middle slices, views that start at an angle of its own."""
    folders = []
    for index, path in enumerate(volumes):
        name = path.name.removesuffix(".nii.gz")
        folders.append(work / name)
        if (work / name / "truth.nii.gz").is_file():
            continue
        count = HELD_SLICES if name.startswith(held_out) else SLICES
        first = (nibabel.load(path).shape[2] - count) // 2
        series = make_series(path, "ct", (first, first + count), work / "series" / name)
        section = {
            "modality": "ct",
            "views": VIEWS,
            "start_deg": 180 / VIEWS * index / len(volumes),
            "noise_of_largest_ray": 0.01,
            "working_matrix": MATRIX,
            "model_error": 0.01,
            "seed": index,
        }
        measure.main(["--input", str(series), "--out", str(work / name), "--settings", json.dumps(section)])
    return folders


def evaluate(prior_folder: Path, measurement: Path) -> dict[str, float]:
    """PSNR of PaM's point estimate, of one sample and of the mean of samples, with one learnt prior."""
    problem, units = load_problem(measurement)
    truth, prior = read_truth(measurement), load_prior(prior_folder)
    point = run_solver("pam", problem, prior, POINT).estimate
    runs = [run_solver("pam", problem, prior, SETTINGS["pam"] | {"mode": "sample"}, sample=k) for k in range(SAMPLES)]
    mean = torch.stack([run.estimate for run in runs]).mean(0)
    volumes = {"point": point, "sample": runs[0].estimate, "mean": mean}
    return {name: psnr_axial(units.to_physical(x), truth) for name, x in volumes.items()}


def classical(measurement: Path) -> dict[str, float]:
    """PSNR of total variation at several weights."""
    problem, units = load_problem(measurement)
    truth = read_truth(measurement)
    return {str(w): psnr_axial(units.to_physical(CLASSICAL["tv"](problem, {"weight": w})), truth) for w in TV_WEIGHTS}


def run(volumes: list[Path], held_out: str, work: Path, rounds: int) -> dict[str, Any]:
    """The whole comparison as one JSON object; CPU seconds of everything, and of learning, are process time."""
    began = time.process_time()
    folders = simulate(volumes, held_out, work)
    held = next(f for f in folders if f.name.startswith(held_out))
    training = SETTINGS["training"] | {"held_out": [held_out]}
    result: dict[str, Any] = {"tv": classical(held), "rounds": [], "settings": SETTINGS, "machine": machine()}
    for count in range(1, rounds + 1):
        start = time.process_time()
        settings = json.dumps(SETTINGS | {"rounds": count, "training": training})
        out, state = work / "prior" / f"round_{count - 1}", work / "state"
        arguments = ["--measurements", *map(str, folders), "--out", str(out), "--state", str(state)]
        if train_measured.main([*arguments, "--settings", settings]) != 0:
            raise SystemExit(1)
        cpu = time.process_time() - start
        result["rounds"].append(evaluate(out, held) | {"cpu_seconds": cpu})
        print(count - 1, result["rounds"][-1], flush=True)
    result |= {"views": VIEWS, "matrix": MATRIX, "slices": SLICES}
    result |= {
        "held_out": held.name,
        "measurements": [f.name for f in folders],
        "cpu_seconds": time.process_time() - began,
    }
    return result


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volumes", type=Path, required=True, help="folder of CT training volumes")
    parser.add_argument("--held-out", default="lungfcp", help="beginning of the held-out patient's file name")
    parser.add_argument("--work", type=Path, required=True, help="folder for measurements and states, made anew")
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args(argv)
    shutil.rmtree(arguments.work, ignore_errors=True)
    volumes = sorted(arguments.volumes.glob("*.nii.gz"))
    result = run(volumes, arguments.held_out, arguments.work, arguments.rounds)
    result["command"] = (
        f"python -m benchmarks.measured_prior --volumes {arguments.volumes.name} --held-out {arguments.held_out} "
        f"--work {arguments.work.name} --rounds {arguments.rounds}"
    )
    PAGES.mkdir(parents=True, exist_ok=True)
    (PAGES / "measured_prior.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
