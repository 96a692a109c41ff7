"""Which image planes belong to one volume: by series, then by what a stack has in common, then by what repeats."""

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np

from data.dicom_frames import MARKS, Frame
from data.dicom_pixels import HOUNSFIELD_UNIT, same_pixels
from data.dicom_stack import MIN_SLICES, Policies, arrange, build_stack, cut_at_gaps, error
from data.errors import InputError

__all__ = ["Group", "Policies", "arrange", "build_stack", "group_frames", "refuse_unusable"]

COLOUR = ("PALETTE COLOR", "RGB", "YBR", "ARGB", "HSV", "CMYK")
MAPS = {"ADC", "FA", "TRACEW", "MIP", "MINIP", "MPR_MIP", "PROJECTION IMAGE", "MIP_SAG", "CBF", "CBV", "MTT", "TTP"}
MAPS |= {"T1 MAP", "T2 MAP", "T2_STAR_MAP", "T1MAP", "T2MAP", "TSTAT", "EADC"}
# What tells planes of one place apart, tried in this order; de-identifiers have given every slice a frame of reference
# of its own, and scanners count acquisitions within a volume, so none of it splits what is one volume already.
SPLIT_BY = tuple(name for name in MARKS if not name.startswith("echo"))


@dataclass(frozen=True)
class Group:
    """Planes that look like one volume. name: modality and a hash of the series UID, with a part number if split.

    notes: what was done to the series, in words for the manifest.
    """

    name: str
    modality: str
    frames: tuple[Frame, ...]
    notes: tuple[str, ...] = ()


def group_frames(frames: list[Frame], policies: Policies | None = None) -> list[Group]:
    """Split by series, by matrix, orientation, pixel size, image type and component, then by echo and what repeats."""
    policies = policies or Policies()
    by_series = defaultdict(list)
    for frame in frames:
        by_series[frame.series_uid].append(frame)
    groups = []
    for series_uid, members in sorted(by_series.items()):
        parts = [piece for part in _alike(members) for piece in _pieces(part, policies)]
        stem = f"{members[0].modality}{sha256(series_uid.encode()).hexdigest()[:8]}"
        names = [stem] if len(parts) == 1 else [f"{stem}p{number + 1}" for number in range(len(parts))]
        groups += [replace(part, name=name) for name, part in zip(names, parts, strict=True)]
    return groups


def refuse_unusable(group: Group) -> None:
    """Raise InputError with a reason for planes that are no volume to reconstruct: localizers, phase, colour..."""
    first = group.frames[0]
    kinds = set(first.image_type[2:])
    if first.samples != 1 or first.photometric.upper().startswith(COLOUR):
        raise error("colour")
    if "LOCALIZER" in kinds:
        raise error("localizer")
    if "MOSAIC" in kinds:
        raise error("mosaic")
    if kinds & MAPS:
        raise error("derived-map", ", ".join(sorted(kinds & MAPS)))
    if any(None in (frame.position, frame.orientation, frame.pixel_mm) for frame in group.frames):
        raise error("no-geometry")
    if any(frame.lookup for frame in group.frames):
        raise error("lookup-table")
    if group.modality == "mr" and first.component not in ("", "magnitude"):
        raise error("not-magnitude", first.component)
    if group.modality == "ct" and not all(_is_hu(frame) for frame in group.frames):
        raise error("not-hu")
    if len(group.frames) < MIN_SLICES:
        raise error("too-few-slices", f"{len(group.frames)}")


def _is_hu(frame: Frame) -> bool:
    if frame.slope is None:
        return frame.mapping is not None and frame.mapping[2] == HOUNSFIELD_UNIT
    return frame.rescale_type.upper() in ("", "HU")


def _pieces(part: list[Frame], policies: Policies) -> list[Group]:
    """The groups that one list of alike planes makes; named later."""
    distinct = _without_copies(part)
    copies = len(part) - len(distinct)
    shared = (f"copies of other slices left out: {copies}",) if copies else ()
    pieces = []
    told = [
        (frames, (*echo, *attributes))
        for part, echo in _by_echo(distinct, policies)
        for frames, attributes in _split(part, policies)
    ]
    for frames, attributes in told:
        notes = (*shared, f"told apart by {' and '.join(attributes)}") if attributes else shared
        runs = _runs(frames, policies)
        for run in runs:
            cut = (f"cut at gaps into {len(runs)} parts",) if len(runs) > 1 else ()
            pieces.append(Group("", run[0].modality, tuple(run), (*notes, *cut)))
    return pieces


