"""Scores that might warn of lost or invented structures, compared on a patient that settings are found on.

    python -m benchmarks.lesion_flags --volume lungfcp0001.nii.gz --slices 42 54 --tasks ct30,ct8

Places are those of the lesion test (benchmarks/lesions.py): where a reconstruction shows a structure, rightly or not,
and where it shows none, rightly or not. Every score is computed without the truth. Writes docs/results/lesion_flags.md.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from benchmarks.lesion_places import DIAMETERS_MM
from benchmarks.lesion_scores import Scene, empty_places, map_score, sized_score, structures, warning_aucs
from benchmarks.lesions import ROOT, Plan, estimates, make_scene, measured, prepare
from benchmarks.lesions_page import AUCS, PLACES, cell, table
from benchmarks.run_method import Case, load_case
from benchmarks.series import machine
from benchmarks.tasks import TASKS
from data.atomic import write_text
from pipeline.cli import main_wrapper
from pipeline.doubt import target_of
from solvers.correction import error_correlation
from solvers.problem import Problem
from solvers.structure_doubt import Target, probability_wrong, refined, spread

BYSIZE = dict[float, np.ndarray]
NOISE_DRAWS = 4

TEXT = """
Which score, computed without the truth, is larger where a picture is wrong about a structure? Places and the four AUCs
(both, false, missed, alike) are those of the lesion test ([lesions.md](lesions.md)); `alike` is the one that size alone
cannot raise. `pam` is the mean of its samples, `pam_point` the point estimate, judged with the same samples. a is the
matched filter's amplitude for the place's diameter, T half the contrast that counts, s the spread of a over the
samples, averaged over 2 and 8 mm.

- **size alone**: minus the diameter.
- **std**: the samples' voxelwise standard deviation over the place.
- **spread / T**: s / T.
- **margin**: how near |a| of the picture is to a wrong decision (T / 2 where a structure is shown, T where none is).
- **spread over margin**: the samples' own spread of a over that distance.
- **residual**: |p' A' W r| of the picture's residual r, p a ball of that diameter, in units of its standard deviation
  under noise alone: a lost structure leaves a trace there.
- **P, picture**: probability of a wrong decision, a* ~ N(a of the picture, s^2).
- **P, point**: the same about the point estimate, for what is shown.
- **P, refined**: the same, and for what is hidden about the point estimate after the data have spoken once more. This
  is the flag (docs/uncertainty.md).
- **P, refined, one size**: the map for 4 mm at all places.
"""


def residual_scores(problem: Problem, estimate: Tensor, scene: Scene) -> BYSIZE:
    """|p' A^H W r| by diameter (z y x), over its standard deviation under noise, which is averaged over 8 mm."""
    generator = torch.Generator().manual_seed(scene.seed)
    root = torch.as_tensor(problem.weights).sqrt()

    def back(data: Tensor) -> np.ndarray:
        image = problem.A.adjoint(data)
        return (image * torch.sgn(estimate).conj()).real.numpy() if image.is_complex() else image.numpy()

    shape, dtype = problem.y.shape, problem.y.dtype
    noise = [back(root * torch.randn(shape, dtype=dtype, generator=generator)) for _ in range(NOISE_DRAWS)]
    seen = back(problem.weights * (problem.y - problem.A(estimate)))
    widths = [8.0 / edge for edge in scene.spacing_mm]
    out = {}
    for diameter, ball in scene.filters.items():
        variance = np.mean([ball.amplitude(draw) ** 2 for draw in noise], axis=0)
        out[diameter] = np.abs(ball.amplitude(seen)) / np.sqrt(ndimage.gaussian_filter(variance, widths))
    return out


