"""Stage `measure`: simulates a series' measurement with the cohort's operator and noise, or adopts measured data."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import InputError
from data.nifti import read_volume, write_volume
from operators.cone_geometry import CONE_TYPES
from pipeline.adopt_mr import adopt_mr, hold_out_kspace
from pipeline.cli import json_object, main_wrapper
from pipeline.ingest_kspace import read_series
from pipeline.ingest_projections import FILE_NAME as PROJECTIONS
from pipeline.ingest_projections import read_ingested
from pipeline.measure_cone import simulate_cone
from pipeline.measure_cone_measured import adopt_cone
from pipeline.measure_ct import hold_out_views, simulate_ct
from pipeline.measure_ct_measured import adopt_ct, measured_settings
from pipeline.measure_mr import simulate_mr
from pipeline.measurement import Measurement, write_measurement
from pipeline.problem import with_start
from pipeline.settings import CtMeasureSettings, MrMeasureSettings, build, require_choice


def measure(series: Path, section: dict[str, Any]) -> tuple[Measurement, np.ndarray | None]:
    """(measurement, truth (z y x) or None) of an ingested series; InputError for what cannot be measured so."""
    section = dict(section)
    modality = section.pop("modality", None) or series_modality(series)
    require_choice(modality, ("ct", "mr"), "modality")
    source = section.get("source", "simulate")
    require_choice(source, ("simulate", "measured"), "measure.source")
    if source == "measured" and modality == "ct":
        projections = read_ingested(series)
        adopt = adopt_cone if projections.geometry["type"] in CONE_TYPES else adopt_ct
        return adopt(projections, measured_settings(section), str(series))
    if source == "measured":
        settings = build(MrMeasureSettings, section, "measure")
        return adopt_mr(read_series(series), settings, str(series))
    path = series / "volume.nii.gz"
    if not path.is_file():
        raw = any((series / name).is_file() for name in ("kspace.safetensors", PROJECTIONS))
        advice = "set measure.source to measured" if raw else "ingest it first"
        raise InputError(f"{path}: no such volume to simulate from; {advice}.")
    volume = read_volume(path)
    if not np.isfinite(volume.array_zyx).all():
        raise InputError(f"{path}: holds values that are not finite; leave this series out.")
    if modality == "ct":
        settings = build(CtMeasureSettings, section, "measure")
        simulate = simulate_cone if settings.beam == "cone" else simulate_ct
        measurement, truth = simulate(volume, settings, str(path))
        return hold_out_views(measurement, settings.holdout_views), truth
    # Simulated k-space is tested on data of its own only where the config asks for it.
    settings = build(MrMeasureSettings, {"holdout_fraction": 0.0} | section, "measure")
    measurement, truth = simulate_mr(volume, settings, str(path))
    return hold_out_kspace(measurement, settings.holdout_fraction, settings.seed), truth


def series_modality(series: Path) -> str:
    """Modality ("ct" or "mr") as the manifest beside the series says; k-space is MR whatever it says."""
    if (series / "kspace.safetensors").is_file():
        return "mr"
    manifest = series.parent / "manifest.json"
    try:
        rows = json.loads(manifest.read_text(encoding="utf-8"))["series"]
        return next(row["modality"].lower() for row in rows if row["series"] == series.name)
    except (OSError, ValueError, KeyError, StopIteration) as error:
        raise InputError(f"{manifest}: says nothing about series {series.name}; ingest the study again.") from error


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline.measure", description=__doc__)
    parser.add_argument(
        "--input", type=Path, required=True, help="ingested series: a volume, k-space or projections"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--settings", default="{}", help="JSON object: the cohort's `measure` section, and its modality"
    )
    arguments = parser.parse_args(argv)
    measurement, truth = measure(arguments.input, json_object(arguments.settings))
    warnings = [f"warning: {words}" for words in measurement.metadata.get("warnings", [])]
    for line in dict.fromkeys([*measurement.metadata.get("preparation", []), *warnings]):
        print(line)
    measurement = with_start(measurement)
    truth_path = arguments.out / "truth.nii.gz"
    if truth is None:
        truth_path.unlink(missing_ok=True)
    else:
        what = "filtered backprojection of all views" if measurement.metadata["source"] == "measured" else ""
        what = measurement.metadata.get("truth") or what or "what the measurement was simulated from"
        write_volume(truth_path, truth, measurement.affine, np.float32, what)
    write_measurement(arguments.out, measurement)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
