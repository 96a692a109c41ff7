"""The lesion test: structures put into and taken out of a volume before it is measured, looked for afterwards.

    python -m benchmarks.lesions --modality ct --volume chest.nii.gz --slices 96 160 --tasks ct30,ct8

Two volumes are measured and reconstructed, one as it is and one with lesions of known size and contrast inserted and
real small structures removed, at places found from tissue masks with a seed. Estimates are kept below --work, so that
an interrupted run goes on and methods can be added. Writes docs/results/lesions.md with pictures from every result
that is there. --dry-run prints the places and the cost alone.
"""

import argparse
import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.lesion_places import DIAMETERS_MM, Phantom, contrast_unit, make_phantom, tissue_masks
from benchmarks.lesion_scores import (
    Scene,
    empty_places,
    lesion_rows,
    map_score,
    sized_score,
    structures,
    volume_cm3,
    warning_aucs,
)
from benchmarks.lesions_page import picture, write_page
from benchmarks.methods import methods
from benchmarks.run_method import Case, Spec, load_case, run_once
from benchmarks.series import machine, make_series
from benchmarks.settings import method_settings, read_tuned
from benchmarks.tasks import TASKS, Task
from data.atomic import write_text
from data.errors import InputError
from data.nifti import read_volume, write_volume
from data.volume import Volume
from pipeline import measure
from pipeline.cli import main_wrapper
from pipeline.doubt import doubt_maps
from pipeline.measurement import read_metadata, read_tensors, write_tensors
from pipeline.settings import UncertaintySettings

ROOT = Path(__file__).parent.parent
METHODS = ("tv", "dds", "diffusion_mbir", "pam", "pam_point")
STATES = ("original", "changed")
SAMPLES_OF, POINT_OF = {"pam_point": "pam"}, {"pam": "pam_point"}


@dataclass(frozen=True)
class Plan:
    """What is run; everything in it but tasks, methods and work names the phantom."""

    modality: str
    volume: Path
    slices: tuple[int, int]
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    samples: int
    of_each: int
    removals: int
    seed: int
    prior: Path
    work: Path

    @property
    def folder(self) -> Path:
        """Where this phantom's measurements, estimates and results lie."""
        parts = [self.volume.name, self.slices, self.of_each, self.removals, self.seed]
        digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]
        return self.work / f"{self.modality}_{digest}"

    def specs(self, task: Task) -> list[Spec]:
        """The methods' runs on a task, with the settings that were searched for it."""
        known, tuned, found = methods(), read_tuned(), []
        for name in self.methods:
            if name not in known:
                raise InputError(f"--methods: {name} is not known; choose from {', '.join(known)}.")
            method = known[name]
            settings, source = method_settings(task, method, tuned)
            samples = self.samples if method.spread else 0
            found.append(Spec(name, method.kind, method.solver, settings, method.coupling, samples, source))
        return found


def prepare(plan: Plan) -> tuple[Phantom, dict[str, Path], Volume]:
    """(phantom on the native grid, ingested series of both volumes, the volume as it was)."""
    ingested = plan.folder / "ingested"
    found = next(ingested.glob("ingest/*/volume.nii.gz"), None)
    series = found.parent if found else make_series(plan.volume, plan.modality, plan.slices, ingested)
    volume = read_volume(series / "volume.nii.gz")
    generator = np.random.default_rng(plan.seed)
    phantom = make_phantom(volume.array_zyx, plan.modality, volume.spacing_mm, plan.of_each, plan.removals, generator)
    if not phantom.lesions:
        raise InputError(f"{plan.volume}: no tissue of these slices has room for a lesion; take other or more slices.")
    changed = plan.folder / "changed"
    if not (changed / "volume.nii.gz").is_file():
        shutil.copytree(series, changed, dirs_exist_ok=True)
        write_volume(changed / "volume.nii.gz", phantom.changed, volume.affine, np.float32, "lesions in and out")
    return phantom, {"original": series, "changed": changed}, volume


def measured(plan: Plan, task: Task, series: dict[str, Path]) -> dict[str, Path]:
    """Measurement folders of both volumes, with the same noise seed."""
    folders = {}
    for state in STATES:
        out = folders[state] = plan.folder / task.name / state / "measurement"
        if not (out / "truth.nii.gz").is_file() or not (out / "measurement.safetensors").is_file():
            section = json.dumps(task.section(plan.seed))
            if measure.main(["--input", str(series[state]), "--out", str(out), "--settings", section]) != 0:
                raise InputError(f"{task.name}: the volume could not be measured; the message is above.")
    return folders


