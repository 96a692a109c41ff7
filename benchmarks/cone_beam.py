"""Cone beam: FDK, least squares, tuned TV, DDS and PaM on one simulated scan of a patient; a page with a picture.

    python -m benchmarks.cone_beam --volume PATIENT.nii.gz --out docs/results
    python -m benchmarks.cone_beam --volume TRAINING_PATIENT.nii.gz --search
    python -m benchmarks.cone_beam --time 128

The scan is that of configs/cohorts/ct_cone_beam.yaml. With --search it prints how TV and DDS do at each of their
settings, to be set as TUNED below. Every method runs in a process of its own, so that its peak of memory is its own,
and is not run again while its result is there. With --time N it prints what a projection and a back-projection of
N x N x N voxels cost.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
import yaml

from benchmarks.bench_results import Result, TaskResults
from benchmarks.page_pictures import picture
from benchmarks.page_tables import image_table, settings_table, spread_table
from benchmarks.run_method import RESULT, Spec
from benchmarks.series import measure_slab
from benchmarks.tasks import Task
from data.atomic import write_text
from data.errors import InputError
from operators.cone_geometry import VolumeGrid
from pipeline.cli import main_wrapper
from pipeline.measure_cone import make_cone_beam
from pipeline.problem_cone import make_projector
from pipeline.settings import CtMeasureSettings, build

REPOSITORY = Path(__file__).parent.parent
COHORT = REPOSITORY / "configs" / "cohorts" / "ct_cone_beam.yaml"
PRIOR = REPOSITORY / "models" / "weights" / "ct"
LEVELS = 10
SEARCH = {
    "tv": [{"weight": weight} for weight in (1.0, 2.0, 4.0)],
    "dds": [{"gamma": gamma} for gamma in (100.0, 300.0, 1000.0)],
}
# What won the search of 30 parallel views on a training patient (benchmarks/tuned.json).
TUNED = {"tv": {"weight": 2.0}, "dds": {"gamma": 300.0}}
SEARCHED_ON = "ct30"


def section(join_slices: int, seed: int) -> dict:
    """The `measure` section of the shipped cone-beam cohort, with the slices joined."""
    cohort = yaml.safe_load(COHORT.read_text(encoding="utf-8"))["cohorts"]["ct_cone_beam"]
    return {"modality": "ct", **cohort["measure"], "join_slices": join_slices, "seed": seed}


def specs(samples: int) -> list[Spec]:
    """FDK, least squares, TV and DDS at their best settings, and the default: point estimate and samples."""
    return [
        Spec("fdk", "classical", "fdk", {}),
        Spec("cgls", "classical", "cgls", {}),
        Spec("tv", "classical", "tv", TUNED["tv"], tuned_on=SEARCHED_ON),
        Spec("dds", "rival", "dds", {"levels": LEVELS, **TUNED["dds"]}, samples=samples, tuned_on=SEARCHED_ON),
        Spec("pam_point", "ours", "pam", {"levels": LEVELS, "mode": "point"}),
        Spec("pam", "ours", "pam", {"levels": LEVELS}, samples=samples),
    ]


def search_specs() -> list[Spec]:
    """One run of TV and DDS at each setting, named METHOD_VALUE."""
    found = []
    for method, grid in SEARCH.items():
        kind, fixed = ("classical", {}) if method == "tv" else ("rival", {"levels": LEVELS})
        for values in grid:
            name = f"{method}_{next(iter(values.values())):g}"
            found.append(Spec(name, kind, method, {**fixed, **values}, samples=int(kind == "rival")))
    return found


def run(measurement: Path, work: Path, chosen: list[Spec], seed: int, threads: int) -> TaskResults:
    """Runs what has no result yet, a process each; all results. InputError where one fails."""
    results = []
    for spec in chosen:
        command = [sys.executable, "-m", "benchmarks.run_method", "--measurement", str(measurement), "--out", str(work)]
        command += ["--specs", json.dumps([asdict(spec)]), "--prior", str(PRIOR)]
        command += ["--seed", str(seed), "--threads", str(threads)]
        print(f"{spec.name} ...", file=sys.stderr)
        if start(command) != 0:
            raise InputError(f"{spec.name} failed; the lines above say why.")
        record = json.loads((work / spec.name / RESULT).read_text(encoding="utf-8"))
        results.append(Result("cone_beam", spec.name, seed, work / spec.name, record))
    return TaskResults(Task("cone_beam", "ct", "cone beam", {}), results)


def start(command: list[str]) -> int:
    """Exit status of a command that runs in the repository."""
    return subprocess.run(command, cwd=REPOSITORY, check=False).returncode


def conditions(results: TaskResults, source: str, slices: tuple[int, int], measure: dict) -> Iterator[str]:
    """What was measured, from whom, on what machine."""
    depth, rows, columns = results.results[0].record["shape_zyx"]
    yield (
        f"{source}, native slices {slices[0]} to {slices[1]}, {measure['join_slices']} joined: {depth} slices of "
        f"{rows} x {columns}. {measure['views']} views over {measure['range_deg']} degrees, "
        f"{measure['holdout_views']} of them held out; source to axis {measure['source_axis_mm']} mm, axis to detector "
        f"{measure['axis_detector_mm']} mm; {float(measure['photons']):.0f} photons a ray; a detector row a slice, so "
        "that the first and last slices are only partly seen. What lies above and below the slab is air. "
        f"Machine: {'; '.join(results.provenance('machine'))}."
    )


def page(results: TaskResults, said: Iterator[str], command: str, docs: Path) -> str:
    """cone_beam.md; draws its picture."""
    lines = ["# Cone beam", "", *said, "", f"Command: `{command}`", ""]
    lines += [f"TV and DDS have the settings that won the search of task {SEARCHED_ON} on a patient held out of"]
    lines += ["training ([tuning.md](tuning.md)), the rest their defaults.", ""]
    lines += ["[What the columns mean](bench.md#the-figures).", ""]
    lines += [*image_table(results), "", *spread_table(results), ""]
    if picture(results, docs / "cone_beam.jpg"):
        lines += ["![truth and methods](cone_beam.jpg)", ""]
        lines += ["Axial, coronal and sagittal slices, each above its absolute error (0 to 200 HU); last, the standard"]
        lines += ["deviation of our samples on the same scale.", ""]
    notes = docs / "cone_beam_notes.md"
    if notes.is_file():
        lines += [notes.read_text(encoding="utf-8").strip(), ""]
    return "\n".join([*lines, "## Settings", "", *settings_table(results)]) + "\n"


def projector_cost(size: int, threads: int) -> str:
    """Processor seconds of 60 views of the cohort's scanner, the least of three after compilation, as one line."""
    torch.set_num_threads(threads)
    grid = VolumeGrid(size, size, size, 256 / size, 256 / size)
    measure = {key: value for key, value in section(1, 0).items() if key != "modality"}
    measure |= {"rows": size, "bins": None, "working_matrix": size}
    beam = make_cone_beam(build(CtMeasureSettings, measure, "measure"), grid)
    projector = make_projector(grid, beam, "linear")
    x, y = torch.ones(grid.shape), torch.ones(beam.shape)
    there, back = (
        min(_processor_seconds(call) for _ in range(4)) for call in (lambda: projector(x), lambda: projector.adjoint(y))
    )
    size_of = f"{size}^3 voxels, {beam.views} views of {beam.rows} x {beam.columns}"
    return f"{size_of}: projection {there:.2f} s, adjoint {back:.2f} s of processor time"


