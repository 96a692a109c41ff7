"""The page's section on whether the stated uncertainty can be believed: sentences with a light, and small charts."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.report_evidence import Evidence
from pipeline.report_series import ReportSeries

GOOD, CARE, BAD, UNKNOWN = "good", "care", "bad", "unknown"
SIGNS = {GOOD: "✓", CARE: "!", BAD: "✕", UNKNOWN: "?"}
SHORT = {
    "What the prior was trained for": "Prior", "Fit to the data": "Fit", "Prediction of unseen data": "Unseen data",
    "Dependence on the prior": "Two priors", "Intervals against the truth": "Intervals",
    "Regions against the truth": "Regions", "Calibrated interval": "Calibrated",
}  # fmt: skip
WORDS = {GOOD: "As it should be", CARE: "Look twice", BAD: "Do not rely on it", UNKNOWN: "Not known"}
# (inside: as it should be, inside: look twice), outside both: not to be relied on.
CHI2_LIMITS = ((0.6, 1.4), (0.4, 2.0))
RATIO_LIMITS = ((0.67, 1.5), (0.33, 3.0))
COVERAGE_LIMITS = ((0.85, 0.95), (0.75, 0.99))
# Above this share of noise in the predicted variance the held-out data cannot judge the samples.
MOST_NOISE = 0.9
# Share of the worst hundredth in the squared score, above which one place is wrong rather than all a little.
LOCAL_SHARE = 0.4
FEW_SAMPLES = 8
FEW_NOTE = " With few samples the surest voxels are so by chance: the left end is above the line even if all is right."
PLOT = {"left": 44.0, "right": 8.0, "top": 8.0, "bottom": 36.0, "width": 280.0, "height": 200.0}


@dataclass(frozen=True)
class Verdict:
    """A light (good, care, bad, unknown), what was checked, and what it means in plain words."""

    light: str
    title: str
    sentence: str

    @property
    def word(self) -> str:
        return WORDS[self.light]

    @property
    def sign(self) -> str:
        """A character that tells the light without its colour."""
        return SIGNS[self.light]

    @property
    def short(self) -> str:
        """One or two words for a row of lights."""
        return SHORT.get(self.title, self.title)


@dataclass(frozen=True)
class Chart:
    """A small line chart in SVG units: ticks are (place, text), lines (class, points), dots (x, y, text on hover)."""

    title: str
    caption: str
    x_label: str
    y_label: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    lines: list[tuple[str, str]]
    dots: list[tuple[float, float, str]]


def light(value: float, limits: tuple[tuple[float, float], tuple[float, float]]) -> str:
    """Good inside the first pair of limits, care inside the second, else bad; unknown for nan."""
    if math.isnan(value):
        return UNKNOWN
    for name, (low, high) in zip((GOOD, CARE), limits):
        if low <= value <= high:
            return name
    return BAD


def verdicts(series: ReportSeries | Evidence) -> list[Verdict]:
    """Checks without truth first, then those with truth, then what a calibration cohort promises."""
    found = [_alarm(series.alarm), _residual(series.checks), _heldout(series.checks), _priors(series.checks)]
    found += [_coverage(series.curves, bool(series.conformal)), _blocks(series.curves)]
    if sentence := series.conformal.get("sentence"):
        found.append(Verdict(GOOD, "Calibrated interval", str(sentence)))
    return [verdict for verdict in found if verdict]


def _alarm(alarm: dict[str, Any]) -> Verdict | None:
    if "verdict" not in alarm:
        return None
    state = {"in": GOOD, "unsure": CARE, "out": BAD}.get(alarm["verdict"], UNKNOWN)
    return Verdict(state, "What the prior was trained for", str(alarm.get("sentence", "")))


def _residual(checks: dict[str, Any]) -> Verdict | None:
    values = [float(value) for value in checks.get("chi2") or []]
    if not values:
        return None
    chi2 = sum(values) / len(values)
    state = light(chi2, CHI2_LIMITS)
    if state == GOOD:
        text = "The samples explain the measured data as closely as their noise allows"
    elif chi2 > 1:
        text = "The samples miss the measured data by more than noise: the prior overrules the scanner, or the noise "
        text += "or the model of the scanner is wrong"
    else:
        text = (
            "The samples follow the measured data more closely than their noise allows: noise is drawn as structure, "
        )
        text += "or the stated noise is too large"
    return Verdict(state, "Fit to the data", f"{text} (residual χ² {chi2:.2f}, 1 is expected).")


def _heldout(checks: dict[str, Any]) -> Verdict | None:
    if "heldout" not in checks:
        return None
    title, heldout = "Prediction of unseen data", checks["heldout"]
    if not heldout:
        return Verdict(UNKNOWN, title, "No view or k-space line was kept from the reconstruction, so nothing tests it.")
    z2, cover, noise = float(heldout["z2"]), float(heldout["coverage90"]), float(heldout["noise_share"])
    figures = f"(z² {z2:.2f}, 1 is right; their 90 % intervals hold {100 * cover:.0f} % of these data)"
    state = light(z2, RATIO_LIMITS)
    if state == GOOD and float(heldout.get("worst_share", 0)) > LOCAL_SHARE:
        state = CARE
        text = (
            "Data that the reconstruction did not see are predicted as well as the samples state, but for a few: one "
        )
        text += f"place, often the table or the edge of the body, is wrong {figures}."
    elif state != GOOD and z2 > 1:
        text = (
            "Data that the reconstruction did not see lie farther from the samples' prediction than they state: take "
        )
        text += f"the uncertainty for too small {figures}."
    elif noise > MOST_NOISE:
        state = UNKNOWN if state == GOOD else state
        text = f"Data that the reconstruction did not see are mostly noise and cannot judge the samples {figures}."
    elif state == GOOD:
        text = "The samples predict data that the reconstruction did not see, to within what they and the noise allow "
        text += f"{figures}."
    else:
        text = "Data that the reconstruction did not see are predicted better than the samples state: the uncertainty "
        text += f"is too large {figures}."
    return Verdict(state, title, text)


def _priors(checks: dict[str, Any]) -> Verdict | None:
    share = checks.get("epistemic_share")
    if share is None:
        return None
    state = GOOD if share < 0.25 else CARE if share < 0.5 else BAD
    text = f"Two priors differ by {100 * share:.0f} % of the total variance"
    text += {
        GOOD: ": what is shown hardly depends on which of them was used.",
        CARE: ": part of what is shown depends on which of them was used; see their map.",
        BAD: ": what is shown depends on which of them was used, more than the samples admit.",
    }[state]
    return Verdict(state, "Dependence on the prior", text)


def _coverage(curves: dict[str, Any], calibrated: bool) -> Verdict | None:
    """Of the samples' intervals, not of those that a calibration made."""
    cover = _number(curves.get("coverage", {}).get("0.9"))
    if cover is None:
        return None
    state = light(cover, COVERAGE_LIMITS)
    whose = "the samples' own" if calibrated else "their"
    meaning = "as stated" if state == GOOD else "too few" if cover < 0.9 else "more than stated: the intervals are wide"
    return Verdict(
        state,
        "Intervals against the truth",
        f"{100 * cover:.1f} % of the voxels lie in {whose} 90 % interval, {meaning}.",
    )