def estimates(case: Case, spec: Spec, path: Path) -> Tensor:
    """Samples, or the one estimate, (K z y x) in normalised units; read from `path` where it holds the spec's."""
    key = {"spec": asdict(spec), "measurement": case.digest, "prior": case.prior_sha256, "seed": case.seed}
    if path.is_file() and read_metadata(path).get("key") == json.loads(json.dumps(key)):
        tensors, _ = read_tensors(path)
        return torch.from_numpy(tensors["estimates"])
    runs = [run_once(case, spec, sample) for sample in range(max(1, spec.samples))]
    stack = torch.stack([run.estimate.cpu() for run in runs])
    cost = {"seconds": sum(r.seconds for r in runs), "network_calls": sum(r.network_calls for r in runs)}
    write_tensors(path, {"estimates": stack.numpy()}, {"key": key, **cost})
    return stack


def make_scene(plan: Plan, phantom: Phantom, native: Volume, folders: dict[str, Path]) -> Scene:
    """Truths, masks and places on the grid of the reconstruction."""
    truths = {state: read_volume(folders[state] / "truth.nii.gz") for state in STATES}
    original, changed = truths["original"], truths["changed"]
    masks = tissue_masks(original.array_zyx, plan.modality, original.spacing_mm)
    step = np.linalg.inv(original.affine) @ native.affine

    def moved(items: Sequence[Any]) -> tuple[Any, ...]:
        places = [np.rint(step @ [*item.centre[::-1], 1.0]).astype(int)[2::-1] for item in items]
        return tuple(replace(item, centre=tuple(int(i) for i in place)) for item, place in zip(items, places))

    return Scene(
        phantom=Phantom(original.array_zyx, changed.array_zyx, moved(phantom.lesions), moved(phantom.removals)),
        masks=masks,
        spacing_mm=original.spacing_mm,
        unit=contrast_unit(original.array_zyx, masks, plan.modality),
        seed=plan.seed,
    )


def figures(scene: Scene, changed: np.ndarray, original: np.ndarray) -> dict[str, Any]:
    """Lesions and structures of the reconstructions (z y x) of both volumes, in physical units."""
    found = structures(scene, changed)
    return {
        "lesions": lesion_rows(scene, changed, original),
        "structures": {t: {kind: len(b) for kind, b in by_kind.items()} for t, by_kind in found.items()},
        "searched_cm3": {tissue: volume_cm3(scene.room(tissue), scene.spacing_mm) for tissue in scene.masks},
        "warning": {},
    }


def warnings(
    scene: Scene, case: Case, estimate: Tensor, best: Tensor, samples: Tensor
) -> tuple[dict[str, Any], np.ndarray]:
    """(AUCs of scores that may warn of wrong places in an estimate of `changed`, the flag (z y x) as the pipeline
    writes it).

    best: the point estimate where there is one, else the mean; samples (K z y x): what stands for the uncertainty.
    """
    sizes = tuple(sorted({*DIAMETERS_MM, UncertaintySettings().structure_mm}))
    maps = doubt_maps(case.problem, case.units.modality, case.prior.card, estimate, best, samples, sizes)
    flag = maps[UncertaintySettings().structure_mm]
    physical = np.stack([case.units.to_physical(sample) for sample in samples])
    image = case.units.to_physical(estimate)
    found, empty = structures(scene, image), empty_places(scene, image)
    scores = {
        "flag": sized_score(maps),
        "one size": sized_score(dict.fromkeys(maps, flag)),
        "std": map_score(scene, physical.std(0, ddof=1)),
        "size alone": lambda blob: -blob.diameter_mm,
    }
    return {name: warning_aucs(found, empty, score) for name, score in scores.items()}, flag


