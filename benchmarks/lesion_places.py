"""Where lesions go, and which real structures come out: tissue masks and seeded places in a volume (z y x)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_multiotsu

from benchmarks.lesion_model import Lesion, distance_inside, insert, random_places, remove
from pipeline.evaluate import patient_mask
from solvers.matched_filter import Spacing

DIAMETERS_MM = (4.0, 6.0, 8.0, 12.0)
# Contrasts by tissue: HU for CT, shares of the local signal for MR.
CONTRASTS = {"lung": (400.0, 800.0), "soft": (-40.0, 40.0), "white": (-0.3, -0.15, 0.15)}
TISSUES = {"ct": ("lung", "soft"), "mr": ("white",)}
# What two lesions' centres are apart beyond the diameter of the smaller one.
APART_MM = {"lung": 12.0, "soft": 12.0, "white": 7.0}
MARGIN_MM = 2.0
# Millimetres over which MR's local signal is averaged.
LOCAL_MM = 6.0
SHELL_MM = 4.0
REMOVED_MM = (3.0, 12.0)
REMOVED_HU = -500.0
AIRWAY_HU = -970.0


@dataclass(frozen=True)
class Removal:
    """A real structure that is taken out: its middle voxel (z y x), equivalent diameter and contrast to its shell."""

    centre: tuple[int, int, int]
    diameter_mm: float
    contrast: float
    tissue: str


@dataclass(frozen=True, eq=False)
class Phantom:
    """A volume with lesions in and structures out (`changed`), beside the volume as it was."""

    original: np.ndarray
    changed: np.ndarray
    lesions: tuple[Lesion, ...]
    removals: tuple[Removal, ...]


def tissue_masks(volume: np.ndarray, modality: str, spacing_mm: Spacing) -> dict[str, np.ndarray]:
    """Flags (z y x) of the tissues lesions are put into; CT: HU. A tissue that is not there has an empty mask."""
    body = patient_mask(volume, modality)
    if modality == "mr":
        smooth = ndimage.gaussian_filter(volume, (0, 1, 1))
        bright = threshold_multiotsu(smooth[body], classes=3)[1] if np.ptp(smooth[body]) > 0 else np.inf
        return {"white": _opened((smooth > bright) & body)}
    inside = ndimage.binary_erosion(body, _disc(2.0)[None])
    lung = _opened(volume < -500) & inside
    lung = np.stack([ndimage.binary_closing(plane, _disc(REMOVED_MM[1] / 2 / spacing_mm[2])) for plane in lung])
    # The trachea and large bronchi hold air alone.
    lung &= ~_opened(ndimage.gaussian_filter(volume, (0, 1, 1)) < AIRWAY_HU, 3.0) & inside
    smooth = ndimage.gaussian_filter(volume, (0, 1.5, 1.5))
    soft = _opened(body & (smooth > -20) & (smooth < 130)) & ~lung
    return {"lung": lung, "soft": soft}


def make_phantom(
    volume: np.ndarray,
    modality: str,
    spacing_mm: Spacing,
    of_each: int,
    removals: int,
    generator: np.random.Generator,
) -> Phantom:
    """Lesions of every size and contrast, `of_each` a kind where there is room, and up to `removals` structures out."""
    masks = tissue_masks(volume, modality, spacing_mm)
    out = find_removals(volume, masks["lung"], spacing_mm, removals, generator) if modality == "ct" else []
    changed = volume
    removed: list[Removal] = []
    for structure in out:
        removed.append(describe(volume, structure, spacing_mm))
        changed = remove(changed, structure, spacing_mm, SHELL_MM)
    lesions: list[Lesion] = []
    # Large lesions first: they have fewer places.
    for diameter in sorted(DIAMETERS_MM, reverse=True):
        for tissue in TISSUES[modality]:
            signal = np.ones(volume.shape) if modality == "ct" else local_signal(volume, masks[tissue], spacing_mm)
            room = has_room(masks[tissue], diameter, spacing_mm)
            apart = APART_MM[tissue] + diameter
            for contrast in CONTRASTS[tissue]:
                taken = [item.centre for item in [*lesions, *removed]]
                places = random_places(room, of_each, apart, spacing_mm, generator, taken)
                lesions += [Lesion(p, diameter, contrast * float(signal[p]), tissue, contrast) for p in places]
    return Phantom(volume, insert(changed, lesions, spacing_mm), tuple(lesions), tuple(removed))


def local_signal(volume: np.ndarray, mask: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    """Mean (z y x) of the tissue's voxels about every voxel, weighted by a Gaussian of LOCAL_MM."""
    widths = [LOCAL_MM / step for step in spacing_mm]
    weight = ndimage.gaussian_filter(mask.astype(np.float64), widths)
    return ndimage.gaussian_filter(volume * mask.astype(np.float64), widths) / np.maximum(weight, 1e-9)