def _blocks(curves: dict[str, Any]) -> Verdict | None:
    cover = {side: _block_cover(block, "0.9") for side, block in curves.get("blocks", {}).items()}
    known = {side: value for side, value in cover.items() if value is not None}
    if not known:
        return None
    worst = min(known, key=lambda side: (-abs(known[side] - 0.9), side))
    state = light(known[worst], COVERAGE_LIMITS)
    text = (
        f"Means over cubes of {worst} voxels a side lie in their 90 % interval {100 * known[worst]:.0f} % of the time, "
    )
    if state == GOOD:
        text += "so regions can be judged like single voxels."
    elif known[worst] < 0.9:
        text += "less than stated: do not average the uncertainty over a region, it will look too sure."
    else:
        text += "more than stated: the uncertainty of a region's mean is less than the samples say."
    return Verdict(state, "Regions against the truth", text)


def charts(series: ReportSeries) -> list[Chart]:
    """Coverage, calibration and block coverage, as far as there is a truth to draw them from."""
    if not series.curves:
        return []
    return list(filter(None, (_coverage_chart(series), _calibration_chart(series), _block_chart(series))))


def _scale(low: float, high: float, start: float, end: float, log: bool = False) -> Callable[[float], float]:
    """A map from values to SVG units, linear or logarithmic."""
    f = math.log10 if log else float
    a, b = f(low), f(high)
    return lambda value: start + (f(value) - a) / ((b - a) or 1.0) * (end - start)


def _axes(x: tuple[float, float], y: tuple[float, float], log: bool = False) -> tuple[Callable, Callable]:
    right, bottom = PLOT["width"] - PLOT["right"], PLOT["height"] - PLOT["bottom"]
    return _scale(*x, PLOT["left"], right, log), _scale(*y, bottom, PLOT["top"], log)


