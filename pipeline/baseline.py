"""Stage `baseline`: a classical reconstruction of a measurement, with its cost beside it."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from data.atomic import write_text
from data.errors import InputError
from data.nifti import write_volume
from pipeline.cli import json_object, main_wrapper
from pipeline.machine import peak_memory_mb
from pipeline.measurement import FILE_NAME, read_metadata
from pipeline.problem import load_problem
from pipeline.settings import require_choice
from solvers.classical.registry import CLASSICAL, ClassicalMethod
from solvers.problem import Problem


def run(measurement: Path, method: str, out: Path, section: dict[str, Any]) -> None:
    """Write OUT (NIfTI on the working grid, HU or magnitude) and its .json: method, settings, seconds, chi2 and so on.

    Settings are the method's own; a key "modality" is allowed and not used.
    """
    require_choice(method, tuple(CLASSICAL), "baselines")
    if not out.name.endswith(".nii.gz"):
        raise InputError(f"{out}: baselines are written as .nii.gz; name the output so.")
    modality = read_metadata(measurement / FILE_NAME)["modality"]
    if modality not in CLASSICAL[method].modalities:
        raise InputError(f"baselines: {method} is not made for {modality.upper()}; choose another method.")
    try:
        settings = CLASSICAL[method].settings({key: value for key, value in section.items() if key != "modality"})
    except ValueError as error:
        raise InputError(f"baseline: {error}") from error
    problem, units = load_problem(measurement)
    began = time.perf_counter()
    try:
        with torch.inference_mode():
            volume = reconstruct(CLASSICAL[method], problem, settings)
    except ValueError as error:
        raise InputError(f"baselines: {error}") from error
    seconds = time.perf_counter() - began
    array = units.to_physical(volume)
    if not np.isfinite(array).all():
        raise InputError(f"{out}: {method} diverged with these settings; choose a larger weight.")
    record = {
        "method": method,
        "settings": asdict(settings),
        "units": units.name,
        "seconds": seconds,
        "peak_mem_mb": peak_memory_mb(),
        "chi2": float(problem.chi2(volume)),
        "nfe": 0,
        "heldout_error": units.heldout.error(volume) if units.heldout else None,
    }
    write_volume(out, array, units.affine, np.float32, f"{method} reconstruction, {units.name}")
    write_text(out.with_name(out.name.removesuffix(".nii.gz") + ".json"), json.dumps(record, indent=1) + "\n")


def reconstruct(method: ClassicalMethod, problem: Problem, settings: Any) -> torch.Tensor:
    """The method's volume (z y x) in prior units, with a progress bar where it takes many steps."""
    if not method.tells_steps:
        return method(problem, settings)
    with tqdm(total=settings.iterations, desc=method.name, unit="step", file=sys.stderr, dynamic_ncols=True) as bar:
        return method(problem, settings, lambda _: bar.update())


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline.baseline", description=__doc__)
    parser.add_argument("--measurement", type=Path, required=True, help="folder with measurement.safetensors")
    parser.add_argument("--method", required=True, help="one of the classical methods")
    parser.add_argument("--out", type=Path, required=True, help="NIfTI file to write, .nii.gz; a .json lies beside it")
    parser.add_argument("--settings", default="{}", help="JSON object: the method's settings")
    arguments = parser.parse_args(argv)
    run(arguments.measurement, arguments.method, arguments.out, json_object(arguments.settings))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
