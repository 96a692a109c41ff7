"""Coil sensitivities of measured k-space: from its fully sampled centre, a centre that is filled in, or readouts."""

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.errors import InputError
from operators.coils import estimate_sensitivities, estimate_sets, folded_share
from operators.fourier import fft2
from operators.low_rank import complete_kspace
from operators.noncartesian_mri import NonCartesianMri
from pipeline import kspace as ks
from solvers.conjugate_gradient import conjugate_gradient

MIN_CALIBRATION = 6
# Side of the centre that is filled in where it was not sampled whole, and the share of it that must be there.
COMPLETED_SIDE, LEAST_SHARE = 32, 0.3
# Share of the pixels with signal from which on a second set of maps is advised.
FOLDED = 0.03
# Half the side of the centre of k-space that readouts are gridded to, and of the matrix that is used for it.
READOUT_HALF, READOUT_MATRIX = 12, 48
READOUT_ITERATIONS, READOUT_RIDGE = 10, 1e-3
# Area of k-space, in cells of the grid, up to which a sample counts as dense.
DENSE = 1.2


def cartesian_maps(
    kspace: np.ndarray, mask: np.ndarray, separate: np.ndarray | None, how: str, sets: int, name: str
) -> tuple[Tensor, list[str]]:
    """(maps (z coils y x), or (z sets coils y x) for two sets; what the log says).

    separate: calibration k-space measured beside the data, which is taken where there is one. how: auto, region (the
    fully sampled centre, or InputError) or completed (the centre filled in by low rank).
    """
    source, region, said = _calibration(kspace, mask, separate, how, name)
    data = torch.from_numpy(source)
    try:
        if sets > 1:
            return estimate_sets(data, region, sets), [*said, f"{sets} sets of maps"]
        share = folded_share(data, region)
        maps = estimate_sensitivities(data, region)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error
    if share > FOLDED:
        said.append(
            f"warning: {100 * share:.0f} % of the image needs a second set of maps: the object is larger than the "
            "field of view; set measure.maps to 2"
        )
    return maps, said


def _calibration(
    kspace: np.ndarray, mask: np.ndarray, separate: np.ndarray | None, how: str, name: str
) -> tuple[np.ndarray, tuple[slice, slice], list[str]]:
    """(k-space, its fully sampled region, log)."""
    if separate is not None:
        region = ks.find_calibration(ks.sampling_mask(separate))
        if _side(region) >= MIN_CALIBRATION:
            return separate, region, ["coil sensitivities from separate calibration lines"]
    region = ks.find_calibration(mask)
    height, width = (part.stop - part.start for part in region)
    if how != "completed" and _side(region) >= MIN_CALIBRATION:
        return kspace, region, [f"coil sensitivities from the central {height} x {width} samples"]
    if how == "region":
        raise InputError(
            f"{name}: the fully sampled centre of k-space has {height} by {width} samples, too few to estimate coil "
            f"sensitivities from; measure at least {MIN_CALIBRATION} by {MIN_CALIBRATION}, or set measure.calibration "
            "to auto."
        )
    return *_completed(kspace, mask, name), ["warning: " + COMPLETED]


COMPLETED = (
    "the centre of k-space was not sampled whole: it was filled in by low rank before coil sensitivities were "
    "estimated; they may be wrong where gaps are regular or most samples are missing"
)


