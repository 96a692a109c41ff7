"""Slabs of volumes as ingested series, and the words for the machine that a table was made on."""

import json
import os
import platform
import shutil
from pathlib import Path

from data.errors import InputError
from pipeline import ingest


def make_series(volume: Path, modality: str, slices: tuple[int, int] | None, folder: Path) -> Path:
    """Ingests `volume` (half-open range of axial slices) below `folder`; the series folder with volume.nii.gz."""
    study = folder / "study"
    study.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(volume, study / "volume.nii.gz")
    settings = {"modality": modality, "slices": list(slices) if slices else None}
    out = folder / "ingest"
    if ingest.main(["--study", str(study), "--out", str(out), "--settings", json.dumps(settings)]) != 0:
        raise InputError(f"{volume} could not be ingested; name a NIfTI volume.")
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
