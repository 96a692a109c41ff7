"""From image planes to a stack of even slices: their order, their place, and what is done about gaps and tilt.

Planes are ordered by their position along the normal, never by instance number. All geometry is DICOM's LPS, in mm,
until `Stack.affine`, which is RAS.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from data.dicom_frames import Frame
from data.errors import InputError
from data.reasons import REASONS
from data.volume import LPS_TO_RAS

MIN_SLICES = 4
MIN_REPEATS_IN_TIME = 5
TILT_COSINE = 0.999
# Positions are written with a decimal or two: 0.06 mm allows for that, a tenth of the spacing never hides a slice.
ROUNDING_MM = 0.06
# Slices are made up between two measured ones at most this often in a row, and at most this share of a volume.
MAX_INTERPOLATED_RUN = 3
MAX_INTERPOLATED_SHARE = 0.5


@dataclass(frozen=True)
class Policies:
    """What to do with series that are not one plain stack.

    on_gap: "fail", "split" at gaps, or "interpolate". on_tilt: "fail", or "resample" onto a straight stack. on_repeat:
    "split" slices measured many times into one series each, or "fail". max_repeats: more times than this are a series
    in time, which is left out.
    """

    on_gap: str = "fail"
    on_tilt: str = "fail"
    on_repeat: str = "split"
    max_repeats: int = 4


@dataclass(frozen=True)
class Stack:
    """Even slices made of measured planes.

    frames: the measured planes in order. blend: for each slice the two planes and the weight of the second; a measured
    slice has weight 0. offsets_mm: how far each plane lies off the straight stack, along its rows and its columns
    (planes 2), or None where nothing is resampled. affine: voxel (x y z) of the first plane's grid to RAS mm.
    """

    frames: tuple[Frame, ...]
    blend: tuple[tuple[int, int, float], ...]
    offsets_mm: np.ndarray | None
    affine: np.ndarray

    @property
    def interpolated(self) -> list[int]:
        """Slices that no plane measured."""
        return [z for z, (_, _, weight) in enumerate(self.blend) if weight]


def error(reason: str, detail: str = "") -> InputError:
    """The sentence of a reason, with a detail in brackets; the stage adds which series it is about."""
    text = REASONS[reason].text
    return InputError(f"{text} ({detail})" if detail else text, reason)


def arrange(frames: tuple[Frame, ...]) -> tuple[tuple[Frame, ...], np.ndarray]:
    """Planes in order along their normal, and the affine from (x=column y=row z=plane) to RAS mm.

    Raises InputError: "mixed", "repeat" or "time-series" (a position twice), "tilt", "gap", "scattered".
    """
    stack = build_stack(frames, Policies())
    return stack.frames, stack.affine


def build_stack(frames: tuple[Frame, ...], policies: Policies) -> Stack:
    """The stack that the policies allow. Raises InputError as `arrange` does, for what they do not."""
    if len(frames) < 2:
        raise error("too-few-slices")
    normal = normal_of(frames)
    ordered = tuple(sorted(frames, key=lambda frame: float(np.dot(normal, frame.position))))
    positions = np.array([frame.position for frame in ordered])
    heights = positions @ normal
    _refuse_repeats(heights, policies)
    slope_mm = _lean(positions, heights, normal)
    offsets_mm = None
    if 1 / np.sqrt(1 + slope_mm @ slope_mm) < TILT_COSINE:
        if policies.on_tilt != "resample":
            raise error("tilt", f"{np.degrees(np.arctan(np.linalg.norm(slope_mm))):.1f} degrees")
        lateral = positions - positions[0] - np.outer(heights - heights[0], normal)
        offsets_mm = lateral @ np.stack(axes_of(ordered[0]), axis=1)
        slope_mm = np.zeros(3)
    heights_even, blend = _even(heights, policies)
    step = (heights_even[-1] - heights_even[0]) / (len(heights_even) - 1) * (normal + slope_mm)
    return Stack(ordered, blend, offsets_mm, _affine(ordered[0], step))


def cut_at_gaps(frames: tuple[Frame, ...]) -> list[tuple[Frame, ...]]:
    """Runs of evenly spaced planes, in order; the usual distance is the median one."""
    normal = normal_of(frames)
    ordered = sorted(frames, key=lambda frame: float(np.dot(normal, frame.position)))
    heights = np.array([frame.position for frame in ordered]) @ normal
    runs, first = [], 0
    for last in range(2, len(ordered) + 1):
        if last == len(ordered) or (last - first >= 2 and not is_even(heights[first : last + 1])):
            runs.append(tuple(ordered[first:last]))
            first = last
    return _mended(runs, normal)


def _mended(runs: list[tuple[Frame, ...]], normal: np.ndarray) -> list[tuple[Frame, ...]]:
    """Give a run its first plane back where the run before it took it: two planes far apart are even by themselves."""
    mended: list[tuple[Frame, ...]] = []
    for run in runs:
        if mended and len(mended[-1]) == 2 and len(run) > 1:
            candidate = (mended[-1][1], *run)
            if is_even(np.array([frame.position for frame in candidate]) @ normal):
                mended[-1], run = mended[-1][:1], candidate
        mended.append(run)
    return mended


def normal_of(frames: tuple[Frame, ...]) -> np.ndarray:
    """Unit normal of the planes. Raises InputError "geometry" for an orientation that is none."""
    normal = np.cross(*axes_of(frames[0]))
    return normal / np.linalg.norm(normal)


def axes_of(frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors along the rows and along the columns; headers round theirs to four decimals."""
    row, column = np.array(frame.orientation[:3]), np.array(frame.orientation[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if not max(abs(length - 1) for length in lengths) < 0.01 or abs(row @ column) > 0.01:
        raise error("geometry", "rows and columns are no unit vectors at right angles")
    return row / lengths[0], column / lengths[1]


def is_even(heights: np.ndarray) -> bool:
    """Every plane within rounding of the even spacing that fits them all."""
    if len(heights) < 2:
        return True
    spacing = (heights[-1] - heights[0]) / (len(heights) - 1)
    return bool(_residual(np.arange(len(heights)), heights) <= _allowed(spacing))


def _allowed(spacing: float) -> float:
    return min(max(0.01 * spacing, ROUNDING_MM), 0.1 * spacing)


def _residual(along: np.ndarray, values: np.ndarray) -> float:
    return float(np.abs(values - np.polyval(np.polyfit(along, values, 1), along)).max())


def _refuse_repeats(heights: np.ndarray, policies: Policies) -> None:
    repeats = Counter(np.round(heights, 2)).values()
    if max(repeats) == 1:
        return
    if policies.on_repeat == "fail":
        raise error("repeat", f"up to {max(repeats)} times")
    if min(repeats) == max(repeats) >= min(MIN_REPEATS_IN_TIME, policies.max_repeats + 1):
        raise error("time-series", f"{max(repeats)} times; ingest.max_repeats is {policies.max_repeats}")
    raise error("mixed")


def _lean(positions: np.ndarray, heights: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """In-plane shift for each mm along the normal, LPS. Raises InputError "scattered" where it is not the same."""
    height = heights - heights[0]
    lateral = positions - positions[0] - np.outer(height, normal)
    spacing = height[-1] / (len(height) - 1)
    if max(_residual(height, lateral[:, axis]) for axis in range(3)) > max(_allowed(spacing), ROUNDING_MM):
        raise error("scattered")
    return lateral[-1] / height[-1]


def _even(heights: np.ndarray, policies: Policies) -> tuple[np.ndarray, tuple[tuple[int, int, float], ...]]:
    """(heights of even slices, which planes make each)."""
    planes = len(heights)
    if is_even(heights):
        return heights, tuple((z, z, 0.0) for z in range(planes))
    usual = float(np.median(np.diff(heights)))
    widest = int(np.argmax(np.abs(np.diff(heights) - usual)))
    found = f"{np.diff(heights)[widest]:.2f} mm after slice {widest + 1} of {planes}, usually {usual:.2f} mm"
    if policies.on_gap != "interpolate":
        raise error("gap", found)
    usual = _common_step(np.diff(heights), usual)
    count = round((heights[-1] - heights[0]) / usual) + 1
    even = heights[0] + (heights[-1] - heights[0]) / (count - 1) * np.arange(count)
    blend = tuple(_between(height, heights, _allowed(usual)) for height in even)
    made_up = np.array([weight > 0 for _, _, weight in blend])
    if made_up.mean() > MAX_INTERPOLATED_SHARE or _longest_run(made_up) > MAX_INTERPOLATED_RUN:
        raise error("gap", f"{found}; too much of the volume would be made up")
    return even, blend


def _common_step(distances: np.ndarray, usual: float) -> float:
    """The smallest distance if all are multiples of it, as where slices are missing; else the usual one."""
    smallest = float(distances.min())
    off = np.abs(distances - smallest * np.round(distances / smallest))
    return smallest if off.max() <= 2 * _allowed(smallest) else usual


def _between(height: float, heights: np.ndarray, allowed: float) -> tuple[int, int, float]:
    nearest = int(np.argmin(np.abs(heights - height)))
    if abs(heights[nearest] - height) <= allowed:
        return nearest, nearest, 0.0
    upper = int(np.clip(np.searchsorted(heights, height), 1, len(heights) - 1))
    return upper - 1, upper, float((height - heights[upper - 1]) / (heights[upper] - heights[upper - 1]))


def _longest_run(flags: np.ndarray) -> int:
    longest = run = 0
    for flag in flags:
        run = run + 1 if flag else 0
        longest = max(longest, run)
    return longest


def _affine(first: Frame, step: np.ndarray) -> np.ndarray:
    (row, column), (row_mm, column_mm) = axes_of(first), first.pixel_mm
    affine = np.eye(4)
    affine[:3, 0] = row * column_mm
    affine[:3, 1] = column * row_mm
    affine[:3, 2] = step
    affine[:3, 3] = first.position
    return LPS_TO_RAS @ affine
