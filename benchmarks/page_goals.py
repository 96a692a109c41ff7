"""What the bench must show, and how far it is from it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench_results import CHIEF, Row, TaskResults, mean, paired

Found = dict[str, TaskResults]


@dataclass(frozen=True)
class Line:
    """One row of the table of goals. missed: by how much, zero or less where reached, null where not measured or
    told on a page of its own."""

    goal: str
    figure: str
    reached: str
    missed: float | None
    unit: str = "dB"

    @property
    def verdict(self) -> str:
        if self.missed is None:
            return "on that page" if self.reached else "not measured"
        return "reached" if self.missed <= 0 else f"missed by {self.missed:.2f} {self.unit}".rstrip()


def goal_lines(found: Found, curves: Found, docs: Path) -> Iterator[Line]:
    """All goals in order."""
    yield _against(found, "ct30", "tv", 4.5, "axial")
    yield _against(found, "ct30", "tv", 5.5, "sagittal")
    yield _against(found, "ct8", "tv", 4.0, "axial")
    yield _against(found, "ct_la90", "tv", 2.0, "axial")
    for task in ("ct30", "mr4"):
        yield _equal_calls(found, task)
        yield from _quarter(curves, task)
    yield _against(found, "mr4", "wavelet", 3.0, "axial")
    yield _against(found, "mr8", "wavelet", 3.0, "axial")
    yield _within(found, "raw 90 % coverage", "coverage90", (0.88, 0.92))
    yield _within(found, "calibration ratio", "calibration_ratio", (0.9, 1.1))
    yield _z_jump(found)
    for page, goal in (
        ("conformal", "conformal 90 % at or above .90, width at most 1.3 oracle"),
        ("lesions", "lesion test at 8 views: no more invented than TV; flag AUC .85"),
    ):
        there = f"see [{page}.md]({page}.md)" if (docs / f"{page}.md").is_file() else ""
        yield Line(goal, "", there, None)


def _against(found: Found, task: str, rival: str, goal: float, plane: str) -> Line:
    """Our gain over one classical method."""
    name = f"{task}: against tuned {'3D ' if rival == 'tv' else ''}{rival}, {plane}"
    results = found.get(task)
    other = results and results.best(results.of(methods=[rival]), plane)
    ours = results and results.ours(plane)
    found_gain = _gain(ours, other, plane) if other and ours else None
    if not found_gain:
        return Line(name, f"+{goal:g} dB", "", None)
    gain, text = found_gain
    source = other.results[0].record["tuned_on"]
    searched = "" if source == task else f", {rival} as searched on {source or 'nothing: defaults'}"
    return Line(name, f"+{goal:g} dB", f"{text} ({ours.label}{searched})", goal - gain)


def _gain(ours: Row, other: Row, plane: str) -> tuple[float, str] | None:
    """(mean gain in PSNR over the seeds that both have, "+1.00 dB" and the range of several seeds), or null."""
    gains = list(paired(ours, other, "psnr_db", plane).values())
    if not gains:
        return None
    between = f", {min(gains):+.2f} to {max(gains):+.2f} over {len(gains)} seeds" if len(gains) > 1 else ""
    return mean(gains), f"{mean(gains):+.2f} dB{between}"


def _equal_calls(found: Found, task: str) -> Line:
    """Our gain over the best chief rival among estimates of the same number of network calls, the smallest of them."""
    name, goal = f"{task}: against the best of {', '.join(CHIEF)} at equal network calls", 2.0
    results = found.get(task)
    gains = []
    for ours in results.of(kinds=["ours"], estimates=["point", "mean"]) if results else []:
        calls = ours.figure("network_calls")
        equal = [row for row in results.of(methods=CHIEF) if row.figure("network_calls") == calls]
        rival = results.best(equal)
        found_gain = _gain(ours, rival, "axial") if rival else None
        if found_gain:
            gain, text = found_gain
            gains.append((gain, f"{text} ({ours.label} against {rival.label}, {calls:.0f} calls)"))
    if not gains:
        return Line(name, f"+{goal:g} dB", "", None)
    return Line(name, f"+{goal:g} dB", "; ".join(text for _, text in gains), goal - min(gains)[0])


def _quarter(curves: Found, task: str) -> Iterator[Line]:
    """Our point estimate against the best chief rival with four times the network calls, from the curves."""
    name, results = f"{task}: equal PSNR at a quarter of the network calls", curves.get(task)
    levels = sorted({_levels(row.method) for row in results.of(kinds=["ours"])}) if results else []
    pairs = [few for few in levels if any(_levels(row.method) == 4 * few for row in results.of(kinds=["rival"]))]
    if not pairs:
        yield Line(name, "0 dB or more", "", None)
    for few in pairs:
        ours = results.best([row for row in results.of(kinds=["ours"]) if _levels(row.method) == few])
        rivals = results.of(methods=[f"{chief}-{4 * few}" for chief in CHIEF])
        rival = results.best(rivals)
        if ours and rival:
            gain = ours.figure("psnr_db", "axial") - rival.figure("psnr_db", "axial")
            yield Line(name, "0 dB or more", f"{gain:+.2f} dB ({few} calls against {rival.method})", -gain)


def _within(found: Found, name: str, figure: str, limits: tuple[float, float]) -> Line:
    """A figure of our samples' spread: every task counts."""
    values = {t: row.spread(figure) for t, r in found.items() for row in r.of(methods=["pam"], estimates=["mean"])}
    return _in_range(f"{name}, every task", values, limits)


def _z_jump(found: Found) -> Line:
    values = {t: row.figure("z_jump") for t, r in found.items() for row in r.of(methods=["pam"], estimates=["sample"])}
    return _in_range("z-jump of one sample, every task", values, (0.95, 1.05))


def _in_range(name: str, values: dict[str, float | None], limits: tuple[float, float]) -> Line:
    """The mean with the range; missed by the worst task's distance."""
    known = {task: value for task, value in values.items() if value is not None}
    wanted = f"{limits[0]:g} to {limits[1]:g}"
    if not known:
        return Line(name, wanted, "", None)
    low, high = min(known, key=known.get), max(known, key=known.get)
    inside = sum(limits[0] <= value <= limits[1] for value in known.values())
    reached = f"mean {mean(known.values()):.3f}; {known[low]:.3f} ({low}) to {known[high]:.3f} ({high}); "
    reached += f"{inside} of {len(known)} tasks within"
    return Line(name, wanted, reached, max(limits[0] - known[low], known[high] - limits[1], 0.0), unit="")


def _levels(method: str) -> int:
    return int(method.rpartition("-")[2])
