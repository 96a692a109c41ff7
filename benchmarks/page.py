"""Writes bench.md, a page and a picture a task, and the curves, from whatever results there are.

python -m benchmarks.page --results results/bench --docs docs/results --slices 64 --command 'snakemake ...'
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.bench_results import TaskResults, read_curves, read_results
from benchmarks.page_goals import goal_lines
from benchmarks.page_pictures import curve_picture, picture, spread_picture
from benchmarks.page_tables import (
    conditions,
    goals_table,
    image_table,
    published_table,
    settings_table,
    spread_table,
    summary_table,
    table,
)
from data.atomic import write_text
from pipeline.cli import main_wrapper

WORDS = """
PSNR is the mean over the slices of a plane that touch the patient: CT on HU clipped to [-1000, 1000], range 2000; MR
magnitudes over the truth's 99.5th percentile, range 1. SSIM has a window of 7 x 7 and the same range, RMSE and widths
are in HU for CT. z-jump is the mean step between slices over the truth's. chi2 is the weighted residual of a
measurement, 1 at the noise. Spread is judged within the patient, from as many samples as the table says: coverage of
Student-t intervals, calibration ratio (1 + 1/K) V / B, fair CRPS, calibration error (UCE), area under the
sparsification error (AUSE), coverage of the 90 % interval for the means of blocks of 2, 4 and 8 voxels, mean width of
the 90 % interval and its ratio to the oracle's: the interval m +- a s, with one constant a for all voxels, that
covers exactly 90 %. `mean` is the mean of samples, `sample` one of them, `point` a run that is all there is. Calls
are denoiser evaluations of a whole volume; a vector-Jacobian product counts as two. Seconds passed while
other jobs ran beside this one, CPU seconds are its own; MiB the peak of the process so far.
"""


def task_page(results: TaskResults, curves: TaskResults | None, command: str, docs: Path) -> str:
    """bench_<task>.md; draws its pictures."""
    name = results.task.name
    lines = [f"# Bench: {name}", "", *conditions(results), "", f"Command: `{command}`", ""]
    lines += [*image_table(results), "", *spread_table(results), ""]
    if spread_picture(results, docs / f"bench_spread_{name}.png"):
        lines += [f"![spread](bench_spread_{name}.png)", ""]
    if picture(results, docs / f"bench_{name}.jpg"):
        lines += [f"![{name}](bench_{name}.jpg)", "", "Under every slice its absolute error.", ""]
    if curves:
        lines += curve_lines(curves, docs)
    lines += ["## Settings", "", *settings_table(results), "", "[What the columns mean](bench.md#the-figures)"]
    return "\n".join(lines) + "\n"


def curve_lines(curves: TaskResults, docs: Path) -> Iterator[str]:
    """Quality against cost: picture and table."""
    name = curves.task.name
    yield from ("## Quality against cost", "", *conditions(curves), "")
    yield "Settings as searched at 10 levels; only the number of levels changes."
    yield ""
    if curve_picture(curves, docs / f"bench_curves_{name}.png"):
        yield from (f"![curves](bench_curves_{name}.png)", "")
    yield from (*image_table(curves), "")


def bench_page(found: dict[str, TaskResults], curves: dict[str, TaskResults], command: str, docs: Path) -> str:
    """bench.md."""
    lines = ["# Bench", "", f"Command: `{command}`", ""]
    lines += [
        "Benchmark patients that no prior was trained on and no setting searched on: a chest CT (lidc0314) and a T1"
    ]
    lines += [
        "head (studyforrest). All samplers have the same prior, start and data; rivals the settings that a search on"
    ]
    searches = "[tuning.md](tuning.md)" if (docs / "tuning.md").is_file() else "tuned.json"
    lines += [f"training patients found ({searches}), ours one default everywhere.", ""]
    lines += [
        "Of methods with samples the tables of goals and summary take the better of mean, sample and point estimate by"
    ]
    lines += ["PSNR (of ours mean or point), for all alike; the task pages have them all.", ""]
    lines += ["## Goals", "", *goals_table(goal_lines(found, curves, docs)), ""]
    for plane in ("axial", "sagittal"):
        lines += [f"## Summary, {plane} PSNR in dB", "", *summary_table(found, plane), ""]
    lines += ["## Conditions", "", *condition_table(found), ""]
    lines += ["## The figures", *WORDS.rstrip().splitlines(), ""]
    lines += [
        "## Published figures",
        "",
        "Other data, other operators, other noise: for orientation, not a comparison.",
        "",
    ]
    lines += published_table(found)
    notes = docs / "bench_notes.md"
    if notes.is_file():
        lines += ["", notes.read_text(encoding="utf-8").strip()]
    return "\n".join(lines) + "\n"


def condition_table(found: dict[str, TaskResults]) -> Iterator[str]:
    """Where each task's results come from."""
    cells = []
    for name, results in found.items():
        z, y, x = results.results[0].record["shape_zyx"]
        dates = sorted(result.record["date"][:10] for result in results.results)
        priors = ", ".join(sha[:12] for sha in results.provenance("prior_sha256"))
        seeds = ", ".join(map(str, sorted({result.seed for result in results.results})))
        cells.append(
            [
                name,
                f"{z} x {y} x {x}",
                seeds,
                priors,
                " and ".join(results.provenance("machine")),
                f"{dates[0]} to {dates[-1]}",
            ]
        )
    yield from table(["task", "voxels (z y x)", "seeds", "prior", "machine", "runs"], cells)


def write_pages(results: Path, docs: Path, slices: int, curve_slices: int, command: str) -> list[str]:
    """Names of the tasks that have a page."""
    found, curves = read_results(results, slices), read_curves(results, curve_slices)
    for name, one in found.items():
        write_text(docs / f"bench_{name}.md", task_page(one, curves.get(name), command, docs))
    if found:
        write_text(docs / "bench.md", bench_page(found, curves, command, docs))
    return list(found)


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--docs", type=Path, required=True)
    parser.add_argument("--slices", type=int, required=True, help="thickness of the slabs of the tables")
    parser.add_argument("--curve-slices", type=int, required=True)
    parser.add_argument("--command", required=True, help="the command that made the results")
    arguments = parser.parse_args(argv)
    names = write_pages(arguments.results, arguments.docs, arguments.slices, arguments.curve_slices, arguments.command)
    print(f"{arguments.docs / 'bench.md'}: {', '.join(names)}" if names else "No results yet: no pages.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
