"""Coverage-guided fuzzing of the readers with atheris: `python -m tests.fuzz.run --target dicom --seconds 30`.

Without --target every target is run, one after the other. A finding is an exception other than InputError, an input
that takes longer than 10 s of processor time or more than 2 GB, or a crash of the process; its input is kept under
--out, once for each place in the code. Files that use has read in a child process, by data.isolated, are read here in
the fuzzer's own: what ends it there is a finding about a library, and in use one sentence. Prints one JSON line a
target: executions, bytes, seconds, ends, findings.
"""

import argparse
import collections
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

TIMEOUT_S, MEMORY_MB, MAX_BYTES = 10, 2048, 65536
# libFuzzer's clock runs on while other processes have the processor.
PATIENCE = 15
ATTEMPTS = 4
# Packages whose code guides the fuzzer, beside our own.
INSTRUMENTED = {
    "dicom": ["pydicom"], "nifti": ["nibabel"], "nifti_gz": ["nibabel"], "nrrd": ["nrrd"], "tiff": ["tifffile"],
    "mat": ["scipy.io"],
}  # fmt: skip
ROOT = Path(__file__).parents[2]


class Session:
    """Counts what a target did with its inputs, and keeps findings."""

    def __init__(self, name: str, seconds: float, out: Path):
        self.name, self.out, self.ends = name, out, collections.Counter()
        self.executions = self.bytes = 0
        self.findings: dict[str, str] = {}
        self.began, self.limit = time.process_time(), seconds
        self.home = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))

    def one(self, data: bytes) -> None:
        """What atheris calls."""
        from tests.fuzz.targets import TARGETS, run

        self.executions += 1
        self.bytes += len(data)
        began = time.process_time()
        (self.out / "last").write_bytes(data)
        try:
            self.ends[run(TARGETS[self.name], data, self.home)] += 1
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a panic of Rust is no Exception
            self.keep(data, error)
        if time.process_time() - began > TIMEOUT_S:
            self.findings.setdefault("slow", self.save(data, "slow"))
        if self.executions % 50 == 0:
            self.write()
        if time.process_time() - self.began > self.limit:
            self.finish()

    def keep(self, data: bytes, error: BaseException) -> None:
        frames = [f"{Path(frame.filename).name}:{frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
        place = f"{type(error).__name__} in {frames[-1]}"
        self.ends["finding"] += 1
        if place not in self.findings:
            self.findings[place] = self.save(data, type(error).__name__)
            traceback.print_exc()

    def save(self, data: bytes, kind: str) -> str:
        path = self.out / f"{self.name}-{kind}-{hashlib.sha256(data).hexdigest()[:8]}"
        path.write_bytes(data)
        return str(path)

    def write(self) -> None:
        seconds = round(time.process_time() - self.began, 1)
        figures = {"target": self.name, "executions": self.executions, "bytes": self.bytes, "seconds": seconds}
        figures |= {"ends": dict(self.ends), "findings": self.findings}
        (self.out / "figures.json").write_text(json.dumps(figures))

    def finish(self) -> None:
        """libFuzzer ends its process by itself: so does this, after the figures are written."""
        self.write()
        (self.out / "last").unlink()
        subprocess.run(["rm", "-rf", str(self.home)], check=False)
        sys.stderr.flush()
        os._exit(0)


def fuzz(name: str, seconds: float, out: Path, seed: int) -> None:
    """Never returns."""
    import atheris

    with atheris.instrument_imports(include=["data", *INSTRUMENTED.get(name, [])], enable_loader_override=False):
        from data import isolated
        from tests.fuzz.targets import TARGETS
    isolated.ISOLATE = False
    corpus = out / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(TARGETS[name].seeds()):
        (corpus / f"seed{number}").write_bytes(data)
    session = Session(name, seconds, out)
    limit = (MEMORY_MB + 2000) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    flags = [f"-timeout={TIMEOUT_S * PATIENCE}", f"-rss_limit_mb={MEMORY_MB}", f"-max_len={MAX_BYTES}", f"-seed={seed}"]
    flags += ["-verbosity=0", "-print_final_stats=0", "-close_fd_mask=0", f"-artifact_prefix={out}/"]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], session.one)
    atheris.Fuzz()


def run_target(name: str, seconds: float, out: Path, seed: int) -> dict:
    """Run one target, again after a crash of its process, which is a finding; the figures of all runs together."""
    total = {"target": name, "executions": 0, "bytes": 0, "seconds": 0.0, "ends": {}, "findings": {}}
    for attempt in range(ATTEMPTS):
        folder = out / name / str(attempt)
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "tests.fuzz.run", "--inside", name, "--out", str(folder)]
        command += ["--seconds", str(seconds - total["seconds"]), "--seed", str(seed + attempt)]
        with (folder / "log.txt").open("w") as log:
            done = subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=False)
        if (folder / "figures.json").is_file():
            _add(total, json.loads((folder / "figures.json").read_text()))
        if done.returncode == 0:
            break
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