def _processor_seconds(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def search(results: TaskResults) -> Iterator[str]:
    """A line a setting: its mean PSNR over the three planes."""
    for row in results.rows:
        planes = [row.figure("psnr_db", plane) for plane in ("axial", "coronal", "sagittal")]
        yield f"{row.method}: {sum(planes) / len(planes):.2f} dB ({', '.join(f'{x:.2f}' for x in planes)})"


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cone_beam", description=__doc__.split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--volume", type=Path, help="CT in HU that no prior was trained on, NIfTI")
    what.add_argument("--time", type=int, metavar="N", help="print what the projector costs on N x N x N voxels")
    parser.add_argument("--slices", type=int, nargs=2, default=(96, 160), help="half-open range of its axial slices")
    parser.add_argument("--join", type=int, default=2, help="native slices whose mean is a working slice")
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=[spec.name for spec in specs(1)], help="these alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("results/cone_beam"), help="where the results are kept")
    parser.add_argument("--search", action="store_true", help="print how TV and DDS do at each setting; no page")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the page")
    arguments = parser.parse_args(argv)
    if arguments.time:
        print(projector_cost(arguments.time, arguments.threads))
        return 0
    slices, source = tuple(arguments.slices), arguments.volume.name.split(".")[0]
    measure = section(arguments.join, arguments.seed)
    work = arguments.work.resolve() / f"{source}_{slices[0]}_{slices[1]}_join{arguments.join}_seed{arguments.seed}"
    if not (work / "measurement" / "truth.nii.gz").is_file():
        measure_slab(arguments.volume, slices, measure, work / "measurement")
    chosen = search_specs() if arguments.search else specs(arguments.samples)
    if arguments.methods and not arguments.search:
        chosen = [spec for spec in chosen if spec.name in arguments.methods]
    results = run(work / "measurement", work, chosen, arguments.seed, arguments.threads)
    if arguments.search:
        print(*search(results), sep="\n")
        return 0
    given = sys.argv[1:] if argv is None else argv
    text = page(results, conditions(results, source, slices, measure), said_command(given), arguments.out)
    write_text(arguments.out / "cone_beam.md", text)
    return 0


def said_command(argv: Sequence[str]) -> str:
    """The command line, without the folders of the volume and of the results."""
    words = [Path(word).name if word.endswith((".nii", ".nii.gz")) else word for word in argv]
    if "--work" in words:
        place = words.index("--work")
        del words[place : place + 2]
    return shlex.join(["python", "-m", "benchmarks.cone_beam", *words])


if __name__ == "__main__":
    raise SystemExit(main())
