"""ISMRMRD raw data (.h5): which acquisitions there are, and one volume of them as k-space.

Format: Inati et al., Magn Reson Med 77 (2017) 411. Read with h5py: a group of the file holds the XML header as `xml`
and the acquisitions as `data`, a compound of head, traj and data.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from data.errors import InputError
from data.hdf5 import check_stored
from data.ismrmrd_grid import Acquisitions, place_lines
from data.ismrmrd_readouts import gather_readouts
from data.kspace_common import KSpace, check_size, look_into, own_dataset, own_group, readable
from data.mr_header import MrHeader, read_header

MAX_ACQUISITIONS = 2**21
MAX_PARTS = 64
# Counters that tell volumes apart; the others (slice, average, segment, encoding steps) are inside one.
PART_COUNTERS = ("contrast", "phase", "repetition", "set")
COUNTERS = {*PART_COUNTERS, "kspace_encode_step_1", "kspace_encode_step_2", "slice"}
HEAD_FIELDS = {"idx", "flags", "number_of_samples", "active_channels", "discard_pre", "discard_post", "center_sample",
               "encoding_space_ref", "trajectory_dimensions", "sample_time_us", "position", "slice_dir"}  # fmt: skip
NOISE, CALIBRATION, REVERSE = 19, 20, 22
# Flags of acquisitions that are no image data, by what the manifest calls them.
OTHERS = {
    23: "navigator",
    24: "phase-correction",
    26: "feedback",
    27: "dummy",
    28: "feedback",
    29: "surface-coil-correction",
    30: "phase-stabilisation",
    31: "phase-stabilisation",
}


def is_ismrmrd(path: Path) -> bool:
    """Whether an HDF5 file has the layout; never raises."""
    return look_into(path, lambda handle: _group_name(handle) is not None, False)


def ismrmrd_parts(path: Path) -> tuple[str, ...]:
    """Names of the volumes in a file, such as "contrast1-repetition0"; ("",) for one volume or a damaged file."""
    return look_into(path, lambda handle: tuple(_parts(path, _heads(path, _group(path, handle)))), ("",))


def read_ismrmrd(path: Path, part: str = "") -> KSpace:
    """One volume of the file; `part` is one of ismrmrd_parts.

    Raises InputError: truncated, undecodable (header), shape, too-large, gap, tilt, mixed, trajectory, no-samples.
    """
    with readable(path), h5py.File(path, "r") as handle:
        group = _group(path, handle)
        header = read_header(path, own_dataset(group, "xml"))
        heads = _heads(path, group)
        parts = _parts(path, heads)
        if part not in parts:
            raise InputError(f"{path} holds {', '.join(parts)}: name one of them.", "mixed")
        flags = heads["flags"]
        kept = parts[part]
        kept = kept[heads["encoding_space_ref"][kept] == heads["encoding_space_ref"][kept][0]]
        _check_channels(path, heads[kept])
        image = _read(path, group, heads, kept)
        noise = _noise(path, group, heads, np.flatnonzero(_has(flags, NOISE)), image, header)
        alone = _of_volume(heads, np.flatnonzero(_has(flags, CALIBRATION) & ~_not_image(flags)), kept[0])
        calibration = _read(path, group, heads, alone) if len(alone) else None
    warnings = _warnings(flags, heads, header, noise)
    if header.trajectory in ("cartesian", "epi"):
        kspace = place_lines(path, header, image, calibration)
    else:
        kspace = gather_readouts(path, header, image)
    return replace(kspace, noise=noise, warnings=(*warnings, *kspace.warnings))


def _group_name(handle: h5py.File) -> str | None:
    names = [name for name in handle if (group := own_group(handle, name)) is not None and _is_dataset(group)]
    return "dataset" if "dataset" in names else next(iter(names), None)


def _is_dataset(group: h5py.Group) -> bool:
    acquisitions = own_dataset(group, "data")
    named = acquisitions is not None and acquisitions.dtype.names is not None
    if not named or not {"head", "data"} <= set(acquisitions.dtype.names) or own_dataset(group, "xml") is None:
        return False
    head = acquisitions.dtype["head"]
    return set(head.names or ()) >= HEAD_FIELDS and set(head["idx"].names or ()) >= COUNTERS


def _group(path: Path, handle: h5py.File) -> h5py.Group:
    name = _group_name(handle)
    if name is None:
        raise InputError(f"{path} has no ISMRMRD group of its own with xml and data: export it again.", "undecodable")
    return handle[name]


def _heads(path: Path, group: h5py.Group) -> np.ndarray:
    source = own_dataset(group, "data")
    if source.ndim != 1 or not 0 < source.size <= MAX_ACQUISITIONS:
        raise InputError(f"{path} holds no acquisitions or more than {MAX_ACQUISITIONS}: cut it up.", "too-large")
    check_stored(path, source)
    return source.fields("head")[:]


def _has(flags: np.ndarray, flag: int) -> np.ndarray:
    """Flags are counted from 1."""
    return (flags >> np.uint64(flag - 1)) & np.uint64(1) == 1


def _not_image(flags: np.ndarray) -> np.ndarray:
    return np.any([_has(flags, flag) for flag in (NOISE, *OTHERS)], axis=0)


def _parts(path: Path, heads: np.ndarray) -> dict[str, np.ndarray]:
    """Indices of the image acquisitions of each volume, by its name."""
    flags = heads["flags"]
    image = np.flatnonzero(~_not_image(flags) & ~_has(flags, CALIBRATION))
    if not len(image):
        raise InputError(f"{path} holds no image acquisitions: export the image data too.", "no-samples")
    counters = np.stack([heads["idx"][name][image] for name in PART_COUNTERS], axis=1)
    values, which = np.unique(counters, axis=0, return_inverse=True)
    if len(values) > MAX_PARTS:
        raise InputError(f"{path} holds {len(values)} volumes in time or contrast: export fewer.", "time-series")
    varying = [column for column in range(len(PART_COUNTERS)) if len(set(values[:, column].tolist())) > 1]
    return {
        "-".join(f"{PART_COUNTERS[column]}{row[column]}" for column in varying): image[which.ravel() == index]
        for index, row in enumerate(values)
    }


def _of_volume(heads: np.ndarray, indices: np.ndarray, like: int) -> np.ndarray:
    """Of these acquisitions those with the channels and encoding of acquisition `like`, and its contrast if any has."""
    same = heads["active_channels"][indices] == heads["active_channels"][like]
    indices = indices[same & (heads["encoding_space_ref"][indices] == heads["encoding_space_ref"][like])]
    for name in PART_COUNTERS:
        equal = heads["idx"][name][indices] == heads["idx"][name][like]
        indices = indices[equal] if equal.any() else indices
    return indices


def _check_channels(path: Path, heads: np.ndarray) -> None:
    channels = np.unique(heads["active_channels"])
    if len(channels) != 1 or channels[0] == 0:
        raise InputError(f"{path} has acquisitions of different numbers of coils: export them alike.", "mixed")
    check_size(path, int(heads["number_of_samples"].astype(np.int64).sum()) * int(channels[0]))


def _read(path: Path, group: h5py.Group, heads: np.ndarray, indices: np.ndarray) -> Acquisitions:
    """The acquisitions of the indices, in their order of time, without the samples to discard, readouts forward."""
    source = own_dataset(group, "data")
    lines, paths = [], []
    for first in range(0, len(indices), 1024):
        for record, head in zip(source[np.sort(indices)[first : first + 1024]], heads[np.sort(indices)][first:]):
            line, traj = _line(path, record, head)
            lines.append(line)
            paths.append(traj)
    return Acquisitions(heads[np.sort(indices)], lines, paths)


def _line(path: Path, record: np.void, head: np.void) -> tuple[np.ndarray, np.ndarray]:
    samples, channels = int(head["number_of_samples"]), int(head["active_channels"])
    dimensions = int(head["trajectory_dimensions"])
    values = np.asarray(record["data"], np.float32)
    traj = np.asarray(record["traj"], np.float32) if dimensions else np.zeros(0, np.float32)
    if values.size != 2 * samples * channels or traj.size != samples * dimensions:
        raise InputError(f"{path} has an acquisition that is shorter than its head says: copy it again.", "truncated")
    keep = slice(int(head["discard_pre"]), samples - int(head["discard_post"]))
    line = values.view(np.complex64).reshape(channels, samples)[:, keep]
    traj = traj.reshape(samples, dimensions)[keep]
    back = -1 if _has(head["flags"], REVERSE) else 1
    return line[:, ::back], traj[::back]


def _noise(
    path: Path, group: h5py.Group, heads: np.ndarray, indices: np.ndarray, image: Acquisitions, header: MrHeader
) -> np.ndarray | None:
    """Noise samples (coils n) as strong as the noise in the data, whose bandwidth may be another.

    Noise variance is proportional to the bandwidth, one over the dwell time.
    """
    indices = indices[heads["active_channels"][indices] == image.heads["active_channels"][0]]
    if not len(indices):
        return None
    scan = _read(path, group, heads, indices)
    dwell, own = float(image.heads["sample_time_us"][0]), float(scan.heads["sample_time_us"][0])
    ratio = own / dwell if dwell > 0 and own > 0 else 1.0
    return np.concatenate(scan.lines, axis=1) * np.float32(np.sqrt(ratio / header.noise_bandwidth))


def _warnings(flags: np.ndarray, heads: np.ndarray, header: MrHeader, noise: np.ndarray | None) -> list[str]:
    counts = Counter(name for flag, name in OTHERS.items() for _ in range(int(_has(flags, flag).sum())))
    said = [f"{count} {name} acquisitions were left out" for name, count in counts.items()]
    if _has(flags, NOISE).any() and noise is None:
        said.append("the noise scan has another number of coils and was left out")
    if header.trajectory == "epi" or _has(flags, REVERSE).any():
        said.append("readouts go both ways: they were put in one direction without phase correction")
    if len(np.unique(heads["encoding_space_ref"][~_not_image(flags)])) > 1:
        said.append("the data have several encodings; only the first was taken")
    return said
