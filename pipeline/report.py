"""Stage `report`: one self-contained page a series, and results/index.html that lists them.

A page holds its volumes, styles and scripts, opens from a file without a network, and forbids itself every connection
(Content-Security-Policy). Beside FILE.html lie FILE.png, the same slices as a picture, and FILE_thumb.png.
"""

import argparse
import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import jinja2

from data.atomic import atomic_path, write_text
from data.errors import InputError
from pipeline import figures, report_budget, report_index, report_metrics, report_page, report_uncertainty
from pipeline.cli import json_object, main_wrapper
from pipeline.report_series import ReportSeries, load_series

ASSETS = Path(__file__).parent / "report_assets"
SCRIPTS = (
    "codec.js", "geometry.js", "slices.js", "panel.js", "gestures.js", "readout.js", "modes.js", "page.js",
    "controls.js", "start.js",
)  # fmt: skip
# Part of a page only where 3D may be offered; before start.js runs.
SCRIPT_3D = "render3d.js"
NIIVUE = "0.69.0, BSD-2-Clause"
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "connect-src data: blob:; font-src data:; base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True)
class ReportSettings:
    """max_mb bounds a page's size, samples the number of samples on it; solvers and baselines choose and order what is
    shown (all that is there if null)."""

    max_mb: float = 40.0
    samples: int = 6
    solvers: tuple[str, ...] | None = None
    baselines: tuple[str, ...] | None = None


def settings_from(section: dict) -> ReportSettings:
    """Settings from the JSON object. Raises InputError for an unknown key or a wrong type."""
    known = {"max_mb", "samples", "solvers", "baselines"}
    if unknown := sorted(set(section) - known):
        raise InputError(f"report: unknown setting '{unknown[0]}'; the keys are {', '.join(sorted(known))}.")
    max_mb = section.get("max_mb", 40.0)
    if isinstance(max_mb, bool) or not isinstance(max_mb, int | float) or not max_mb > 0:
        raise InputError(f"report.max_mb: {max_mb!r} is not a number above 0; correct it in the config.")
    samples = section.get("samples", 6)
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 0:
        raise InputError(f"report.samples: {samples!r} is not a whole number from 0; correct it in the config.")
    names = {}
    for key in ("solvers", "baselines"):
        value = section.get(key)
        if value is not None and not (isinstance(value, list) and all(isinstance(name, str) for name in value)):
            raise InputError(f"report.{key}: {value!r} is not a list of names; correct it in the config.")
        names[key] = None if value is None else tuple(value)
    return ReportSettings(float(max_mb), samples, names["solvers"], names["baselines"])


def render_page(series: ReportSeries, max_mb: float, montage_jpeg: bytes | None) -> str:
    """The page's HTML. Everything that comes from files is escaped."""
    niivue = _niivue() if report_page.shows_3d(series) else {"js": "", "licence": ""}
    room = max_mb - len(montage_jpeg or b"") * 4 / 3e6 - len(niivue["js"]) / 1e6
    packed = report_budget.pack_volumes(series, room)
    columns, rows = report_metrics.table(series)
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            **_shared(),
            series=series,
            facts=report_page.facts(series, packed.factor),
            columns=columns,
            rows=rows,
            planes=list(dict.fromkeys(row.plane for row in rows)),
            metrics_caption=report_page.metrics_caption(series),
            headlines=report_metrics.headlines(series),
            provenance=series.provenance,
            verdicts=report_uncertainty.verdicts(series),
            charts=report_uncertainty.charts(series),
            plot=report_uncertainty.PLOT,
            roles={image.role for image in series.images},
            guarantee=report_page.guarantee(series),
            montage=_data_uri(montage_jpeg) if montage_jpeg else "",
            shrunk=report_page.shrunk_sentence(series, packed),
            rounding=report_page.rounding_sentence(series),
            interval_percent=f"{100 * (series.interval or 0.9):.0f} %",
            packed=packed.texts,
            data=report_page.script_json(report_page.viewer_data(series, packed)),
            niivue=niivue,
            niivue_version=NIIVUE,
            script="\n".join(_asset(name) for name in ((SCRIPT_3D,) if niivue["js"] else ()) + SCRIPTS),
        )
    )


def write_page(folder: Path, out: Path, labels: tuple[str, str, str], settings: ReportSettings) -> None:
    """Write FILE.html, FILE.png and FILE_thumb.png for the series in `folder`; labels are (cohort, study, series)."""
    series = load_series(folder, labels, settings.solvers, settings.baselines, settings.samples)
    window = report_page.default_window(series)
    ranges = report_page.std_range(series), report_page.error_range(series), report_page.flag_range(series)
    montage = figures.montage(series, (window.low, window.high), *ranges)
    thumbnail = figures.thumbnail(series, (window.low, window.high), ranges[0])
    page = render_page(series, settings.max_mb, figures.as_jpeg(montage))
    _write_bytes(out.with_suffix(".png"), montage)
    _write_bytes(out.with_name(f"{out.stem}_thumb.png"), thumbnail)
    write_text(out, page)


def write_index(results: Path, out: Path) -> None:
    """Write the list of cohorts, studies and series under `results`, with what failed and why."""
    if not results.is_dir():
        raise InputError(f"{results} is not a folder: give the results folder of a run.")
    cohorts, failures = report_index.collect(results, out.parent)
    text = (
        _environment()
        .get_template("index.html.j2")
        .render(
            **_shared(),
            cohorts=cohorts,
            failures=failures,
            counts=report_index.counts(cohorts, failures),
            columns=report_metrics.index_columns(),
            script=_asset("index.js"),
            summary="summary.tsv" if (out.parent / "summary.tsv").is_file() else "",
        )
    )
    write_text(out, text)


def _niivue() -> dict[str, str]:
    """The vendored viewer's script, safe inside a script element, and its licences."""
    script = _asset("vendor/niivue/niivue.umd.js").replace("</script", "<\\/script")
    licence = _asset("vendor/niivue/LICENSE") + "\n" + _asset("vendor/niivue/THIRD_PARTY_LICENSES.txt")
    return {"js": script, "licence": licence}


def _shared() -> dict[str, str]:
    style = re.sub(r"\n\s*", "\n", _asset("style.css"))
    return {"policy": POLICY, "style": style, "mark": _asset("mark.svg").strip(), "version": _version()}


def _version() -> str:
    try:
        return metadata.version("sliceweave")
    except metadata.PackageNotFoundError:
        return re.search(r'^version = "(.+)"$', _project_file(), re.MULTILINE)[1]


def _project_file() -> str:
    return (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def _write_bytes(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline.report", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    page = commands.add_parser("page", help="write the page of one series")
    page.add_argument("--series-dir", type=Path, required=True, help="results/<cohort>/<study>/<series>")
    page.add_argument("--out", type=Path, required=True, help="page to write, .html")
    for name in ("cohort", "study", "series"):
        page.add_argument(f"--{name}", required=True)
    page.add_argument("--settings", default="{}", help='JSON object, e.g. {"max_mb": 40, "solvers": ["pam"]}')
    index = commands.add_parser("index", help="write the list of all series")
    index.add_argument("--results", type=Path, required=True, help="results folder")
    index.add_argument("--out", type=Path, required=True, help="page to write, .html")
    arguments = parser.parse_args(argv)
    if arguments.command == "index":
        write_index(arguments.results, arguments.out)
    else:
        labels = (arguments.cohort, arguments.study, arguments.series)
        write_page(arguments.series_dir, arguments.out, labels, settings_from(json_object(arguments.settings)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
