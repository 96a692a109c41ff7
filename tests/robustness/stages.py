"""A tiny CT study and the pipeline's stages over it, each as a command whose output can be sent elsewhere."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pipeline import config as plan_of
from tests.data.dicom_builder import Series, write
from tests.robustness.fault_runner import Request

ROOT = Path(__file__).parents[2]
TINY = Series(slices=7, rows=32, columns=32, pixel_mm=(4.0, 4.0), spacing_mm=4.0)
VOLATILE = {"seconds", "peak_mem_mb", "started", "ended", "finished", "time", "duration_s", "created", "date"}
VOLATILE |= {"stages", "peakmemorymib"}
# A key of the tests alone: two runs give the same pseudonyms.
KEY_FILE = Path(__file__).parent / "deidentify.key"
STAGE_NAMES = (
    "ingest", "measure", "baseline", "reconstruct", "uncertainty", "support", "alarm", "evaluate", "export", "page",
    "summary", "index",
)  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """One stage over the tree `results`: its module, its arguments without --out, and where it writes by default."""

    name: str
    module: str
    arguments: tuple[str, ...]
    out: Path

    def request(self, out: Path | None = None, **fault) -> Request:
        """Into `out` (default: the tree); writes are watched in the folder that holds it."""
        out = out or self.out
        return Request(self.module, [*self.arguments, "--out", str(out)], str(out.parent), fault)


class Runner:
    """The process of tests.robustness.fault_runner, with its environment and working directory."""

    def __init__(self, folder: Path = ROOT, **environment: str):
        self.folder = folder
        command = [sys.executable, "-m", "tests.robustness.fault_runner"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        # Where nobody finds a commit, one that is made beside the tests does not change what is written.
        environment = os.environ | {"PYTHONPATH": str(ROOT), "GIT_DIR": os.devnull} | environment
        self.process = subprocess.Popen(command, cwd=folder, env=environment, text=True, bufsize=1, **pipes)

    def __call__(self, request: Request) -> dict:
        self.process.stdin.write(json.dumps(vars(request)) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(30)


def tiny_config(studies: Path, prior: str) -> dict:
    """One cohort: 8 views of 32x32 slices, one baseline, two samples of two levels."""
    cohort = {
        "modality": "ct",
        "studies": str(studies),
        "measure": {"views": 8, "working_matrix": 32},
        "baselines": ["fbp"],
        "reconstruct": {"prior": prior, "samples": 2, "levels": 2, "device": "cpu"},
        "export": {"key_file": str(KEY_FILE)},
    }
    return {"cohorts": {"tiny": cohort}}


def write_study(folder: Path, seed: int = 0, **changes) -> list[Path]:
    """A DICOM study of one small CT series."""
    fields = {key: getattr(TINY, key) for key in ("slices", "rows", "columns", "pixel_mm", "spacing_mm")}
    return write(Series(**(fields | {"seed": seed} | changes)), folder)


def chain(study: Path, results: Path, prior: str) -> dict[str, Stage]:
    """Every stage in order, as the rules call them. Ingest must be run before the others are asked for."""
    plan = plan_of.load(tiny_config(study, prior), ROOT)
    (label,) = plan.cohorts["tiny"].studies
    ingest = results / "tiny" / label / "ingest"
    stages = {"ingest": Stage("ingest", "pipeline.ingest", _ingest(plan, study), ingest)}
    if not (ingest / "manifest.json").is_file():
        return stages
    (series,) = plan_of.accepted_series(ingest)
    here = results / "tiny" / label / series
    names = ("--cohort", "tiny", "--study", label, "--series", series)

    def settings(stage: str, method: str | None = None, **labels: str) -> tuple[str, str]:
        return "--settings", plan.settings(stage, "tiny", method, **labels)

    measured, made, spread = here / "measurement", here / "reconstruct" / "pam", here / "uncertainty" / "pam"
    export = settings("export", study=label, series=series)
    page = results / "reports" / f"tiny_{label}_{series}.html"
    rest = [
        ("measure", "measure", ("--input", ingest / series, *settings("measure")), measured),
        ("baseline", "baseline", ("--measurement", measured, "--method", "fbp", *settings("baseline", "fbp")),
         here / "baseline" / "fbp.nii.gz"),
        ("reconstruct", "reconstruct", ("--measurement", measured, "--solver", "pam", *settings("reconstruct", "pam")),
         made),
        ("uncertainty", "uncertainty", ("--reconstruction", made, *settings("uncertainty")), spread),
        ("support", "support", ("--measurement", measured, "--reconstruction", made, *settings("uncertainty")), spread),
        ("alarm", "alarm", ("check", "--reconstruction", made, *settings("reconstruct")),
         here / "alarm" / "pam" / "alarm.json"),
        ("evaluate", "evaluate", ("--series-dir", here, *names, *settings("evaluate")), here / "metrics.tsv"),
        ("export", "export", ("--series-dir", here, "--ingest", ingest / series, *export), here / "export"),
        ("page", "report", ("page", "--series-dir", here, *names, *settings("report")), page),
        ("summary", "summary", ("--results", results), results / "summary.tsv"),
        ("index", "report", ("index", "--results", results), results / "index.html"),
    ]  # fmt: skip
    return stages | {
        name: Stage(name, f"pipeline.{module}", tuple(map(str, arguments)), out)
        for name, module, arguments, out in rest
    }


def _ingest(plan: plan_of.Plan, study: Path) -> tuple[str, ...]:
    return "--study", str(study), "--settings", plan.settings("ingest", "tiny")


def snapshot(folder: Path) -> dict[str, str]:
    """Digest by relative path of every file under a final name; times and memory, which differ by run, left out."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    visible = (path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    return {str(path.relative_to(folder)): hashlib.sha256(_steady(path)).hexdigest() for path in visible}


def leftovers(folder: Path) -> list[str]:
    """Hidden files and folders: what a job leaves beside its output while it works."""
    return [str(path.relative_to(folder)) for path in sorted(folder.rglob(".*"))]


def _steady(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix == ".json":
        return json.dumps(_without_times(json.loads(content)), sort_keys=True).encode()
    if path.name == "SHA256SUMS":
        return b"".join(line for line in content.splitlines(True) if not line.endswith(b".json\n"))
    return content


def _without_times(value):
    if isinstance(value, dict):
        return {key: _without_times(item) for key, item in value.items() if key.lower() not in VOLATILE}
    return [_without_times(item) for item in value] if isinstance(value, list) else value