def _completed(kspace: np.ndarray, mask: np.ndarray, name: str) -> tuple[np.ndarray, tuple[slice, slice]]:
    """K-space whose centre is filled in, zero elsewhere, and the centre."""
    sides = [min(size, COMPLETED_SIDE) for size in kspace.shape[2:]]
    region = tuple(
        slice(size // 2 - side // 2, size // 2 - side // 2 + side)
        for size, side in zip(kspace.shape[2:], sides, strict=True)
    )
    masks = np.broadcast_to(mask if mask.ndim == 3 else mask[None], (len(kspace), *mask.shape[-2:]))[:, *region]
    if masks.mean() < LEAST_SHARE or is_lattice(masks[0]):
        why = "every so many lines" if is_lattice(masks[0]) else f"{100 * masks.mean():.0f} %"
        raise InputError(
            f"{name}: of the centre of k-space only {why} was measured, too few to estimate coil sensitivities from; "
            "measure its centre whole or add calibration lines."
        )
    out = np.zeros_like(kspace)
    for z in tqdm(range(len(kspace)), desc="calibration", unit="slice", disable=len(kspace) < 4):
        filled = complete_kspace(torch.from_numpy(kspace[z][:, *region].copy()), torch.from_numpy(masks[z].copy()))
        out[z][:, *region] = filled.numpy()
    return out, region


def is_lattice(mask: np.ndarray) -> bool:
    """Whether gaps repeat along an axis: the sampled places are whole lines at one distance larger than one."""
    for axis in (0, 1):
        lines = mask.any(axis=1 - axis)
        places = np.flatnonzero(lines)
        whole = (mask == np.expand_dims(lines, 1 - axis)).all()
        if whole and len(places) > 1 and len(set(np.diff(places))) == 1 and places[1] - places[0] > 1:
            return True
    return False


def _side(region: tuple[slice, slice]) -> int:
    return min(part.stop - part.start for part in region)


def readout_maps(
    samples: np.ndarray, trajectory: np.ndarray, density: np.ndarray, shape_yx: tuple[int, int], name: str
) -> tuple[Tensor, list[str]]:
    """(maps (z coils y x), log) from the centre that readouts sample densely enough.

    samples (z coils n), trajectory (n 2) or (z n 2), density (n) or (z n), the area of each sample. Each coil's centre
    is gridded on a small matrix of the same field of view by conjugate gradients on density-weighted samples.
    """
    out = np.zeros((*samples.shape[:2], *shape_yx), np.complex64)
    half = min(READOUT_HALF, *(size // 2 for size in shape_yx))
    for z in range(len(samples)):
        path, area = (array[z] if array.ndim == full else array for array, full in ((trajectory, 3), (density, 2)))
        half = min(half, dense_radius(path, area))
    if 2 * half < MIN_CALIBRATION:
        raise InputError(
            f"{name}: readouts sample the centre of k-space too thinly to estimate coil sensitivities; measure more."
        )
    matrix = tuple(min(READOUT_MATRIX, size) for size in shape_yx)
    for z in tqdm(range(len(samples)), desc="coil sensitivities", unit="slice", disable=len(samples) < 4):
        path, area = (array[z] if array.ndim == full else array for array, full in ((trajectory, 3), (density, 2)))
        centre = _gridded_centre(samples[z], path, area, matrix, half)
        rows, columns = (slice(size // 2 - half, size // 2 + half) for size in shape_yx)
        out[z][:, rows, columns] = centre
    region = tuple(slice(size // 2 - half, size // 2 + half) for size in shape_yx)
    try:
        return estimate_sensitivities(torch.from_numpy(out), region), [
            f"coil sensitivities from the central {2 * half} x {2 * half} samples, gridded from the readouts"
        ]
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error


def dense_radius(path: np.ndarray, area: np.ndarray) -> int:
    """Largest whole radius within which no sample stands for more than one cell of the grid."""
    radius = np.linalg.norm(path, axis=1)
    thin = radius[area > DENSE]
    limit = float(thin.min()) if len(thin) else float(radius.max())
    return int(limit)


def _gridded_centre(
    samples: np.ndarray, path: np.ndarray, area: np.ndarray, matrix: tuple[int, int], half: int
) -> np.ndarray:
    """K-space (coils 2*half 2*half) of one slice (coils n)."""
    limits = np.array(matrix) / 2
    inside = (np.abs(path) <= limits).all(axis=1)
    one = torch.ones((len(samples), 1, *matrix), dtype=torch.complex64)
    operator = NonCartesianMri(torch.from_numpy(path[inside]), one, torch.from_numpy(area[inside]))
    y = torch.from_numpy(samples[:, None, inside] * np.sqrt(area[inside])).to(torch.complex64)
    apply = operator.normal(torch.ones((1, 1, 1)))
    start = torch.zeros((len(samples), *matrix), dtype=torch.complex64)
    images = conjugate_gradient(
        lambda x: apply(x) + READOUT_RIDGE * x, operator.adjoint(y), start, READOUT_ITERATIONS, 1e-4
    )
    rows, columns = (slice(size // 2 - half, size // 2 + half) for size in matrix)
    return fft2(images)[:, rows, columns].numpy()
