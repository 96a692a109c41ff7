"""What a report shows of one series, read from its folder under results/ and stripped of anything private."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import InputError
from data.nifti import read_volume
from data.volume import Volume
from pipeline.measurement import FILE_NAME, read_metadata
from pipeline.report_evidence import load_evidence
from pipeline.report_names import METHOD_NAMES, method_name
from pipeline.report_provenance import provenance, warnings_of
from pipeline.report_samples import open_samples


@dataclass(frozen=True)
class Image:
    """One volume (z y x) in physical units.

    role: truth | baseline | reconstruction | sample | std | lower | upper | calibrated (upper end of the conformal
    interval, which lies evenly about the mean) | share (percent of the detail that the data did not measure) | flag
    (percent by which the details are uncertain). `key` is unique in the series and, for roles with figures of merit,
    the `method` of metrics.tsv.
    """

    key: str
    label: str
    role: str
    array_zyx: np.ndarray


@dataclass(frozen=True)
class ReportSeries:
    """Volumes of one series on one grid, its figures of merit and its provenance.

    `shown` is the key of the reconstruction that the page opens with; `interval` the probability of lower..upper.
    `metrics` has the rows of metrics.tsv as text; `provenance` maps a heading to (name, value) pairs. `curves`,
    `checks`, `conformal` and `alarm` as in Evidence, of the shown solver, which drew `drawn` samples (0: not known).
    `measured`: the data come from a scanner, and a truth, if any, is a reconstruction of all of them. `warnings` of the
    ingest and measure stages.
    """

    cohort: str
    study: str
    series: str
    modality: str
    affine: np.ndarray
    spacing_mm: tuple[float, float, float]
    images: tuple[Image, ...]
    shown: str
    interval: float | None
    metrics: tuple[dict[str, str], ...]
    provenance: dict[str, list[tuple[str, str]]]
    curves: dict[str, Any] = field(default_factory=dict)
    checks: dict[str, Any] = field(default_factory=dict)
    conformal: dict[str, Any] = field(default_factory=dict)
    alarm: dict[str, Any] = field(default_factory=dict)
    drawn: int = 0
    measured: bool = False
    units: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """HU for CT, "rel. HU" where no water value was known; a.u. for MR."""
        if self.modality != "ct":
            return "a.u."
        return "rel. HU" if self.units.startswith("HU relative") else "HU"

    @property
    def truth_name(self) -> str:
        """Truth where the measurement was simulated from it; Reference where it was made from all measured data."""
        return "Reference" if self.measured else "Truth"

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        return self.images[0].array_zyx.shape

    def by_role(self, *roles: str) -> list[Image]:
        return [image for image in self.images if image.role in roles]

    def get(self, key: str) -> Image | None:
        return next((image for image in self.images if image.key == key), None)

    @property
    def truth(self) -> Image | None:
        return self.get("truth")

    @property
    def std(self) -> Image | None:
        """The standard deviation that belongs to the shown reconstruction's solver."""
        return next(iter(self.by_role("std")), None)

    @property
    def best_baseline(self) -> Image | None:
        """The baseline with the highest axial PSNR; the last one where no figure is known."""
        baselines = self.by_role("baseline")
        known = {
            row["method"]: float(row["psnr_db"])
            for row in self.metrics
            if row["plane"] == "axial" and _is_number(row["psnr_db"])
        }
        return (
            max(baselines, key=lambda image: known.get(image.key, float("-inf")), default=None)
            if known
            else (baselines[-1] if baselines else None)
        )


def load_series(
    folder: Path,
    labels: tuple[str, str, str],
    solvers: list[str] | None = None,
    baselines: list[str] | None = None,
    samples: int = 6,
) -> ReportSeries:
    """Read results/<cohort>/<study>/<series>; labels are (cohort, study, series).

    `solvers` and `baselines` choose and order what is shown; without them everything that is there, by name. At most
    `samples` samples of the first solver are taken.
    Raises InputError where there is no reconstruction or the volumes do not share one grid.
    """
    header = read_metadata(folder / "measurement" / FILE_NAME)
    solvers = _names(folder, solvers, "reconstruct", "uncertainty")
    if not solvers:
        raise InputError(f"{folder}: no reconstruction to report; run the reconstruct stage first.")
    found = list(_volumes(folder, solvers, _baseline_names(folder, baselines)))
    _check_grid(folder, found)
    shown = next(((key, volume) for key, _, role, volume in found if role == "reconstruction"), None)
    if shown is None:
        raise InputError(f"{folder}: no reconstruction to report; run the reconstruct stage first.")
    key, grid = shown
    evidence = load_evidence(folder, solvers[0])
    return ReportSeries(
        *labels,
        modality=header["modality"],
        affine=grid.affine,
        spacing_mm=grid.spacing_mm,
        images=(*_images(found, header), *_samples(folder, solvers[0], grid, samples)),
        shown=key,
        interval=evidence.interval,
        metrics=tuple(read_metrics(folder / "metrics.tsv")),
        provenance=provenance(folder, solvers, header),
        curves=evidence.curves,
        checks=evidence.checks,
        conformal=evidence.conformal,
        alarm=evidence.alarm,
        drawn=evidence.samples,
        measured=header.get("source") == "measured",
        units=str(header.get("units") or ""),
        warnings=warnings_of(folder, header),
    )


