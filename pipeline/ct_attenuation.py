"""Volumes of CT without a water value leave as attenuation in 1/mm: HU relative to an object's level mean nothing
elsewhere."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from data.volume import Volume
from pipeline.measurement import FILE_NAME, read_metadata

PER_MM = "1/mm"


def level_per_mm(series_dir: Path) -> float | None:
    """The attenuation in 1/mm that stood for water where none was known; None where HU are HU."""
    path = series_dir / "measurement" / FILE_NAME
    if not path.is_file():
        return None
    metadata = read_metadata(path)
    return float(metadata["mu_water_per_mm"]) if metadata.get("mu_water") == "estimated" else None


def as_attenuation(volume: Volume, level: float, difference: bool) -> Volume:
    """Attenuation level (1 + HU/1000) in 1/mm; of differences and standard deviations level HU/1000."""
    scaled = volume.array_zyx.astype(np.float64) / 1000
    return replace(volume, array_zyx=(level * (scaled if difference else 1 + scaled)).astype(np.float32))
