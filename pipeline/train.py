"""Trains a slice prior from a folder of clean NIfTI volumes.

    python -m pipeline.train --volumes FOLDER --out FOLDER --settings JSON

CT volumes are in HU and become u = HU/1000 clipped to [-1, 2]. MR volumes are magnitudes in scanner units, divided by
their 99.5th percentile. Volumes that are isotropic to 30 % are used in all three planes when the modality is MR.

With the setting residual_sigma the chain starts from a classical reconstruction: --degraded names a folder with one for
every clean volume, under the same file name and on the same grid, as `python -m pipeline.baseline` writes them.

With --chain a part of every batch is what a sampler showed its prior, as `python -m pipeline.chain_states` keeps it;
--start names the prior whose weights the training begins with.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from tqdm import tqdm

from data.errors import InputError
from models.chain import ChainSlab
from models.prior import SlicePrior, load_prior
from models.release import Provenance, release
from models.training import TrainingSettings, TrainingState, blend, train
from models.volumes import CropSettings, TrainingVolume
from pipeline.cli import main_wrapper
from pipeline.measurement import read_tensors

SIGMA_DATA = {"ct": 0.5, "mr": 0.25}


def read_training_volume(path: Path, modality: str, degraded: Path | None = None) -> TrainingVolume:
    """One NIfTI volume as axial slices (z y x) in prior units, float16; `degraded` is scaled like the clean one."""
    array, zooms = _read_array(path)
    scale = 1000.0 if modality == "ct" else float(np.percentile(array, 99.5))
    pair = None
    if degraded is not None:
        pair, _ = _read_array(degraded)
        if pair.shape != array.shape:
            raise InputError(f"{degraded} is not on the grid of {path}; reconstruct it on the clean volume's grid.")
    spacing = tuple(float(s) for s in zooms[::-1])
    name = path.name.removesuffix(".nii.gz")
    pair = pair if pair is None else _in_prior_units(pair, modality, scale)
    return TrainingVolume(name, _in_prior_units(array, modality, scale), spacing, pair)


def _read_array(path: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    """Values (x y z) in canonical orientation and the voxel's edges in mm."""
    try:
        image = nibabel.as_closest_canonical(nibabel.load(path))
        array = np.asarray(image.dataobj, dtype=np.float32)
    except (OSError, EOFError, nibabel.filebasedimages.ImageFileError) as error:
        raise InputError(f"{path} cannot be read as NIfTI; remove it from the training folder or repair it.") from error
    if array.ndim != 3 or not np.isfinite(array).all() or array.min() == array.max():
        raise InputError(f"{path} is no 3D volume of finite, varying values; remove it from the training folder.")
    return array, image.header.get_zooms()[:3]


def _in_prior_units(array: np.ndarray, modality: str, scale: float) -> np.ndarray:
    limits = (-1, 2) if modality == "ct" else (0, 2)
    return np.clip(array / scale, *limits).transpose(2, 1, 0).astype(np.float16)


def read_pairs(paths: list[Path], settings: TrainingSettings, degraded: Path | None) -> list[TrainingVolume]:
    """Training volumes, with their degraded reconstructions where the settings ask for a residual start."""
    if settings.residual_sigma == 0:
        return [read_training_volume(path, settings.modality) for path in paths]
    if degraded is None:
        raise InputError("residual_sigma needs the classical reconstructions; name their folder with --degraded.")
    missing = [path.name for path in paths if not (degraded / path.name).is_file()]
    if missing:
        raise InputError(f"{degraded} holds no {missing[0]}; every training volume needs its reconstruction there.")
    return [read_training_volume(path, settings.modality, degraded / path.name) for path in paths]


def planes(volume: TrainingVolume, modality: str) -> list[TrainingVolume]:
    """The volume itself and, for nearly isotropic MR, its coronal and sagittal restackings (without empty slices)."""
    stacks = [volume]
    if modality == "mr" and max(volume.spacing_mm) < 1.3 * min(volume.spacing_mm):
        for order, name in (((1, 0, 2), "coronal"), ((2, 0, 1), "sagittal")):
            spacing = tuple(volume.spacing_mm[axis] for axis in order)
            arrays = (a if a is None else np.ascontiguousarray(a.transpose(order)) for a in _arrays(volume))
            stacks.append(TrainingVolume(f"{volume.name}_{name}", next(arrays), spacing, next(arrays)))
    occupied = [s.slices.reshape(len(s.slices), -1).astype(np.float32).std(axis=1) > 0.02 for s in stacks]
    return [_chosen(s, keep) for s, keep in zip(stacks, occupied, strict=True)]


