"""Everything that a series page is made of, as plain values for its template and its viewer."""

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.report_budget import Packed, step_of, steps
from pipeline.report_series import ReportSeries
from pipeline.report_volumes import block_affine

CT_PRESETS = (
    ("Lung", -600, 1500), ("Soft", 40, 400), ("Bone", 400, 1800), ("Brain", 40, 80), ("Wide", 0, 2000),
)  # fmt: skip
BODY_FIELD_MM = 300.0
TRUNK_LENGTH_MM = 600.0
BODY_HU = -500.0
# Of the brightest: ghosts and noise in the air around.
FAINT_SHARE = 0.2


@dataclass(frozen=True)
class Window:
    """Display window in physical units: black at low, white at high."""

    name: str
    low: float
    high: float


def windows(series: ReportSeries) -> list[Window]:
    """Presets: lung, soft tissue, bone, brain and wide for CT; fits to the image, and one to faint signal, for MR."""
    if series.modality == "ct":
        return [Window(name, level - width / 2, level + width / 2) for name, level, width in CT_PRESETS]
    reference = (series.truth or series.get(series.shown)).array_zyx
    high, most = float(np.percentile(reference, 99.5)), float(reference.max())
    ends = {"Auto": nice(high), "Full range": nice(most), "Faint": nice(FAINT_SHARE * high)}
    return [Window(name, 0.0, end) for name, end in ends.items()]


def default_window(series: ReportSeries) -> Window:
    """Lung where a sixth of the field's middle is lung-like air (-950 to -500 HU), else soft tissue; Auto for MR."""
    choices = windows(series)
    if series.modality != "ct":
        return choices[0]
    array = series.get(series.shown).array_zyx
    _, y, x = array.shape
    middle = array[:, y // 4 : y - y // 4, x // 4 : x - x // 4]
    lung = np.mean((middle > -950) & (middle < -500))
    return choices[0] if lung > 1 / 6 else choices[1]


def nice(value: float) -> float:
    """The next number of 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8 times a power of ten, for the end of a colour bar."""
    if not value > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * power >= value * (1 - 1e-9))


def std_range(series: ReportSeries) -> float:
    """Upper end of the uncertainty colour bar: the 99.5th percentile, rounded up."""
    return nice(float(np.percentile(series.std.array_zyx, 99.5))) if series.std else 1.0


def error_range(series: ReportSeries) -> float:
    """Half the width of the error colour bar: the 99.5th percentile of the shown reconstruction's |error|.

    Without a truth, of its difference from the best baseline, which is what the wipe shows then.
    """
    other = series.truth or series.best_baseline
    if not other:
        return 1.0
    return nice(float(np.percentile(np.abs(series.get(series.shown).array_zyx - other.array_zyx), 99.5)))


def shows_3d(series: ReportSeries) -> bool:
    """Whether a 3D rendering may be offered: only for CT that is unlikely to hold a face.

    Head scans have a narrow field, scans of the whole body are long; neither qualifies.
    """
    z, y, x = (size * edge for size, edge in zip(series.shape_zyx, series.spacing_mm))
    trunk = min(y, x) >= BODY_FIELD_MM and z <= TRUNK_LENGTH_MM
    return series.modality == "ct" and trunk and series.shape_zyx[0] >= 8


def opening_panels(series: ReportSeries) -> list[str]:
    """What the columns show at first: baseline, reconstruction, uncertainty, support, error, as far as they are there.

    "error:<key>" is that image minus the truth.
    """
    panels = [series.best_baseline.key] if series.best_baseline else []
    panels.append(series.shown)
    panels += [series.std.key] if series.std else []
    panels += [image.key for image in series.by_role("share")[:1]]
    panels += [f"error:{series.shown}"] if series.truth else []
    return panels


def flag_range(series: ReportSeries) -> float:
    """Upper end of the flag's colour bar: its 99.5th percentile, rounded up."""
    flags = series.by_role("flag")
    return nice(float(np.percentile(flags[0].array_zyx, 99.5))) if flags else 1.0


