"""Figures of merit as tables and headlines, for people."""

from dataclasses import dataclass

from pipeline.report_names import METHOD_NAMES, method_name
from pipeline.report_series import ReportSeries


@dataclass(frozen=True)
class Column:
    """A column of metrics.tsv: heading, unit, printf format, and what is better ("high", "low" or a target value)."""

    name: str
    heading: str
    pattern: str
    better: str | float | None
    explanation: str


COLUMNS = (
    Column("psnr_db", "PSNR, dB", ".2f", "high", "peak signal-to-noise ratio; 3 dB more is half the squared error"),
    Column("ssim", "SSIM", ".3f", "high", "structural similarity with the truth; 1 is identical"),
    Column("rmse", "RMSE", ".4g", "low", "root mean squared error"),
    Column("coverage90", "Coverage of 90 %", ".3f", 0.9, "share of voxels whose truth lies in the 90 % interval"),
    Column("calibration_ratio", "Calibration", ".2f", 1.0, "predicted over actual squared error; below 1: too sure"),
    Column("crps", "CRPS", ".4g", "low", "score of the whole predicted distribution; smaller is better"),
    Column("z_jump", "Slice jump", ".2f", 1.0, "change from slice to slice relative to the truth's; 1 is right"),
    Column("chi2", "Residual χ²", ".3f", None, "squared distance from the measured data in noise units; right near 1"),
    Column("uce", "UCE", ".3g", "low", "mean distance of the predicted from the found error; 0 is right"),
    Column("ause", "AUSE", ".3f", "low", "how far the order by uncertainty is from the order by error; 0 is best"),
    Column("width90", "Width of 90 %", ".3g", None, "mean width of the 90 % interval, in the unit of RMSE"),
    Column("width_ratio90", "Width/oracle", ".2f", 1.0, "that width over the least that would cover 90 %; 1 is right"),
    Column("heldout_error", "Held-out error", ".3f", "low", "relative error on data kept from the reconstruction"),
    Column("heldout_z2", "Held-out z²", ".2f", 1.0, "squared error of predicted held-out data over its expectation"),
    Column("nfe", "Network calls", ".0f", None, "passes of the volume through the prior"),
    Column("seconds", "Seconds", ".1f", None, "wall time of the method"),
    Column("peak_mem_mb", "Memory, MB", ".0f", None, "peak memory of the method"),
)


@dataclass(frozen=True)
class Cell:
    text: str
    best: bool


@dataclass(frozen=True)
class Row:
    plane: str
    method: str
    shown: bool
    cells: tuple[Cell, ...]


def number(text: str) -> float | None:
    """A finite number, or None."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if value == value and abs(value) != float("inf") else None


def table(series: ReportSeries) -> tuple[list[Column], list[Row]]:
    """Columns that hold anything, and rows in the file's order, the best of each plane and column marked."""
    columns = [item for item in COLUMNS if any(number(row.get(item.name, "")) is not None for row in series.metrics)]
    best = {
        (plane, column.name): _best(column, [row for row in series.metrics if row["plane"] == plane])
        for plane in {row["plane"] for row in series.metrics}
        for column in columns
    }
    rows = [
        Row(
            row["plane"],
            method_name(row["method"]),
            row["method"] == series.shown,
            tuple(_cell(row, column, best[row["plane"], column.name]) for column in columns),
        )
        for row in series.metrics
    ]
    return columns, rows


def _best(column: Column, rows: list[dict[str, str]]) -> float | None:
    values = [value for row in rows if (value := number(row.get(column.name, ""))) is not None]
    if column.better is None or len(values) < 2:
        return None
    if isinstance(column.better, str):
        return max(values) if column.better == "high" else min(values)
    return min(values, key=lambda value: abs(value - column.better))


def _cell(row: dict[str, str], column: Column, best: float | None) -> Cell:
    value = number(row.get(column.name, ""))
    return Cell("–" if value is None else format(value, column.pattern), value is not None and value == best)


def headlines(series: ReportSeries) -> list[tuple[str, str, str]]:
    """(figure, what it is, detail) for the cards above the table, of the shown reconstruction."""
    return headlines_of(list(series.metrics), series.shown)


def headlines_of(metrics: list[dict[str, str]], shown: str) -> list[tuple[str, str, str]]:
    """As `headlines`, from the rows of a metrics.tsv and the shown method."""
    rows = {row["plane"]: row for row in metrics if row["method"] == shown}
    first = rows.get("axial") or rows.get("volume") or {}
    cards = []
    for plane in ("axial", "sagittal"):
        if (value := number(rows.get(plane, {}).get("psnr_db", ""))) is not None:
            cards.append((f"{value:.1f} dB", f"PSNR, {plane}", _against_baselines(metrics, plane, value)))
    if (value := number(first.get("coverage90", ""))) is not None:
        cards.append((f"{100 * value:.1f} %", "of voxels inside their 90 % interval", "90 % is right"))
    if (value := number(first.get("heldout_error", ""))) is not None:
        cards.append((f"{value:.3f}", "error on held-out data", "smaller is better"))
    if (value := number(first.get("chi2", ""))) is not None:
        cards.append((f"{value:.2f}", "residual χ² against the data", "near 1 is consistent"))
    if (value := number(first.get("seconds", ""))) is not None:
        calls = number(first.get("nfe", ""))
        cards.append((_duration(value), "reconstruction time", f"{calls:.0f} network calls" if calls else ""))
    return cards


def _against_baselines(metrics: list[dict[str, str]], plane: str, value: float) -> str:
    """ "+4.1 dB over TV": the gain over the best method without a prior, of those in METHOD_NAMES."""
    others = [
        (score, row["method"])
        for row in metrics
        if row["plane"] == plane and row.get("nfe") in ("0", "0.0") and (score := number(row["psnr_db"])) is not None
    ]
    if not others:
        return ""
    best, method = max(others)
    return f"{value - best:+.1f} dB against {METHOD_NAMES.get(method, method)}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@dataclass(frozen=True)
class Figure:
    """A figure of merit in the list of studies: its text, its value for sorting ("" if there is none), and a note."""

    text: str
    value: float | str
    note: str = ""


INDEX_COLUMNS = ("psnr_db", "ssim", "coverage90", "heldout_error", "chi2", "seconds")


def index_columns() -> list[Column]:
    """The columns of the list of studies."""
    known = {column.name: column for column in COLUMNS}
    return [known[name] for name in INDEX_COLUMNS]


def index_figures(metrics: list[dict[str, str]], shown: str) -> list[Figure]:
    """One Figure a column of index_columns(), of the shown method in the axial plane; `metrics` as in table()."""
    rows = {row["plane"]: row for row in metrics if row["method"] == shown}
    first = rows.get("axial") or rows.get("volume") or {}
    found = []
    for column in index_columns():
        value = number(first.get(column.name, ""))
        if value is None:
            found.append(Figure("–", ""))
        elif column.name == "psnr_db":
            found.append(Figure(f"{value:.1f} dB", value, _against_baselines(metrics, "axial", value)))
        elif column.name == "seconds":
            found.append(Figure(_duration(value), value))
        elif column.name == "coverage90":
            found.append(Figure(f"{100 * value:.1f} %", value))
        else:
            found.append(Figure(format(value, column.pattern), value))
    return found