def _arrays(volume: TrainingVolume) -> tuple[np.ndarray, np.ndarray | None]:
    return volume.slices, volume.degraded


def _chosen(volume: TrainingVolume, keep: np.ndarray) -> TrainingVolume:
    slices, degraded = (a if a is None else a[keep] for a in _arrays(volume))
    return replace(volume, slices=slices, degraded=degraded)


def read_chain(folder: Path, modality: str) -> list[ChainSlab]:
    """The chain states of a folder; InputError where it holds none or those of another modality."""
    slabs = []
    for path in sorted(folder.glob("*.safetensors")):
        tensors, about = read_tensors(path)
        if (tensors["clean"].ndim == 4) != (modality == "mr"):
            raise InputError(f"{path} holds states of another modality than {modality}; name another folder.")
        names = ("noisy", "clean", "sigma", "correlation")
        slabs.append(ChainSlab(*(tensors[name] for name in names), tuple(about["spacing_mm"])))
    if not slabs:
        raise InputError(f"{folder} holds no chain states; make them with python -m pipeline.chain_states.")
    return slabs


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


def _command(arguments: argparse.Namespace) -> str:
    folders = {name: getattr(arguments, name) for name in ("volumes", "chain", "start")}
    named = " ".join(f"--{name} {folder.name}" for name, folder in folders.items() if folder)
    return f"python -m pipeline.train {named} --settings '{arguments.settings}'"


def _chain_card(settings: TrainingSettings, slabs: list[ChainSlab], start: SlicePrior | None) -> dict[str, Any]:
    """What the card says of chain states and of the prior that the training began with."""
    said = {"chain_slabs": len(slabs), "chain_share": settings.chain_share} if slabs else {}
    if start is None:
        return said
    before = {key: start.card["training"][key] for key in ("steps", "minutes")}
    before |= {"share": settings.start_share} | {key: start.card[key] for key in ("name", "sha256", "command")}
    return said | {"start": before}


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volumes", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True, help="folder of the resumable training state")
    parser.add_argument("--settings", required=True, help="JSON object of TrainingSettings and held_out")
    parser.add_argument("--degraded", type=Path, help="folder of classical reconstructions, for residual_sigma")
    parser.add_argument("--chain", type=Path, help="folder of pipeline.chain_states")
    parser.add_argument("--start", type=Path, help="prior whose weights the training begins with")
    parser.add_argument("--license", default="see the training volumes", help="data and licences, for the card")
    arguments = parser.parse_args(argv)
    settings, held_out = parse_settings(arguments.settings)
    kept, held = split(arguments.volumes, held_out)
    pairs = read_pairs(kept, settings, arguments.degraded)
    volumes = [plane for volume in pairs for plane in planes(volume, settings.modality)]
    validation = [read_training_volume(path, settings.modality) for path in held]
    slabs = read_chain(arguments.chain, settings.modality) if arguments.chain else []
    start = load_prior(arguments.start) if arguments.start else None
    with tqdm(total=round(60 * settings.minutes), unit="s", desc=f"train {settings.modality}") as bar:

        def report(state: TrainingState, error: float) -> None:
            bar.update(round(state.seconds) - bar.n)
            bar.set_postfix_str(f"step {state.step}, error {error:.4f}")

        state = train(volumes, settings, arguments.state, report, slabs, start.network if start else None)
    if start is not None and settings.start_share > 0:
        blend(state.average, start.network, settings.start_share)
    names = [v.name for v in volumes if not v.name.endswith(("_coronal", "_sagittal"))]
    provenance = Provenance(_command(arguments), arguments.license, _chain_card(settings, slabs, start))
    pixels, (smallest, largest) = [v.spacing_mm[2] for v in volumes], settings.crop.zoom
    seen = (min(pixels) / largest, max(pixels) / smallest)
    reference = validation + [v for v in volumes if v.name in names]
    release(state, settings, validation, names, seen, provenance, arguments.out, reference)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