def candidates(
    scene: Scene, case: Case, picture: Tensor, point: Tensor, samples: Tensor
) -> dict[str, Callable[[Any], float]]:
    """The scores of the page by name."""
    problem, spacing = case.problem, scene.spacing_mm

    def real(x: Tensor) -> np.ndarray:
        return (x.abs() if x.is_complex() else x).numpy()

    again = refined(problem, point, error_correlation(problem, case.prior.card, "point")[0])
    target = target_of(real(point), case.units.modality, spacing)
    maps: dict[str, BYSIZE] = {name: {} for name in ("spread", "margin", "over", "own", "point", "refined")}
    for diameter, ball in scene.filters.items():
        a, b, c = (ball.amplitude(real(x)) for x in (picture, point, again))
        draws = [ball.amplitude(real(sample)) for sample in samples]
        sd = spread(draws, spacing)
        near = _margin(a, target)
        maps["spread"][diameter] = sd / (target.contrast / 2)
        maps["margin"][diameter] = -near
        maps["over"][diameter] = np.std(draws, axis=0, ddof=1) / np.maximum(near, 0.05) / target.contrast
        for name, best, hidden in (("own", a, a), ("point", b, a), ("refined", b, c)):
            maps[name][diameter] = probability_wrong(a, best, hidden, sd, target)
    one = dict.fromkeys(DIAMETERS_MM, maps["refined"][min(DIAMETERS_MM)])
    return {
        "size alone": lambda blob: -blob.diameter_mm,
        "std": map_score(scene, real(samples.std(dim=0))),
        "spread / T": sized_score(maps["spread"]),
        "margin": sized_score(maps["margin"]),
        "spread over margin": sized_score(maps["over"]),
        "residual": sized_score(residual_scores(problem, picture, scene)),
        "P, picture": sized_score(maps["own"]),
        "P, point": sized_score(maps["point"]),
        "P, refined": sized_score(maps["refined"]),
        "P, refined, one size": sized_score(one),
    }


def _margin(a: np.ndarray, target: Target) -> np.ndarray:
    """Distance of |a| from a wrong decision, in units of T."""
    size = 2 * np.abs(a) / target.contrast
    return np.where(size > 1, size - 0.5, 1 - size)


def run_task(plan: Plan, name: str) -> list[str]:
    """The page's section of one task."""
    task = TASKS[name]
    phantom, series, native = prepare(plan)
    folders = measured(plan, task, series)
    case = load_case(folders["changed"], plan.prior, plan.seed, "cpu")
    scene = make_scene(plan, phantom, native, folders)
    folder = plan.folder / name / "changed"
    stacks = {spec.name: estimates(case, spec, folder / f"{spec.name}.safetensors") for spec in plan.specs(task)}
    lines = []
    for method, stack in stacks.items():
        found, rows = judge(scene, case, stack.mean(0), stacks["pam_point"][0], stacks["pam"])
        counts = [str(sum(len(by_kind[kind]) for by_kind in found.values())) for kind in PLACES]
        lines += [[method, *counts, score, *(cell(aucs[kind]) for kind in AUCS)] for score, aucs in rows.items()]
    return [f"## {task.title} (`{name}`)", "", *table(["picture", *PLACES, "score", *AUCS], lines)]


def judge(
    scene: Scene, case: Case, picture: Tensor, point: Tensor, samples: Tensor
) -> tuple[Mapping[str, Any], dict[str, dict[str, float]]]:
    """(structures of the picture, AUCs by score)."""
    image = case.units.to_physical(picture)
    found, empty = structures(scene, image), empty_places(scene, image)
    scores = candidates(scene, case, picture, point, samples)
    return found, {name: warning_aucs(found, empty, score) for name, score in scores.items()}


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modality", choices=("ct", "mr"), default="ct")
    parser.add_argument("--volume", type=Path, required=True)
    parser.add_argument("--slices", type=int, nargs=2, required=True, help="half-open range of axial slices")
    parser.add_argument("--tasks", type=lambda text: tuple(text.split(",")), required=True)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--work", type=Path, default=ROOT / "results" / "lesions")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    given = parser.parse_args(argv)
    prior = ROOT / "models" / "weights" / given.modality
    methods, slices = ("pam_point", "pam"), tuple(given.slices)
    plan = Plan(
        given.modality, given.volume, slices, given.tasks, methods, given.samples, 3, 12, 0, prior, given.work
    )  # fmt: skip
    command = (
        f"python -m benchmarks.lesion_flags --modality {given.modality} --volume {given.volume.name} "
        f"--slices {slices[0]} {slices[1]} --tasks {','.join(given.tasks)} --samples {given.samples}"
    )
    lines = ["# Scores that warn of wrong structures", *TEXT.rstrip().splitlines(), ""]
    lines += [f"Command: `{command}`. {machine()}.", ""]
    for name in given.tasks:
        lines += run_task(plan, name)
    write_text(given.out / "lesion_flags.md", "\n".join(lines).rstrip() + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
