"""What a conformal calibration holds for: how a series was measured and reconstructed."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.evaluate import read_json
from pipeline.measurement import FILE_NAME, read_metadata


@dataclass(frozen=True)
class Conditions:
    """What a reconstruction was made under; a calibration holds for these alone.

    measure: settings of the measurement without its seed. samples: posterior samples a series.
    """

    modality: str
    measure: dict[str, Any]
    prior_sha256: str
    solver: str
    solver_settings: dict[str, Any]
    samples: int

    @property
    def measure_sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.measure, sort_keys=True).encode()).hexdigest()


def conditions_of(reconstruction: Path) -> Conditions:
    """Conditions of results/<cohort>/<study>/<series>/reconstruct/<solver>, read from it and its measurement."""
    run = read_json(reconstruction / "run.json")
    measured = read_metadata(reconstruction.parent.parent / "measurement" / FILE_NAME)
    return Conditions(
        modality=measured["modality"],
        measure={key: value for key, value in measured["settings"].items() if key != "seed"},
        prior_sha256=run["prior"]["sha256"],
        solver=run["solver"],
        solver_settings=run["solver_settings"] | {"sigma_init": run["sigma_init"]},
        samples=len(run["samples"]),
    )


def difference(expected: Conditions, found: Conditions) -> str | None:
    """The first thing in which two conditions differ and its two values, in words; None where they agree."""
    mine, theirs = flat(expected), flat(found)
    for key in [*mine, *(key for key in theirs if key not in mine)]:
        if mine.get(key) != theirs.get(key):
            return f"{key}: {mine.get(key)} and {theirs.get(key)}"
    return None


def flat(conditions: Conditions) -> dict[str, Any]:
    """One level deep, keys as "measure.views"."""
    record: dict[str, Any] = {}
    for key, value in asdict(conditions).items():
        record |= {f"{key}.{name}": v for name, v in value.items()} if isinstance(value, dict) else {key: value}
    return record
