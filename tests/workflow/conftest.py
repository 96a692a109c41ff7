"""A cut-down demo: a few slices of the shipped scans on coarse grids, with untrained priors, through real Snakemake."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Workflow:
    """Snakemake in a working directory of its own."""

    folder: Path
    config: dict

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def command(self, *arguments: str, **changes) -> list[str]:
        """The command line for the config with `changes` merged over it."""
        from pipeline.config import merge

        path = self.folder / "config.yaml"
        path.write_text(yaml.safe_dump(merge(self.config, changes)))
        base = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "2"]
        return [*base, "--directory", str(self.folder), *arguments, "--configfile", str(path)]

    def run(self, *arguments: str, **changes) -> subprocess.CompletedProcess:
        command = self.command(*arguments, **changes)
        return subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False, env=plain_env())

    def jobs(self, **changes) -> dict[str, int]:
        """Job counts by rule of a dry run."""
        done = self.run("--dry-run", "--quiet", "rules", **changes)
        assert done.returncode == 0, done.stderr
        return count_jobs(done.stdout + done.stderr)


def count_jobs(text: str) -> dict[str, int]:
    """The table that Snakemake prints under "job  count"."""
    lines = text.splitlines()
    heads = [number for number, line in enumerate(lines) if line.split() == ["job", "count"]]
    counts = {}
    for line in lines[heads[-1] + 2 :] if heads else []:
        if not line.strip():
            break
        rule, count = line.split()
        counts[rule] = int(count)
    counts.pop("total", None)
    counts.pop("all", None)
    return counts


def plain_env() -> dict[str, str]:
    """The environment without what a Snakemake around the tests, or an activated environment, would have put there."""
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "SNAKEMAKE_PROFILE")}


@contextlib.contextmanager
def started(workflow: Workflow, *arguments: str, **changes) -> Iterator[subprocess.Popen]:
    """A run in a session of its own, of which nothing goes on afterwards."""
    command = workflow.command(*arguments, **changes)
    with (workflow.folder / "terminal.txt").open("w") as terminal:
        streams = {"stdout": terminal, "stderr": terminal}
        begun = subprocess.Popen(command, env=plain_env(), start_new_session=True, **streams)
    try:
        yield begun
    finally:
        kill(begun)


def kill(begun: subprocess.Popen) -> None:
    """-9 to the run and its jobs; returns when all of them are gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(begun.pid, signal.SIGKILL)
        begun.wait()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            os.killpg(begun.pid, 0)
            time.sleep(0.02)


def wait_for(what: Callable[[], object], process: subprocess.Popen) -> bool:
    """Whether WHAT() came true before the process ended. However long that takes: the test has a timeout."""
    while not what():
        if process.poll() is not None:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture(scope="session")
def priors(tmp_path_factory) -> dict[str, str]:
    """Untrained priors, which is all that the plumbing needs; modality to folder."""
    import torch

    from models.network import SliceNetwork
    from models.prior import CARD, WEIGHTS

    folders = {}
    for modality, channels in (("ct", 1), ("mr", 2)):
        folder = tmp_path_factory.mktemp("prior") / modality
        torch.manual_seed(0)
        SliceNetwork(channels, (8, 16), 1, 2).half().save_pretrained(folder)
        card = {"name": "untrained", "modality": modality, "units": "none", "sigma_data": 0.5, "pixel_mm": [0.1, 20]}
        checksum = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        (folder / CARD).write_text(json.dumps(card | {"sha256": checksum}))
        folders[modality] = str(folder)
    return folders


@pytest.fixture(scope="session")
def small(priors) -> dict:
    """Config of three small cohorts over the shipped demo scans."""
    brief = {"samples": 2, "levels": 2, "device": "cpu"}
    mr = {"modality": "mr", "baselines": ["zero_filled", "cg_sense"], "reconstruct": brief | {"prior": priors["mr"]}}
    return {
        "cohorts": {
            "chest": {
                "modality": "ct",
                "studies": str(ROOT / "data" / "demo" / "ct"),
                "ingest": {"slices": [20, 26]},
                "measure": {"views": 12, "working_matrix": 64},
                "baselines": ["fbp", "tv"],
                "reconstruct": brief | {"prior": priors["ct"]},
            },
            "head": mr
            | {
                "studies": str(ROOT / "data" / "demo" / "mr"),
                "ingest": {"slices": [10, 14]},
                "measure": {"coils": 4, "working_spacing_mm": 3.0},
            },
            "raw": mr | {"studies": str(ROOT / "data" / "demo" / "kspace"), "measure": {"source": "measured"}},
        }
    }


@pytest.fixture(scope="session")
def finished(small, tmp_path_factory) -> Workflow:
    """The small demo, run once for all tests that look at its results; none may change them."""
    workflow = Workflow(tmp_path_factory.mktemp("finished"), small)
    done = workflow.run()
    assert done.returncode == 0, done.stdout + done.stderr
    return workflow


def write_phantom(folder: Path, seed: int = 0, shape_zyx: tuple[int, int, int] = (4, 48, 48)) -> None:
    """A study of one NIfTI volume: a soft-tissue disc with random inserts, in HU, on 4 mm pixels."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape_zyx), indexing="ij")
    array = np.where(x**2 + y**2 < (0.4 * shape_zyx[2]) ** 2, 40.0, -1000.0)
    for _ in range(4):
        cy, cx, radius = *rng.uniform(-10, 10, 2), rng.uniform(2, 5)
        array[(y - cy) ** 2 + (x - cx + z) ** 2 < radius**2] = rng.uniform(-800, 800)
    folder.mkdir(parents=True)
    image = nibabel.Nifti1Image(array.transpose(2, 1, 0).astype(np.float32), np.diag([4.0, 4.0, 4.0, 1.0]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, folder / "volume.nii.gz")


@pytest.fixture
def phantoms(priors, tmp_path) -> Workflow:
    """A cohort of one phantom study called `good`, in tmp_path/studies; cheap enough to run per test."""
    write_phantom(tmp_path / "studies" / "good")
    cohort = {
        "modality": "ct",
        "studies": str(tmp_path / "studies"),
        "measure": {"views": 8, "working_matrix": 32},
        "baselines": ["fbp"],
        "reconstruct": {"prior": priors["ct"], "samples": 2, "levels": 2, "device": "cpu"},
    }
    (tmp_path / "run").mkdir()
    return Workflow(tmp_path / "run", json.loads(json.dumps({"cohorts": {"disc": cohort}})))