def _runs(frames: list[Frame], policies: Policies) -> list[tuple[Frame, ...]]:
    if policies.on_gap != "split" or len(frames) < MIN_SLICES or _reason(frames, policies) != "gap":
        return [tuple(frames)]
    return cut_at_gaps(tuple(frames))


def _alike(frames: list[Frame]) -> list[list[Frame]]:
    """Sort planes into lists with the same matrix, type and, within tolerance, orientation and pixels."""
    lists: dict[tuple, list[list[Frame]]] = defaultdict(list)
    for frame in sorted(frames, key=lambda frame: (str(frame.path), frame.index)):
        candidates = lists[_exact(frame)]
        home = next((members for members in candidates if _same_plane(members[0], frame)), None)
        if home is None:
            candidates.append([frame])
        else:
            home.append(frame)
    every = [(key, members) for key, candidates in lists.items() for members in candidates]
    return [members for key, members in sorted(every, key=lambda item: (-len(item[1]), str(item[0])))]


def _exact(frame: Frame) -> tuple:
    matrix = (frame.rows, frame.columns, frame.samples, frame.photometric, frame.modality)
    return (*matrix, frame.image_type[2:], frame.component, frame.position is None)


def _same_plane(first: Frame, other: Frame) -> bool:
    for one, two, tolerance in (
        (first.orientation, other.orientation, 1e-3),
        (first.pixel_mm, other.pixel_mm, 1e-3 * max(first.pixel_mm or (1,))),
    ):
        if (one is None) != (two is None):
            return False
        if one and max(abs(a - b) for a, b in zip(one, two)) > tolerance:
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


def _by_echo(frames: list[Frame], policies: Policies) -> list[tuple[list[Frame], tuple[str, ...]]]:
    """(planes of one echo, what told it apart). Echo times that differ from slice to slice split nothing."""
    repeats = _most_repeats(frames)
    if repeats > 1 and policies.on_repeat == "split":
        for attribute in ("echo", "echo time"):
            parts = _parts(frames, (attribute,))
            if max(map(_most_repeats, parts)) < repeats and min(map(len, parts)) >= MIN_SLICES:
                return [(part, (attribute,)) for part in parts]
    return [(frames, ())]


def _split(frames: list[Frame], policies: Policies) -> list[tuple[list[Frame], tuple[str, ...]]]:
    """(planes, attributes that told them apart): one entry where they make a volume or where nothing helps."""
    whole = [(frames, ())]
    if len(frames) < MIN_SLICES or _reason(frames, policies) not in ("mixed", "time-series", "gap", "scattered"):
        return whole
    repeats = _most_repeats(frames)
    for attribute in SPLIT_BY:
        parts = _parts(frames, (attribute,))
        if len(parts) > 1 and all(len(part) >= MIN_SLICES and not _reason(part, policies) for part in parts):
            many = repeats > 1 and len(parts) > policies.max_repeats
            return whole if many else [(part, (attribute,)) for part in parts]
    if not 1 < repeats <= policies.max_repeats:
        return whole
    attributes: tuple[str, ...] = ()
    for attribute in SPLIT_BY:
        parts = _parts(frames, (*attributes, attribute))
        left = max(_most_repeats(part) for part in parts)
        if left < repeats and min(map(len, parts)) >= MIN_SLICES:
            attributes, repeats = (*attributes, attribute), left
    return [(part, attributes) for part in _parts(frames, attributes)] if repeats == 1 else whole


def _parts(frames: list[Frame], attributes: tuple[str, ...]) -> list[list[Frame]]:
    parts = defaultdict(list)
    for frame in frames:
        parts[tuple(frame.marks[attribute] for attribute in attributes)].append(frame)
    return [parts[key] for key in sorted(parts, key=_as_numbers)]


def _as_numbers(key: tuple[str, ...]) -> tuple:
    """Order "10" after "9"."""
    return tuple((0, float(text), "") if text.replace(".", "", 1).isdigit() else (1, 0.0, text) for text in key)


def _most_repeats(frames: list[Frame]) -> int:
    if any(frame.position is None for frame in frames):
        return 1
    return max(Counter(tuple(np.round(frame.position, 2)) for frame in frames).values())


def _reason(frames: list[Frame], policies: Policies) -> str:
    """Why planes make no volume as they are, "" if they make one. Gaps count, whatever is done about them."""
    if any(None in (frame.position, frame.orientation, frame.pixel_mm) for frame in frames):
        return "no-geometry"
    try:
        build_stack(tuple(frames), replace(policies, on_gap="fail", on_tilt="resample"))
    except InputError as refused:
        return refused.reason
    return ""