def _images(found: list[tuple], header: dict[str, Any]) -> Iterator[Image]:
    reference = "Reference" if header.get("source") == "measured" else "Truth"
    for key, label, role, volume in found:
        yield Image(key, reference if role == "truth" else label, role, volume.array_zyx)


def _samples(folder: Path, solver: str, grid: Volume, most: int) -> Iterator[Image]:
    path = folder / "reconstruct" / solver / "samples.safetensors"
    for place, array in enumerate(open_samples(path, grid.shape, grid.affine, most), start=1):
        yield Image(f"{solver}_sample{place}", f"Sample {place}", "sample", array)


def read_metrics(path: Path) -> list[dict[str, str]]:
    """Rows of a metrics.tsv as text, none where there is no file; None never stands for a missing cell."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t", restval=""))
    return [row for row in rows if row.get("method")]


def _names(folder: Path, chosen: list[str] | None, *stages: str) -> list[str]:
    present = {path.name for stage in stages for path in (folder / stage).glob("*") if path.is_dir()}
    return sorted(present) if chosen is None else [name for name in chosen if name in present]


def _baseline_names(folder: Path, chosen: list[str] | None) -> list[str]:
    present = {path.name.removesuffix(".nii.gz") for path in (folder / "baseline").glob("*.nii.gz")}
    if chosen is not None:
        return [name for name in chosen if name in present]
    order = list(METHOD_NAMES)
    return sorted(present, key=lambda name: (order.index(name) if name in order else len(order), name))


def _volumes(folder: Path, solvers: list[str], baselines: list[str]) -> Iterator[tuple[str, str, str, Any]]:
    """(key, label, role, Volume) of every file that is there, in the order in which the page names them."""
    for place, solver in enumerate(solvers):
        summary = folder / "uncertainty" / solver
        files = [
            (f"{solver}_mean", "reconstruction", summary / "mean.nii.gz"),
            (f"{solver}_point", "reconstruction", folder / "reconstruct" / solver / "point.nii.gz"),
            (f"{solver}_std", "std", summary / "std.nii.gz"),
        ]
        if place == 0:
            files += [(f"{solver}_{end}", end, path) for end in ("lower", "upper") for path in summary.glob(f"{end}*")]
            files += [(f"{solver}_calibrated", "calibrated", path) for path in summary.glob("conformal_upper*.nii.gz")]
            files += [
                (f"{solver}_share", "share", summary / "support.nii.gz"),
                (f"{solver}_flag", "flag", summary / "flag.nii.gz"),
                (f"{solver}_epistemic", "std", summary / "epistemic.nii.gz"),
            ]
        for key, role, path in files:
            if path.is_file():
                yield key, method_name(key), role, _as_shown(role, read_volume(path))
    for name in baselines:
        yield name, method_name(name), "baseline", read_volume(folder / "baseline" / f"{name}.nii.gz")
    truth = folder / "measurement" / "truth.nii.gz"
    if truth.is_file():
        yield "truth", "Truth", "truth", read_volume(truth)


def _as_shown(role: str, volume: Volume) -> Volume:
    """Maps in percent, support as what is missing of it: in all maps of the page bright places are those to doubt."""
    if role == "share":
        return replace(volume, array_zyx=100 * (1 - volume.array_zyx))
    return replace(volume, array_zyx=100 * volume.array_zyx) if role == "flag" else volume


def _check_grid(folder: Path, found: list[tuple]) -> None:
    for key, _, _, volume in found[1:]:
        first = found[0][3]
        if volume.shape != first.shape or not np.allclose(volume.affine, first.affine, atol=1e-3):
            raise InputError(f"{folder}: {key} lies on another grid than {found[0][0]}; run its stage again.")


def _is_number(text: str) -> bool:
    try:
        return np.isfinite(float(text))
    except ValueError:
        return False