def _points(pairs: list[tuple[float, float]], at: tuple[Callable, Callable]) -> str:
    return " ".join(f"{at[0](x):.1f},{at[1](y):.1f}" for x, y in pairs)


def _percents(values: Sequence[float], axis: Callable[[float], float]) -> list[tuple[float, str]]:
    return [(axis(value), f"{100 * value:.0f} %") for value in values]


def _coverage_chart(series: ReportSeries) -> Chart | None:
    cover = sorted((float(k), v) for k, v in series.curves.get("coverage", {}).items() if v is not None)
    if not cover:
        return None
    at = _axes((0.4, 1.0), (0.0, 1.0))
    return Chart(
        "Coverage",
        "Share of voxels inside their interval, by the probability that the interval claims. Below the dashed line: "
        "too sure.",
        "claimed",
        "found",
        _percents([p for p, _ in cover if p != 0.9], at[0]),
        _percents((0, 0.25, 0.5, 0.75, 1), at[1]),
        [("ideal", _points([(0.4, 0.4), (1, 1)], at)), ("curve", _points(cover, at))],
        [(at[0](p), at[1](v), f"{100 * p:.0f} % interval: {100 * v:.1f} % of voxels") for p, v in cover],
    )


def _calibration_chart(series: ReportSeries) -> Chart | None:
    curve = series.curves.get("calibration") or {}
    unit = "HU" if series.modality == "ct" else "of the brightest"
    pairs = [(p, a) for p, a in zip(curve.get("predicted", []), curve.get("actual", [])) if p and a and min(p, a) > 0]
    if len(pairs) < 2:
        return None
    low, high = 0.8 * min(map(min, pairs)), 1.25 * max(map(max, pairs))
    at = _axes((low, high), (low, high), log=True)
    uce = _number(curve.get("uce")) or 0.0
    few = FEW_NOTE if series.curves.get("samples", FEW_SAMPLES) < FEW_SAMPLES else ""
    return Chart(
        "Calibration",
        "Error found against error predicted, each dot a twentieth of the voxels, from sure to unsure. Above the "
        f"dashed line: too sure. Mean distance from it (UCE): {uce:.3g} {unit}.{few}",
        f"predicted, {unit}",
        "found",
        [(at[0](v), f"{v:g}") for v in _decades(low, high)],
        [(at[1](v), f"{v:g}") for v in _decades(low, high)],
        [("ideal", _points([(low, low), (high, high)], at)), ("curve", _points(pairs, at))],
        [(at[0](p), at[1](a), f"predicted {p:.3g}, found {a:.3g} {unit}") for p, a in pairs],
    )


def _block_chart(series: ReportSeries) -> Chart | None:
    levels = ("0.5", "0.8", "0.9", "0.95")
    table = {1: {level: _number(series.curves.get("coverage", {}).get(level)) for level in levels}}
    for side, block in series.curves.get("blocks", {}).items():
        table[int(side)] = {level: _block_cover(block, level) for level in levels}
    at = _axes((0.8, 10.0), (0.8, 10.0), log=True)[0], _axes((0.0, 1.0), (0.0, 1.0))[1]
    lines, dots = [], []
    for level in levels:
        pairs = [(float(side), row[level]) for side, row in sorted(table.items()) if row[level] is not None]
        lines.append(("ideal", _points([(0.8, float(level)), (10.0, float(level))], at)))
        lines.append(("curve", _points(pairs, at)))
        dots += [(at[0](s), at[1](v), f"cubes of {s:g}: {100 * v:.1f} % in the {level} interval") for s, v in pairs]
    if len(table) < 2 or not dots:
        return None
    return Chart(
        "Coverage of regions",
        "The same for means over cubes of 1, 2, 4 and 8 voxels a side, at 50, 80, 90 and 95 %. A curve that falls to "
        "the right: errors hang together more than the samples show.",
        "voxels a side",
        "found",
        [(at[0](side), str(side)) for side in sorted(table)],
        _percents((0, 0.5, 0.8, 0.95), at[1]),
        lines,
        dots,
    )


def _decades(low: float, high: float) -> Iterator[float]:
    """1, 3 times powers of ten between two positive numbers."""
    for exponent in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        for step in (1.0, 3.0):
            value = step * 10.0**exponent
            if low <= value <= high:
                yield value


def _block_cover(block: dict[str, Any], level: str) -> float | None:
    return _number(block.get("coverage", {}).get(level)) if block.get("blocks") else None


def _number(value: Any) -> float | None:
    """A finite number, or None."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
