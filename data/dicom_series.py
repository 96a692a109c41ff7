"""From image planes to volumes: which planes belong together, in which order, and where they lie."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from data.dicom_frames import Frame
from data.dicom_pixels import same_pixels
from data.errors import InputError
from data.reasons import REASONS

MIN_SLICES = 4
MIN_REPEATS_IN_TIME = 5
TILT_COSINE = 0.999
# Positions are written with a decimal or two: 0.06 mm allows for that, a tenth of the spacing never hides a slice.
ROUNDING_MM = 0.06
# De-identifiers have given every slice its own frame of reference: it tells volumes apart only where it must.
SPLIT_BY = ("frame_of_reference", "acquisition", "temporal", "trigger", "diffusion")
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Group:
    """Planes that look like one volume. name: modality and a hash of the series UID, with a part number if split."""

    name: str
    modality: str
    frames: tuple[Frame, ...]


def group_frames(frames: list[Frame]) -> list[Group]:
    """Split by series, then by matrix, orientation, pixel size, image type and echo, then by acquisition or time."""
    by_series = defaultdict(list)
    for frame in frames:
        by_series[frame.series_uid].append(frame)
    groups = []
    for series_uid, members in sorted(by_series.items()):
        parts = [piece for part in _alike(members) for piece in _split(_without_copies(part))]
        stem = f"{members[0].modality}{sha256(series_uid.encode()).hexdigest()[:8]}"
        names = [stem] if len(parts) == 1 else [f"{stem}p{number + 1}" for number in range(len(parts))]
        groups += [Group(name, part[0].modality, tuple(part)) for name, part in zip(names, parts, strict=True)]
    return groups


def refuse_unusable(group: Group) -> None:
    """Raise InputError with a reason for planes that are no volume to reconstruct: localizers, phase, colour..."""
    first = group.frames[0]
    kinds = {part.upper() for part in first.image_type[2:]}
    if "LOCALIZER" in kinds:
        raise _error("localizer")
    if first.samples != 1:
        raise _error("not-scalar")
    if any(None in (frame.position, frame.orientation, frame.pixel_mm) for frame in group.frames):
        raise _error("no-geometry")
    if group.modality == "mr" and kinds & {"P", "PHASE", "PHASE MAP", "R", "REAL", "I", "IMAGINARY"}:
        raise _error("not-magnitude")
    if group.modality == "ct" and (first.slope is None or first.rescale_type.upper() not in ("", "HU")):
        raise _error("not-hu")
    if len(group.frames) < MIN_SLICES:
        raise _error("too-few-slices")


def arrange(frames: tuple[Frame, ...]) -> tuple[tuple[Frame, ...], np.ndarray]:
    """Planes in order along their normal, and the affine from (x=column y=row z=plane) to RAS mm.

    Raises InputError: "mixed" or "time-series" (a position twice), "tilt", "gap".
    """
    normal = _normal(frames)
    ordered = tuple(sorted(frames, key=lambda frame: float(np.dot(normal, frame.position))))
    positions = np.array([frame.position for frame in ordered])
    heights = positions @ normal
    repeats = Counter(np.round(heights, 2)).values()
    if max(repeats) > 1:
        timed = min(repeats) == max(repeats) >= MIN_REPEATS_IN_TIME
        raise _error("time-series" if timed else "mixed")
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    if np.dot(step, normal) < TILT_COSINE * np.linalg.norm(step):
        raise _error("tilt")
    if not _regular(positions, heights):
        raise _error("gap")
    row_mm, column_mm = ordered[0].pixel_mm
    affine = np.eye(4)
    affine[:3, 0] = np.array(ordered[0].orientation[:3]) * column_mm
    affine[:3, 1] = np.array(ordered[0].orientation[3:]) * row_mm
    affine[:3, 2] = step
    affine[:3, 3] = positions[0]
    return ordered, LPS_TO_RAS @ affine


def _error(reason: str) -> InputError:
    return InputError(REASONS[reason].text, reason)


def _normal(frames: tuple[Frame, ...]) -> np.ndarray:
    orientation = np.array(frames[0].orientation)
    normal = np.cross(orientation[:3], orientation[3:])
    length = np.linalg.norm(normal)
    if not abs(length - 1) < 0.01:
        raise _error("no-geometry")
    return normal / length


def _regular(positions: np.ndarray, heights: np.ndarray) -> bool:
    """Every plane within rounding of the straight, even line that fits them all."""
    index = np.arange(len(heights))
    spacing = (heights[-1] - heights[0]) / (len(heights) - 1)
    allowed = min(max(0.01 * spacing, ROUNDING_MM), 0.1 * spacing)
    if np.abs(heights - np.polyval(np.polyfit(index, heights, 1), index)).max() > allowed:
        return False
    line = np.stack([np.polyval(np.polyfit(index, positions[:, axis], 1), index) for axis in range(3)], axis=1)
    return bool(np.abs(positions - line).max() <= max(allowed, ROUNDING_MM))


def _alike(frames: list[Frame]) -> list[list[Frame]]:
    """Sort planes into lists with the same matrix, type, echo and, within tolerance, orientation and pixels."""
    lists: list[list[Frame]] = []
    for frame in sorted(frames, key=lambda frame: (str(frame.path), frame.index)):
        home = next((members for members in lists if _same_stack(members[0], frame)), None)
        if home is None:
            lists.append([frame])
        else:
            home.append(frame)
    return sorted(lists, key=lambda members: (-len(members), str(_exact(members[0]))))


def _exact(frame: Frame) -> tuple:
    tail = tuple(part.upper() for part in frame.image_type[2:])
    matrix = (frame.rows, frame.columns, frame.samples, frame.modality)
    return (*matrix, tail, frame.echo, frame.position is None)


def _same_stack(first: Frame, other: Frame) -> bool:
    if _exact(first) != _exact(other):
        return False
    for one, two, tolerance in (
        (first.orientation, other.orientation, 1e-3),
        (first.pixel_mm, other.pixel_mm, 1e-3 * max(first.pixel_mm or (1,))),
    ):
        if (one is None) != (two is None) or (one and not np.allclose(one, two, rtol=0, atol=tolerance)):
            return False
    return True


def _without_copies(frames: list[Frame]) -> list[Frame]:
    """Drop copies of another plane: the same SOP instance and frame, or the same place and the same encoded pixels."""
    distinct = list({(frame.sop_uid, frame.index): frame for frame in reversed(frames)}.values())[::-1]
    places = defaultdict(list)
    for number, frame in enumerate(distinct):
        places[frame.position or number].append(frame)
    if max(len(twins) for twins in places.values()) > 2:
        return distinct
    kept = []
    for twins in places.values():
        alone = len(twins) == 1 or any(frame.frames_in_file > 1 for frame in twins)
        kept += twins if alone or not same_pixels([frame.path for frame in twins]) else twins[:1]
    return kept


def _split(frames: list[Frame]) -> list[list[Frame]]:
    """One list if the planes make a volume, or by the first attribute that makes every part a volume; else as it is."""
    if len(frames) < MIN_SLICES or _makes_volume(frames):
        return [frames]
    for attribute in SPLIT_BY:
        parts = defaultdict(list)
        for frame in frames:
            parts[getattr(frame, attribute)].append(frame)
        few = 1 < len(parts) < MIN_REPEATS_IN_TIME
        if few and all(len(part) >= MIN_SLICES and _makes_volume(part) for part in parts.values()):
            return [parts[key] for key in sorted(parts)]
    return [frames]


def _makes_volume(frames: list[Frame]) -> bool:
    if any(None in (frame.position, frame.orientation, frame.pixel_mm) for frame in frames):
        return False
    try:
        arrange(tuple(frames))
    except InputError:
        return False
    return True