def viewer_data(series: ReportSeries, packed: Packed) -> dict[str, Any]:
    """The viewer's JSON: grid, volumes without their voxels, windows and ranges."""
    factor = packed.factor
    z, y, x = (-(-size // voxels) for size, voxels in zip(series.shape_zyx, factor))
    psnr = {row["method"]: row["psnr_db"] for row in series.metrics if row["plane"] == "axial" and row["psnr_db"]}
    volumes = [
        {
            "key": image.key,
            "label": image.label,
            "role": image.role,
            "step": step_of(series, image.role),
            "note": f"{float(psnr[image.key]):.1f} dB" if image.key in psnr else "",
        }
        for image in series.images
        if image.key in packed.texts
    ]
    return {
        "modality": series.modality,
        "unit": series.unit,
        "shape_xyz": [x, y, z],
        "factor_xyz": list(factor[::-1]),
        "affine": block_affine(series.affine, factor).tolist(),
        "volumes": volumes,
        "shown": series.shown,
        "truth_name": series.truth_name,
        "interval": series.interval,
        "interval_factor": packed.interval_factor,
        "calibrated": bool(guarantee(series)),
        "std_ranks": std_ranks(series),
        "drawn": series.drawn,
        "windows": [vars(window) for window in windows(series)],
        "window": default_window(series).name,
        "surface_window": {"name": "3D", "low": 100.0, "high": 900.0},
        "ranges": ranges(series),
        "render_3d": shows_3d(series),
        "panels": opening_panels(series),
    }


def guarantee(series: ReportSeries) -> str:
    """What the calibrated interval of the read-out promises, in one sentence; empty where the page has none."""
    return str(series.conformal.get("sentence", "")) if series.by_role("calibrated") else ""


def ranges(series: ReportSeries) -> dict[str, float]:
    """Ends of the maps' colour bars."""
    return {"std": std_range(series), "error": error_range(series), "share": 100.0, "flag": flag_range(series)}


def std_ranks(series: ReportSeries) -> list[float]:
    """The std below which 5, 10, ..., 95 % of the body's voxels lie; empty without a std or a body.

    Body: above BODY_HU for CT, above a tenth of the 99.5th percentile for MR.
    """
    if not series.std:
        return []
    array = series.get(series.shown).array_zyx
    body = array > (BODY_HU if series.modality == "ct" else 0.1 * np.percentile(array, 99.5))
    inside = series.std.array_zyx[body]
    return [float(value) for value in np.percentile(inside, range(5, 100, 5))] if inside.size else []


def script_json(value: Any) -> str:
    """JSON that can stand inside a script element: no '<', '>' or '&'."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def facts(series: ReportSeries, factor: tuple[int, int, int]) -> list[str]:
    """Short facts for the page's head: modality, grid, voxel size, what was measured."""
    z, y, x = series.shape_zyx
    dz, dy, dx = series.spacing_mm
    result = [series.modality.upper(), f"{x} × {y} × {z}", f"{dx:.2f} × {dy:.2f} × {dz:.2f} mm"]
    measured = dict(series.provenance.get("Measurement", []))
    beam = measured.get("beam.type", "")
    result += [f"{kind} beam" for kind in ("fan", "cone") if beam.startswith(kind)]
    for name, words in (("settings.views", "{} views"), ("settings.acceleration", "{}-fold undersampled")):
        if name in measured and measured.get("source") != "measured":
            result.append(words.format(measured[name]))
    if series.measured:
        result.append("measured data")
    if series.truth is None or series.measured:
        result.append("no ground truth")
    if factor != (1, 1, 1):
        result.append("shown down-sampled")
    return result


def metrics_caption(series: ReportSeries) -> str:
    """What the table's figures refer to."""
    if series.truth is None:
        return "No ground truth: figures that need none. Green: best of its column."
    if series.measured:
        return (
            "No ground truth: compared with a reconstruction of all measured data, which has noise of its own. Green: "
            "best of its column and plane."
        )
    if series.modality == "ct":
        return "HU clipped to [−1000, 1000], data range 2000; RMSE and CRPS in HU. Green: best of its column and plane."
    return "Magnitudes over the truth's 99.5th percentile, data range 1. Green: best of its column and plane."


def shrunk_sentence(series: ReportSeries, packed: Packed) -> str:
    """What the page must say where it shows coarser voxels or fewer samples; empty where it does neither."""
    text = ""
    if packed.factor != (1, 1, 1):
        z, y, x = packed.factor
        text = (
            f"To keep this page small, each voxel shown is the mean of {x} × {y} × {z} voxels. Figures of merit were "
            "taken at full resolution, and the NIfTI files in results have it. "
        )
    if 0 < packed.samples < series.drawn:
        text += f"The first {packed.samples} of {series.drawn} samples are on this page; the maps are made from all."
    return text.strip()


def rounding_sentence(series: ReportSeries) -> str:
    """The step to which the page's voxel values are rounded."""
    image_step, spread_step = steps(series)
    text = f"images to {image_step:.3g} {series.unit}"
    return text + (f", uncertainty to {spread_step:.3g} {series.unit}" if series.std else "")
