"""How long the export of a real study takes, and how much memory.

    python -m benchmarks.exporting

Ingests the chest CT of data/demo, puts volumes in place of a reconstruction (the study itself with noise), runs the
export stage in a process of its own, and prints one line of JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.nifti import read_volume, write_volume

ROOT = Path(__file__).parents[1]
STD_HU, HALF = 20.0, 1.645


def prepare(study: Path, folder: Path) -> tuple[Path, Path]:
    """(ingested series, results of that series) with every volume that export looks for."""
    _run("pipeline.ingest", "--study", study, "--out", folder / "ingest", "--settings", '{"modality": "ct"}')
    (volume_path,) = (folder / "ingest").glob("*/volume.nii.gz")
    volume = read_volume(volume_path)
    rng = np.random.default_rng(0)
    mean = volume.array_zyx + rng.normal(scale=STD_HU, size=volume.shape).astype(np.float32)
    std = np.full(volume.shape, STD_HU, np.float32)
    series = folder / volume_path.parent.name
    spread, run = series / "uncertainty" / "pam", series / "reconstruct" / "pam"
    made = {
        spread / "mean.nii.gz": mean,
        spread / "std.nii.gz": std,
        spread / "lower90.nii.gz": mean - HALF * std,
        spread / "upper90.nii.gz": mean + HALF * std,
        run / "point.nii.gz": mean,
        series / "baseline" / "fbp.nii.gz": mean,
    }
    for path, array in made.items():
        write_volume(path, array, volume.affine)
    for path in (spread / "uncertainty.json", run / "run.json", series / "baseline" / "fbp.json"):
        path.write_text("{}")
    return volume_path.parent, series


def measure(study: Path) -> dict:
    """Times and sizes of one export."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ingested, series = prepare(study, folder)
        settings = {"modality": "ct", "solvers": ["pam"], "baselines": ["fbp"], "study": "demo", "series": series.name,
                    "key_file": str(folder / "key")}  # fmt: skip
        out = folder / "export"
        began = time.perf_counter()
        arguments = ("--series-dir", series, "--ingest", ingested, "--out", out, "--settings", json.dumps(settings))
        peak_mb, worked = _run("pipeline.export", *arguments)
        seconds = time.perf_counter() - began
        files = [path for path in out.rglob("*") if path.is_file()]
        shape = read_volume(ingested / "volume.nii.gz").shape
        size = sum(path.stat().st_size for path in files)
    return {"study": study.name, "slices": shape[0], "matrix": f"{shape[1]} x {shape[2]}", "files": len(files),
            "bytes": size, "seconds": round(seconds, 1), "cpu_seconds": round(worked, 1),
            "peak_mem_mb": round(peak_mb)}  # fmt: skip


def _run(module: str, *arguments: object) -> tuple[float, float]:
    """Run a stage; its peak memory in MB and the processor's seconds."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{module} ended with {process.returncode}: its words above say why.")
    return used.ru_maxrss / 1024, used.ru_utime + used.ru_stime


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exporting", description="Time the export of a study.")
    parser.add_argument("--study", type=Path, default=next((ROOT / "data" / "demo" / "ct").iterdir()))
    arguments = parser.parse_args(argv)
    print(json.dumps(measure(arguments.study)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
