"""What a reconstruction does to lesions: contrast, detection, false and missed structure, and whether a map warns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

from benchmarks.lesion_model import Lesion, auc, local_maxima, random_places
from benchmarks.lesion_places import CONTRASTS, DIAMETERS_MM, Phantom, Removal, has_room
from solvers.matched_filter import MatchedFilter, Spacing, ball, matched_filter, overlap

BACKGROUND_PLACES = 200


@dataclass(frozen=True)
class Blob:
    """A maximum of the matched filter: voxel (z y x), filter's diameter, signed response in the volume's units."""

    place: tuple[int, int, int]
    diameter_mm: float
    response: float


@dataclass(frozen=True, eq=False)
class Scene:
    """What all methods are judged against, on the reconstruction's grid: truths, tissues and lesions.

    phantom: `changed` and `original` are the truths of the two measurements. unit: contrast 1 in the volume's units.
    """

    phantom: Phantom
    masks: Mapping[str, np.ndarray]
    spacing_mm: Spacing
    unit: float
    seed: int

    @cached_property
    def filters(self) -> dict[float, MatchedFilter]:
        return {diameter: matched_filter(diameter, self.spacing_mm) for diameter in DIAMETERS_MM}

    def threshold(self, tissue: str) -> float:
        """Half the smallest contrast that is tested in the tissue: above it a response is called a structure."""
        return 0.5 * self.unit * min(abs(contrast) for contrast in CONTRASTS[tissue])

    def signs(self, tissue: str) -> tuple[int, ...]:
        return tuple(sorted({int(np.sign(contrast)) for contrast in CONTRASTS[tissue]}))

    def room(self, tissue: str) -> np.ndarray:
        """Where the smallest lesion fits: blobs are looked for here, so that no border of the tissue counts as one."""
        return has_room(self.masks[tissue], min(DIAMETERS_MM), self.spacing_mm)

    def responses(self, volume: np.ndarray) -> dict[float, np.ndarray]:
        return {diameter: f.amplitude(volume) for diameter, f in self.filters.items()}

    @cached_property
    def true_responses(self) -> dict[str, dict[float, np.ndarray]]:
        return {name: self.responses(getattr(self.phantom, name)) for name in ("changed", "original")}

    @cached_property
    def true_blobs(self) -> dict[tuple[str, int], list[Blob]]:
        """Structures of the changed truth by tissue and sign."""
        true = self.true_responses["changed"]
        return {(t, sign): blobs(self, true, t, sign) for t in self.masks for sign in self.signs(t)}

    @cached_property
    def background(self) -> dict[tuple[str, float], tuple[np.ndarray, ...]]:
        """Places without a lesion by tissue and diameter, the same for all methods."""
        return {(t, d): background_places(self, t, d, BACKGROUND_PLACES) for t in self.masks for d in DIAMETERS_MM}


def lesion_rows(scene: Scene, changed: np.ndarray, original: np.ndarray) -> list[dict[str, object]]:
    """One row an inserted lesion and a removed structure, for the reconstructions (z y x) of both measurements.

    recovery  difference of the filter's response between the two reconstructions over that between the two truths
    detection share of background places of the same tissue, in the reconstruction that holds the structure, where the
              filter responds less; averaged over lesions this is the area under the ROC curve
    cnr       response less the background's mean, over the background's standard deviation
    """
    pairs = {name: scene.responses(volume) for name, volume in (("changed", changed), ("original", original))}
    truths = scene.true_responses
    rows = []
    for item in (*scene.phantom.lesions, *scene.phantom.removals):
        inserted = isinstance(item, Lesion)
        diameter = min(DIAMETERS_MM, key=lambda d: abs(d - item.diameter_mm))
        holder, place, sign = "changed" if inserted else "original", item.centre, np.sign(item.contrast)
        true = truths["changed"][diameter][place] - truths["original"][diameter][place]
        found = pairs["changed"][diameter][place] - pairs["original"][diameter][place]
        background = sign * pairs[holder][diameter][scene.background[item.tissue, diameter]]
        here = sign * pairs[holder][diameter][place]
        spread = background.std(ddof=1) if background.size > 1 else np.nan
        rows.append(
            {
                "kind": "inserted" if inserted else "removed",
                "tissue": item.tissue,
                "diameter_mm": diameter,
                "contrast": relative_contrast(scene, item),
                "place": list(place),
                "recovery": float(found / true),
                "detection": auc(np.array([here]), background),
                "cnr": float((here - background.mean()) / spread) if background.size > 1 else float("nan"),
            }
        )
    return rows


def relative_contrast(scene: Scene, item: Lesion | Removal) -> float:
    """HU for CT, a share of the signal for MR."""
    given = item.relative if isinstance(item, Lesion) else None
    return round(item.contrast / scene.unit if given is None else given, 3)


def background_places(scene: Scene, tissue: str, diameter_mm: float, count: int) -> tuple[np.ndarray, ...]:
    """Indices of up to `count` places where a lesion of this size would fit and none is; empty where there is no
    room."""
    taken = [item.centre for item in (*scene.phantom.lesions, *scene.phantom.removals)]
    room = has_room(scene.masks[tissue], diameter_mm, scene.spacing_mm)
    free = np.ones(room.shape, bool)
    free[tuple(np.array(taken, dtype=int).reshape(-1, 3).T)] = False
    room &= ndimage.distance_transform_edt(free, sampling=scene.spacing_mm) > max(DIAMETERS_MM)
    generator = np.random.default_rng([scene.seed, round(10 * diameter_mm), len(tissue)])
    chosen = random_places(room, count, diameter_mm / 2, scene.spacing_mm, generator)
    return tuple(np.array(chosen, dtype=int).reshape(-1, 3).T)


def blobs(scene: Scene, responses: Mapping[float, np.ndarray], tissue: str, sign: int) -> list[Blob]:
    """Structures of the tested sizes, strongest first; one place is counted once, at the size that fits best."""
    threshold, room = scene.threshold(tissue), scene.room(tissue)
    found: list[Blob] = []
    for diameter, response in responses.items():
        for place in local_maxima(sign * response, threshold, room, diameter / 2, scene.spacing_mm):
            index = tuple(int(i) for i in place)
            found.append(Blob(index, diameter, float(response[index])))
    kept: list[Blob] = []
    for blob in sorted(found, key=lambda b: -abs(b.response)):
        steps = [np.subtract(blob.place, other.place) * scene.spacing_mm for other in kept]
        near = [np.linalg.norm(s) < max(blob.diameter_mm, o.diameter_mm) / 2 for s, o in zip(steps, kept)]
        if not any(near):
            kept.append(blob)
    return kept


def structures(scene: Scene, changed: np.ndarray) -> dict[str, dict[str, list[Blob]]]:
    """Of every tissue the blobs of a reconstruction of `changed`: "correct", "false", and "missed" ones of the truth.

    A blob is false (missed) where the truth (the reconstruction) does not respond with half the threshold within one
    radius and a pixel of it.
    """
    here, true = scene.responses(changed), scene.true_responses["changed"]
    out: dict[str, dict[str, list[Blob]]] = {}
    for tissue in scene.masks:
        sorted_blobs: dict[str, list[Blob]] = {"correct": [], "false": [], "missed": []}
        for sign in scene.signs(tissue):
            for blob in blobs(scene, here, tissue, sign):
                sorted_blobs["correct" if _responds(scene, true, blob, tissue, sign) else "false"].append(blob)
            for blob in scene.true_blobs[tissue, sign]:
                if not _responds(scene, here, blob, tissue, sign):
                    sorted_blobs["missed"].append(blob)
        out[tissue] = sorted_blobs
    return out


def _responds(scene: Scene, responses: Mapping[float, np.ndarray], blob: Blob, tissue: str, sign: int) -> bool:
    radius = blob.diameter_mm / 2 + scene.spacing_mm[2]
    around = within(responses[blob.diameter_mm], blob.place, radius, scene.spacing_mm)
    return bool((sign * around).max() > scene.threshold(tissue) / 2)


def within(volume: np.ndarray, place: Sequence[int], radius_mm: float, spacing_mm: Spacing) -> np.ndarray:
    """Values (n,) of the voxels within a radius of a place."""
    footprint = ball(radius_mm, spacing_mm)
    target, source = overlap(volume.shape, place, footprint.shape)
    return volume[target][footprint[source]]


def volume_cm3(mask: np.ndarray, spacing_mm: Spacing) -> float:
    return float(mask.sum() * np.prod(spacing_mm) / 1000)


Score = Callable[[Blob], float]


def empty_places(scene: Scene, changed: np.ndarray) -> dict[str, list[Blob]]:
    """Of every tissue the background places at which neither the reconstruction of `changed` nor the truth responds."""
    here, true = scene.responses(changed), scene.true_responses["changed"]
    out: dict[str, list[Blob]] = {}
    for tissue in scene.masks:
        limit, found = scene.threshold(tissue) / 2, []
        for diameter in DIAMETERS_MM:
            for place in zip(*scene.background[tissue, diameter]):
                index = tuple(int(i) for i in place)
                if max(abs(here[diameter][index]), abs(true[diameter][index])) < limit:
                    found.append(Blob(index, diameter, float(here[diameter][index])))
        out[tissue] = found
    return out


def warning_aucs(
    found: Mapping[str, Mapping[str, list[Blob]]], empty: Mapping[str, list[Blob]], score: Score
) -> dict[str, float]:
    """Whether a score is larger where the reconstruction is wrong.

    false: false structures against correct ones. missed: missed structures against places that are rightly empty.
    both: all wrong places against all right ones. alike: the same, pairs of one tissue and size alone, for small
    structures are wrong more often than large ones whatever a score says.
    """
    rows = [
        (kind, (tissue, blob.diameter_mm), score(blob))
        for tissue, by_kind in found.items()
        for kind, places in (*by_kind.items(), ("empty", empty[tissue]))
        for blob in places
    ]

    def values(*kinds: str, group: tuple[str, float] | None = None) -> np.ndarray:
        return np.array([value for kind, of, value in rows if kind in kinds and group in (None, of)])

    groups = sorted({group for _, group, _ in rows})
    pairs = [(values("false", "missed", group=g), values("correct", "empty", group=g)) for g in groups]
    pairs = [(wrong, right) for wrong, right in pairs if wrong.size and right.size]
    weights = [wrong.size * right.size for wrong, right in pairs]
    alike = np.average([auc(*pair) for pair in pairs], weights=weights) if pairs else np.nan
    return {
        "both": auc(values("false", "missed"), values("correct", "empty")),
        "false": auc(values("false"), values("correct")),
        "missed": auc(values("missed"), values("empty")),
        "alike": float(alike),
    }


def map_score(scene: Scene, volume: np.ndarray) -> Score:
    """Mean of a map (z y x) over the ball of a place; larger means more suspicious."""
    return lambda blob: float(within(volume, blob.place, blob.diameter_mm / 2, scene.spacing_mm).mean())


def sized_score(maps: Mapping[float, np.ndarray]) -> Score:
    """Value at a place of the map (z y x) that was made for structures of the place's diameter."""
    return lambda blob: float(maps[blob.diameter_mm][blob.place])
