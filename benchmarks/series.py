"""Slabs of volumes as ingested series and measurements, and the words for the machine that a table was made on.

python -m benchmarks.series --volume V.nii.gz --slices 96 160 --out DIR --settings '{"modality": "ct", "views": 30}'
"""

import argparse
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from data.errors import InputError
from pipeline import ingest
from pipeline.cli import json_object, main_wrapper


def make_series(volume: Path, modality: str, slices: tuple[int, int] | None, folder: Path) -> Path:
    """Ingests `volume` (half-open range of axial slices) below `folder`; the series folder with volume.nii.gz."""
    study = folder / "study"
    study.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(volume, study / "volume.nii.gz")
    return ingest_study(study, modality, slices, folder / "ingest")


def ingest_study(study: Path, modality: str, slices: tuple[int, int] | None, out: Path) -> Path:
    """The series folder with volume.nii.gz of a study, ingested into `out`; InputError where it fails."""
    settings = {"modality": modality, "slices": list(slices) if slices else None}
    if ingest.main(["--study", str(study), "--out", str(out), "--settings", json.dumps(settings)]) != 0:
        raise InputError(f"{study} could not be ingested with slices {slices}; the sentence above says why.")
    return next(path.parent for path in out.glob("*/volume.nii.gz"))


def machine() -> str:
    """Processor, number of cores and library versions, as one line."""
    import torch

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{os.cpu_count()} cores of {model}, {device}, torch {torch.__version__}"


def measure_slab(volume: Path, slices: tuple[int, int], section: dict, out: Path) -> None:
    """Writes the measurement of a slab (measurement.safetensors, truth.nii.gz) to OUT; InputError where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        measure_series(make_series(volume, section["modality"], slices, Path(folder)), section, out)


def measure_series(series: Path, section: dict, out: Path) -> None:
    """Writes the measurement of an ingested series to `out`; InputError where it fails."""
    from pipeline import measure

    if measure.main(["--input", str(series), "--out", str(out), "--settings", json.dumps(section)]) != 0:
        raise InputError(f"{series} could not be measured so; the sentence above says why.")


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.series", description=__doc__.split("\n")[0])
    parser.add_argument("--volume", type=Path, required=True)
    parser.add_argument("--slices", type=int, nargs=2, required=True, help="half-open range of axial slices")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--settings", required=True, help="JSON object: the measure section, with modality")
    arguments = parser.parse_args(argv)
    measure_slab(arguments.volume, tuple(arguments.slices), json_object(arguments.settings), arguments.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
