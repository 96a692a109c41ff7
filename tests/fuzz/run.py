"""Coverage-guided fuzzing of the readers with atheris: `python -m tests.fuzz.run --target dicom --seconds 30`.

Without --target every target is run, one after the other. A finding is an exception other than InputError, an input
that takes longer than 10 s of processor time or more than 2 GB, or a crash of the process; its input is kept under
--out, once for each place in the code.

Files that use has read in data.isolated's child process are read so here, too, at a limit of one second: what crashes,
stalls or swells a library there ends in one sentence and is counted as contained. Only what did none of that is then
read in the fuzzer's own process, for its coverage alone: nothing that happens there is a finding.
Prints one JSON line a target: executions, bytes, seconds, ends, findings.
"""

import argparse
import collections
import contextlib
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

TIMEOUT_S, MEMORY_MB, MAX_BYTES = 10, 2048, 65536
# libFuzzer's clock runs on while other processes have the processor.
PATIENCE = 15
# Of the fuzzer's process after a finding ended it, and after a library did that was read for its coverage.
FINDINGS, RESTARTS = 4, 30
# Modules whose code guides the fuzzer, beside those in `data`.
GUIDES = {
    "dicom": ["pydicom"], "codestream": ["pydicom.pixels"], "nifti": ["nibabel"], "nifti_gz": ["nibabel"],
    "nrrd": ["nrrd"], "tiff": ["tifffile"], "mat": ["scipy.io"], "safetensors": ["pipeline.measurement"],
    "config": ["pipeline.config", "pipeline.config_check", "pipeline.paths"],
}  # fmt: skip
ROOT = Path(__file__).parents[2]