def run_task(plan: Plan, task: Task, phantom: Phantom, series: dict[str, Path], native: Volume) -> None:
    """All methods on one task: estimates, result.json and the picture below the task's folder."""
    folders = measured(plan, task, series)
    cases = {state: load_case(folders[state], plan.prior, plan.seed, "cpu") for state in STATES}
    scene = make_scene(plan, phantom, native, folders)
    here = plan.folder / task.name
    stacks: dict[str, dict[str, Tensor]] = {}
    specs = plan.specs(task)
    for spec in tqdm(specs, desc=task.name, unit="method"):
        stacks[spec.name] = {s: estimates(cases[s], spec, here / s / f"{spec.name}.safetensors") for s in STATES}
    truth = scene.phantom
    records, images, flags = {"truth": figures(scene, truth.changed, truth.original)}, {"truth": truth.changed}, {}
    for spec in specs:
        means = {state: stack.mean(0) for state, stack in stacks[spec.name].items()}
        shown = {state: cases[state].units.to_physical(mean) for state, mean in means.items()}
        records[spec.name] = figures(scene, shown["changed"], shown["original"]) | {"spec": asdict(spec)}
        images[spec.name] = shown["changed"]
        samples = stacks.get(SAMPLES_OF.get(spec.name, spec.name), {}).get("changed")
        if samples is not None and len(samples) > 1:
            best = stacks.get(POINT_OF.get(spec.name, spec.name), stacks[spec.name])["changed"].mean(0)
            warning, flags[spec.name] = warnings(scene, cases["changed"], means["changed"], best, samples)
            records[spec.name]["warning"] = warning
    picture(scene, images, flags, plan.modality, here / "picture.png")
    summary = {
        "task": task.name,
        "title": task.title,
        "modality": plan.modality,
        "measurement": task.section(plan.seed),
        "volume": plan.volume.name,
        "slices": plan.slices,
        "seed": plan.seed,
        "samples": plan.samples,
        "prior_sha256": cases["changed"].prior_sha256,
        "machine": machine(),
        "command": command(plan),
        "truth_structures": {t: sum(len(scene.true_blobs[t, sign]) for sign in scene.signs(t)) for t in scene.masks},
        "methods": records,
    }
    write_text(here / "result.json", json.dumps(summary, indent=1) + "\n")


def command(plan: Plan) -> str:
    first, last = plan.slices
    return (
        f"python -m benchmarks.lesions --modality {plan.modality} --volume {plan.volume.name} --slices {first} {last} "
        f"--tasks {','.join(plan.tasks)} --methods {','.join(plan.methods)} --samples {plan.samples} "
        f"--of-each {plan.of_each} --removals {plan.removals} --seed {plan.seed}"
    )


def cost_lines(plan: Plan, voxels: int) -> list[str]:
    """What every method will take at most, by the bench's seconds a network call and million voxels on one core."""
    known, lines = methods(), []
    for task in plan.tasks:
        total = 0.0
        for spec in plan.specs(TASKS[task]):
            levels = spec.settings.get("levels", 10) if spec.kind != "classical" else 1
            total += known[spec.name].seconds * voxels / 1e6 * levels * max(1, spec.samples) * len(STATES)
        lines.append(f"{task}: about {total / 60:.0f} minutes on one core")
    return lines


def make_plan(arguments: argparse.Namespace) -> Plan:
    """The plan of the command line; InputError for tasks of another modality."""
    for task in arguments.tasks:
        if task not in TASKS or TASKS[task].modality != arguments.modality:
            fitting = ", ".join(name for name, t in TASKS.items() if t.modality == arguments.modality)
            raise InputError(f"--tasks: {task} is no {arguments.modality} task; choose from {fitting}.")
    values = {name: getattr(arguments, name) for name in Plan.__dataclass_fields__}
    values["prior"] = arguments.prior or ROOT / "models" / "weights" / arguments.modality
    return Plan(**values | {name: tuple(values[name]) for name in ("slices", "tasks", "methods")})


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modality", choices=("ct", "mr"), required=True)
    parser.add_argument("--volume", type=Path, required=True)
    parser.add_argument("--slices", type=int, nargs=2, required=True, help="half-open range of axial slices")
    parser.add_argument(
        "--tasks", type=lambda text: text.split(","), required=True, help="names in benchmarks/tasks.py"
    )
    parser.add_argument("--methods", type=lambda text: text.split(","), default=METHODS)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--of-each", type=int, default=3, help="lesions of each size and contrast, where there is room")
    parser.add_argument("--removals", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prior", type=Path)
    parser.add_argument("--work", type=Path, default=ROOT / "results" / "lesions")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--dry-run", action="store_true")
    arguments = parser.parse_args(argv)
    plan = make_plan(arguments)
    phantom, series, native = prepare(plan)
    print(f"{len(phantom.lesions)} lesions inserted, {len(phantom.removals)} structures removed", flush=True)
    print("\n".join(cost_lines(plan, phantom.original.size)), flush=True)
    if arguments.dry_run:
        for item in (*phantom.lesions, *phantom.removals):
            print(f"{item.tissue} {item.diameter_mm:4.1f} mm {item.contrast:+8.2f} at {item.centre}")
        return 0
    for task in plan.tasks:
        run_task(plan, TASKS[task], phantom, series, native)
    write_page(plan.work, arguments.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
