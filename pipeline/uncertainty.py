"""Stage `uncertainty`: posterior samples to mean, standard deviation and interval, voxel by voxel.

For K exchangeable samples with mean m and unbiased variance V, a further draw, and so the truth if the samples are
right, lies in m +- t_{K-1} sqrt(V (1 + 1/K)) with the stated probability, whatever K (Student's t prediction interval).
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from data.atomic import write_text
from data.errors import InputError
from data.nifti import write_volume
from pipeline.cli import json_object, main_wrapper
from pipeline.conformal import Calibration, calibration_for, conformal_bounds
from pipeline.measurement import read_tensors
from pipeline.settings import UncertaintySettings, build, require_range
from pipeline.uncertainty_metrics import half_width_factor, summarise


def find_path(path: str) -> Path:
    """The path as given from the working directory, else from the repository."""
    given = Path(path).expanduser()
    return given if given.exists() else Path(__file__).parents[1] / given


def run(reconstruction: Path, out: Path, settings: UncertaintySettings) -> None:
    """Write mean, std, lower and upper as NIfTI and uncertainty.json into a folder; see the module's docstring."""
    require_range(settings.interval, 0.5, 0.999, "uncertainty.interval")
    tensors, metadata = read_tensors(reconstruction / "samples.safetensors")
    samples = tensors["samples"]
    draws = samples.shape[0]
    summary = summarise(samples, settings.interval)
    if not np.isfinite(summary.std).all():
        raise InputError(
            f"{reconstruction / 'samples.safetensors'}: holds values that are not finite; reconstruct again."
        )
    percent = f"{100 * settings.interval:g}"
    affine = np.asarray(metadata["affine"])
    # A magnitude is never negative, so neither is the interval's end.
    lower = np.maximum(summary.lower, 0) if metadata["modality"] == "mr" else summary.lower
    volumes = {
        "mean": (summary.mean, f"mean of {draws} posterior samples"),
        "std": (summary.std, f"standard deviation of {draws} posterior samples"),
        f"lower{percent}": (lower, f"lower end of the {percent} % interval"),
        f"upper{percent}": (summary.upper, f"upper end of the {percent} % interval"),
    }
    calibrated = {}
    if settings.conformal:
        calibration = calibration_for(find_path(settings.conformal), reconstruction, settings.interval)
        ends = conformal_bounds(summary.mean, summary.std, calibration)
        for name, array in zip(("lower", "upper"), ends):
            array = np.maximum(array, 0) if metadata["modality"] == "mr" else array
            volumes[f"conformal_{name}{percent}"] = array, f"{name} end of the conformal {percent} % interval"
        calibrated = {"conformal": conformal_record(calibration)}
    out.mkdir(parents=True, exist_ok=True)
    for stale in out.glob("*.nii.gz"):
        if stale.name.startswith(("conformal_", "lower", "upper")):
            stale.unlink()
    for name, (array, description) in volumes.items():
        write_volume(out / f"{name}.nii.gz", array.astype(np.float32), affine, np.float32, description)
    report = {
        "samples": draws,
        "interval": settings.interval,
        "t_quantile": float(stats.t.ppf(0.5 + settings.interval / 2, draws - 1)),
        "half_width_factor": half_width_factor(draws, settings.interval),
        "units": metadata["units"],
        "mean_std": float(summary.std.mean()),
        "largest_std": float(summary.std.max()),
        "solver": metadata.get("solver"),
    } | calibrated
    write_text(out / "uncertainty.json", json.dumps(report, indent=1) + "\n")


def conformal_record(calibration: Calibration) -> dict[str, Any]:
    """What uncertainty.json says of the calibration: lambda, patients and the guarantee in one sentence."""
    return {
        "factor": calibration.factor,
        "patients": calibration.patients,
        "guarantee": calibration.guarantee,
        "sentence": calibration.sentence(),
    }


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline.uncertainty", description=__doc__.split("\n")[0])
    parser.add_argument("--reconstruction", type=Path, required=True, help="folder with samples.safetensors")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--settings", default="{}", help='JSON object, e.g. {"interval": 0.9}')
    arguments = parser.parse_args(argv)
    settings = build(UncertaintySettings, json_object(arguments.settings), "uncertainty")
    run(arguments.reconstruction, arguments.out, settings)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
