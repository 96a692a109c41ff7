"""Trains a slice prior from a folder of clean NIfTI volumes.

    python -m pipeline.train --volumes FOLDER --out FOLDER --settings JSON

CT volumes are in HU and become u = HU/1000 clipped to [-1, 2]. MR volumes are magnitudes in scanner units, divided by
their 99.5th percentile. Volumes that are isotropic to 30 % are used in all three planes when the modality is MR.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import nibabel
import numpy as np
from tqdm import tqdm

from data.errors import InputError
from models.release import Provenance, release
from models.training import TrainingSettings, TrainingState, train
from models.volumes import CropSettings, TrainingVolume
from pipeline.cli import main_wrapper

SIGMA_DATA = {"ct": 0.5, "mr": 0.25}


def read_training_volume(path: Path, modality: str) -> TrainingVolume:
    """One NIfTI volume as axial slices (z y x) in prior units, float16."""
    try:
        image = nibabel.as_closest_canonical(nibabel.load(path))
        array = np.asarray(image.dataobj, dtype=np.float32)
    except (OSError, EOFError, nibabel.filebasedimages.ImageFileError) as error:
        raise InputError(f"{path} cannot be read as NIfTI; remove it from the training folder or repair it.") from error
    if array.ndim != 3 or not np.isfinite(array).all() or array.min() == array.max():
        raise InputError(f"{path} is no 3D volume of finite, varying values; remove it from the training folder.")
    if modality == "ct":
        array = np.clip(array / 1000, -1, 2)
    else:
        array = np.clip(array / np.percentile(array, 99.5), 0, 2)
    spacing = tuple(float(s) for s in image.header.get_zooms()[:3][::-1])
    return TrainingVolume(path.name.removesuffix(".nii.gz"), array.transpose(2, 1, 0).astype(np.float16), spacing)


def planes(volume: TrainingVolume, modality: str) -> list[TrainingVolume]:
    """The volume itself and, for nearly isotropic MR, its coronal and sagittal restackings (without empty slices)."""
    stacks = [volume]
    if modality == "mr" and max(volume.spacing_mm) < 1.3 * min(volume.spacing_mm):
        for order, name in (((1, 0, 2), "coronal"), ((2, 0, 1), "sagittal")):
            spacing = tuple(volume.spacing_mm[axis] for axis in order)
            stacks.append(
                TrainingVolume(f"{volume.name}_{name}", np.ascontiguousarray(volume.slices.transpose(order)), spacing)
            )
    occupied = [s.slices.reshape(len(s.slices), -1).astype(np.float32).std(axis=1) > 0.02 for s in stacks]
    return [replace(s, slices=s.slices[keep]) for s, keep in zip(stacks, occupied, strict=True)]


def split(volumes_dir: Path, held_out: list[str]) -> tuple[list[Path], list[Path]]:
    """Training and validation files of a folder; a file is held out when its name starts with one of `held_out`."""
    paths = sorted(volumes_dir.glob("*.nii.gz")) + sorted(volumes_dir.glob("*.nii"))
    if not paths:
        raise InputError(
            f"{volumes_dir} holds no .nii or .nii.gz volume; name a folder of clean volumes with --volumes."
        )
    held = [p for p in paths if p.name.startswith(tuple(held_out))] if held_out else []
    kept = [p for p in paths if p not in held]
    if not kept or not held:
        raise InputError(
            f"held_out {held_out} leaves {len(kept)} training and {len(held)} validation files in {volumes_dir}; "
            "both are needed."
        )
    return kept, held


def parse_settings(text: str) -> tuple[TrainingSettings, list[str]]:
    """Training settings and the held-out file-name prefixes of a JSON object."""
    values = json.loads(text)
    held_out = values.pop("held_out", [])
    crop = CropSettings(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.pop("crop", {}).items()})
    known = {f.name for f in fields(TrainingSettings)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise InputError(f"training setting {unknown[0]!r} is unknown; known are {', '.join(sorted(known))}.")
    values.setdefault("sigma_data", SIGMA_DATA.get(values.get("modality", ""), 0.5))
    if "widths" in values:
        values["widths"] = tuple(values["widths"])
    return TrainingSettings(crop=crop, **values), held_out


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volumes", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True, help="folder of the resumable training state")
    parser.add_argument("--settings", required=True, help="JSON object of TrainingSettings and held_out")
    parser.add_argument("--license", default="see the training volumes", help="data and licences, for the card")
    arguments = parser.parse_args(argv)
    settings, held_out = parse_settings(arguments.settings)
    kept, held = split(arguments.volumes, held_out)
    volumes = [
        plane for path in kept for plane in planes(read_training_volume(path, settings.modality), settings.modality)
    ]
    validation = [read_training_volume(path, settings.modality) for path in held]
    with tqdm(total=round(60 * settings.minutes), unit="s", desc=f"train {settings.modality}") as bar:

        def report(state: TrainingState, error: float) -> None:
            bar.update(round(state.seconds) - bar.n)
            bar.set_postfix_str(f"step {state.step}, error {error:.4f}")

        state = train(volumes, settings, arguments.state, report)
    names = [v.name for v in volumes if not v.name.endswith(("_coronal", "_sagittal"))]
    command = f"python -m pipeline.train --volumes {arguments.volumes.name} --settings '{arguments.settings}'"
    provenance = Provenance(command, arguments.license)
    pixels, (smallest, largest) = [v.spacing_mm[2] for v in volumes], settings.crop.zoom
    seen = (min(pixels) / largest, max(pixels) / smallest)
    reference = validation + [v for v in volumes if v.name in names]
    release(state, settings, validation, names, seen, provenance, arguments.out, reference)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