def contrast_unit(volume: np.ndarray, masks: Mapping[str, np.ndarray], modality: str) -> float:
    """Contrast 1 in the volume's units: 1 HU for CT, the median signal of the tissue for MR."""
    inside = masks.get("white", np.zeros(volume.shape, bool))
    return float(np.median(volume[inside])) if modality == "mr" and inside.any() else 1.0


def has_room(mask: np.ndarray, diameter_mm: float, spacing_mm: Spacing) -> np.ndarray:
    """Voxels whose distance to the tissue's border exceeds the radius and a margin; the end slices are left out."""
    room = distance_inside(mask, spacing_mm) > diameter_mm / 2 + MARGIN_MM
    if len(room) >= 3:
        room[[0, -1]] = False
    return room


def find_removals(
    volume: np.ndarray, lung: np.ndarray, spacing_mm: Spacing, count: int, generator: np.random.Generator
) -> list[np.ndarray]:
    """Flags (z y x) of up to `count` small dense structures that lie free in the lung, chosen at random."""
    dense = lung & (volume > REMOVED_HU)
    deep = distance_inside(lung, spacing_mm) > 2 * spacing_mm[2]
    labels, _ = ndimage.label(dense, np.ones((3, 3, 3)))
    found = []
    for index, box in enumerate(ndimage.find_objects(labels), start=1):
        sides = [(part.stop - part.start) * step for part, step in zip(box, spacing_mm)]
        at_end = box[0].start == 0 or box[0].stop == len(volume)
        structure = labels == index
        size = equivalent_diameter(structure, spacing_mm)
        if at_end or max(sides) > REMOVED_MM[1] or size < REMOVED_MM[0] or not deep[structure].all():
            continue
        found.append(structure)
    order = generator.permutation(len(found))[:count]
    return [found[i] for i in order]


def describe(volume: np.ndarray, structure: np.ndarray, spacing_mm: Spacing) -> Removal:
    """Where a structure lies, how large it is and how much it differs from the shell about it."""
    middle = np.rint(ndimage.center_of_mass(structure)).astype(int)
    away = ndimage.distance_transform_edt(~structure, sampling=spacing_mm)
    shell = (away > spacing_mm[2]) & (away <= SHELL_MM)
    contrast = float(volume[structure].mean() - np.median(volume[shell]))
    centre = (int(middle[0]), int(middle[1]), int(middle[2]))
    return Removal(centre, equivalent_diameter(structure, spacing_mm), contrast, "lung")


def equivalent_diameter(structure: np.ndarray, spacing_mm: Spacing) -> float:
    """Diameter in mm of the ball of the same volume."""
    return float((6 / np.pi * structure.sum() * np.prod(spacing_mm)) ** (1 / 3))


def _opened(mask: np.ndarray, radius: float = 2.0) -> np.ndarray:
    """Without what is narrower than a disc of that many pixels, slice by slice."""
    return np.stack([ndimage.binary_opening(plane, _disc(radius)) for plane in mask])


def _disc(radius: float) -> np.ndarray:
    half = max(1, int(np.ceil(radius)))
    y, x = np.ogrid[-half : half + 1, -half : half + 1]
    return y**2 + x**2 <= radius**2 + 0.5
