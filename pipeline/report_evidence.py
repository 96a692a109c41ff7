"""What the stages wrote about whether a series' uncertainty can be believed; read without its volumes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.report_provenance import read_json


@dataclass(frozen=True)
class Evidence:
    """Of one solver: `curves` as the evaluate stage wrote them, `checks` as support did, `conformal` as uncertainty,
    `alarm` as alarm; empty where a stage left nothing. `samples` is the number of draws, 0 where it is not known.
    """

    curves: dict[str, Any] = field(default_factory=dict)
    checks: dict[str, Any] = field(default_factory=dict)
    conformal: dict[str, Any] = field(default_factory=dict)
    alarm: dict[str, Any] = field(default_factory=dict)
    interval: float | None = None
    samples: int = 0


def load_evidence(folder: Path, solver: str) -> Evidence:
    """Read results/<cohort>/<study>/<series>; raises InputError for a file that is not JSON."""
    summary = read_json(folder / "uncertainty" / solver / "uncertainty.json")
    samples = summary.get("samples")
    return Evidence(
        curves=_object(read_json(folder / "uncertainty_curves.json").get(f"{solver}_mean")),
        checks=read_json(folder / "uncertainty" / solver / "checks.json"),
        conformal=_object(summary.get("conformal")),
        alarm=read_json(folder / "alarm" / solver / "alarm.json"),
        interval=_share(summary.get("interval")),
        samples=samples if isinstance(samples, int) else 0,
    )


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _share(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 < value < 1 else None