class Session:
    """Counts what a target did with its inputs, and keeps findings."""

    def __init__(self, name: str, seconds: float, out: Path):
        from tests.fuzz.as_used import Child
        from tests.fuzz.targets import TARGETS

        self.name, self.out, self.target, self.ends = name, out, TARGETS[name], collections.Counter()
        self.executions = self.bytes = 0
        self.findings: dict[str, str] = {}
        self.child, self.limit, self.written = Child(), seconds, 0.0
        self.home = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.began = self.used()

    def used(self) -> float:
        """Seconds of processor time, the children's included."""
        return time.process_time() + self.child.seconds()

    def one(self, data: bytes) -> None:
        """What atheris calls."""
        self.executions += 1
        self.bytes += len(data)
        began, contained = time.process_time(), self.child.contained
        (self.out / "last").write_bytes(data)
        end = self.read(data)
        if time.process_time() - began > TIMEOUT_S:
            self.findings.setdefault("slow", self.save(data, "slow"))
        self.ends["contained" if self.child.contained > contained else end] += 1
        if self.target.isolated and self.child.contained == contained and end != "finding":
            self.guide(data)
        used = self.used() - self.began
        if used > self.written + 0.5:
            self.write()
        if used > self.limit:
            self.finish()

    def read(self, data: bytes) -> str:
        from tests.fuzz.targets import run

        try:
            return run(self.target, data, self.home)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a panic of Rust is no Exception
            self.keep(data, error)
            return "finding"

    def guide(self, data: bytes) -> None:
        """Read in this process what the child read without harm, for the coverage."""
        from data import isolated
        from tests.fuzz.targets import run

        isolated.ISOLATE = False
        (self.out / "guiding").touch()
        with contextlib.suppress(Exception):  # the child, which has other limits, did not mind
            run(self.target, data, self.home)
        isolated.ISOLATE = True
        (self.out / "guiding").unlink()

    def keep(self, data: bytes, error: BaseException) -> None:
        frames = [f"{Path(frame.filename).name}:{frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
        place = f"{type(error).__name__} in {frames[-1]}"
        if "isolated.py:_raise" in place:  # the child's own traceback
            place = str(error).strip().splitlines()[-1][:200]
        if place not in self.findings:
            self.findings[place] = self.save(data, type(error).__name__)
            traceback.print_exception(error)

    def save(self, data: bytes, kind: str) -> str:
        path = self.out / f"{self.name}-{kind}-{hashlib.sha256(data).hexdigest()[:8]}"
        path.write_bytes(data)
        return str(path)

    def write(self) -> None:
        self.written = self.used() - self.began
        figures = {"executions": self.executions, "bytes": self.bytes, "seconds": round(self.written, 1)}
        figures |= {"ends": dict(self.ends), "findings": self.findings}
        (self.out / "figures.json").write_text(json.dumps(figures))

    def finish(self) -> None:
        """libFuzzer ends its process by itself: so does this, after the figures are written."""
        self.write()
        self.child.end()
        (self.out / "last").unlink()
        shutil.rmtree(self.home, ignore_errors=True)
        sys.stderr.flush()
        os._exit(0)


def fuzz(name: str, seconds: float, out: Path, seed: int) -> None:
    """Never returns."""
    import atheris

    with atheris.instrument_imports(include=["data", *GUIDES.get(name, [])], enable_loader_override=False):
        from tests.fuzz.targets import TARGETS
    corpus = out.parent / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(TARGETS[name].seeds()):
        (corpus / f"seed{number}").write_bytes(data)
    words = out / "words.txt"
    words.write_text("".join(f"{json.dumps(word)}\n" for word in TARGETS[name].words()))
    session = Session(name, seconds, out)
    limit = (MEMORY_MB + 2000) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    flags = [f"-timeout={TIMEOUT_S * PATIENCE}", f"-rss_limit_mb={MEMORY_MB}", f"-max_len={MAX_BYTES}", f"-seed={seed}"]
    flags += ["-verbosity=0", "-print_final_stats=0", "-close_fd_mask=0", f"-artifact_prefix={out}/"]
    flags += [f"-dict={words}"] if words.stat().st_size else []
    atheris.Setup([sys.argv[0], *flags, str(corpus)], session.one)
    atheris.Fuzz()


def run_target(name: str, seconds: float, out: Path, seed: int) -> dict:
    """Run one target, again after an end of its process, which is a finding unless it was only being guided."""
    total = {"target": name, "executions": 0, "bytes": 0, "seconds": 0.0, "ends": {}, "findings": {}, "restarts": 0}
    shutil.rmtree(out / name, ignore_errors=True)
    crashes = 0
    while crashes < FINDINGS and total["restarts"] < RESTARTS and total["seconds"] < seconds:
        number = crashes + total["restarts"]
        folder = out / name / str(number)
        folder.mkdir(parents=True)
        command = [sys.executable, "-m", "tests.fuzz.run", "--inside", name, "--out", str(folder)]
        command += ["--seconds", str(seconds - total["seconds"]), "--seed", str(seed + number)]
        with (folder / "log.txt").open("w") as log:
            done = subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=False)
        if (folder / "figures.json").is_file():
            _add(total, json.loads((folder / "figures.json").read_text()))
        if done.returncode == 0:
            break
        if (folder / "guiding").exists():
            total["restarts"] += 1
            continue
        crashes += 1
        why = {70: "took too long", 71: "took too much memory"}.get(done.returncode, f"ended with {done.returncode}")
        total["findings"].setdefault(f"process {why}", str(folder / "last"))
    return total


def _add(total: dict, figures: dict) -> None:
    for key in ("executions", "bytes", "seconds"):
        total[key] += figures[key]
    for end, count in figures["ends"].items():
        total["ends"][end] = total["ends"].get(end, 0) + count
    total["findings"] |= figures["findings"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__.split("\n")[0])
    parser.add_argument("--target", action="append", help="one of tests/fuzz/targets.py; may be given several times")
    parser.add_argument("--seconds", type=float, default=30.0, help="of processor time, for each target")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "sliceweave-fuzz")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        fuzz(arguments.inside, arguments.seconds, arguments.out, arguments.seed)
    from tests.fuzz.targets import TARGETS

    found = 0
    for name in arguments.target or TARGETS:
        figures = run_target(name, arguments.seconds, arguments.out, arguments.seed)
        found += len(figures["findings"])
        print(json.dumps(figures), flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
