"""The file that carries a measurement from `measure` to every later stage: measurement.safetensors.

Tensors, CT: line_integrals (z views bins), or (views rows columns) of a cone beam, without unit; weights, same shape,
the inverse variance of each;
heldout_line_integrals and heldout_weights of the views in the header's heldout_beam, kept from the reconstruction.
Tensors, MR: mask (y x) or (z y x); samples (z coils n), the k-space at the n true places of a (y x) mask, or kspace
(z coils y x) for a mask that changes with z; sensitivities (z coils y x); heldout_mask with heldout_samples or
heldout_kspace: measured, but kept from the reconstruction.
Both: start (z y x), the classical reconstruction that samplers start from (CT: HU/1000; MR: complex, as measured).
The header key "sliceweave" holds a JSON object: modality, affine, spacing_mm (z y x), shape_zyx, source,
noise, settings, operator_norm.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from data.atomic import atomic_path
from data.errors import InputError

FILE_NAME = "measurement.safetensors"
HEADER_KEY = "sliceweave"


@dataclass(frozen=True)
class Measurement:
    """Tensors as numpy arrays and the JSON metadata, as the module's docstring lists them."""

    tensors: dict[str, np.ndarray]
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def modality(self) -> str:
        return self.metadata["modality"]

    @property
    def affine(self) -> np.ndarray:
        """4x4, from (x y z) indices of the working grid to RAS mm."""
        return np.asarray(self.metadata["affine"], dtype=np.float64)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        z, y, x = self.metadata["spacing_mm"]
        return float(z), float(y), float(x)

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        z, y, x = self.metadata["shape_zyx"]
        return int(z), int(y), int(x)


def write_tensors(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, Any]) -> None:
    """Write a safetensors file whole or not at all, the metadata as JSON in its header."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(contiguous, temporary, metadata={HEADER_KEY: json.dumps(metadata, sort_keys=True)})


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors and metadata of such a file; InputError where it is missing, damaged or without its metadata."""
    metadata = read_metadata(path)
    with safe_open(path, framework="numpy") as handle:
        return {name: handle.get_tensor(name) for name in handle.keys()}, metadata  # noqa: SIM118


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata of such a file alone, without its tensors."""
    try:
        with safe_open(path, framework="numpy") as handle:
            return json.loads((handle.metadata() or {})[HEADER_KEY])
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; run the stage that writes it first.") from error
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise InputError(f"{path}: not a readable {path.stem} file; delete it and run its stage again.") from error


def write_measurement(directory: Path, measurement: Measurement) -> None:
    write_tensors(directory / FILE_NAME, measurement.tensors, measurement.metadata)


def read_measurement(directory: Path) -> Measurement:
    """Read DIR/measurement.safetensors; InputError names the file when it is missing or damaged."""
    return Measurement(*read_tensors(directory / FILE_NAME))


def file_digest(path: Path) -> str:
    """SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def pack_kspace(kspace: np.ndarray, mask: np.ndarray, prefix: str = "") -> dict[str, np.ndarray]:
    """Tensors for k-space (z coils y x) on a mask (y x) or (z y x): only the samples where one mask serves all."""
    tensors = {f"{prefix}mask": mask.astype(bool)}
    if mask.ndim == 2:
        return tensors | {f"{prefix}samples": kspace[:, :, mask].astype(np.complex64)}
    return tensors | {f"{prefix}kspace": np.where(mask[:, None], kspace, 0).astype(np.complex64)}


def unpack_kspace(tensors: dict[str, np.ndarray], prefix: str = "") -> tuple[np.ndarray, np.ndarray]:
    """(k-space (z coils y x), a new array, zero off the mask; mask (y x) or (z y x)) from pack_kspace's tensors."""
    mask = tensors[f"{prefix}mask"]
    if mask.ndim == 3:
        return tensors[f"{prefix}kspace"].copy(), mask
    samples = tensors[f"{prefix}samples"]
    kspace = np.zeros((*samples.shape[:2], *mask.shape), samples.dtype)
    kspace[:, :, mask] = samples
    return kspace, mask
