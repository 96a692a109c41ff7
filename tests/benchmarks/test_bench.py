"""The bench end to end on phantoms, with untrained priors, through real Snakemake."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from benchmarks.bench_config import read_config
from benchmarks.bench_results import read_results
from benchmarks.plan import Plan

ROOT = Path(__file__).parents[2]
METHODS = {"ct30": ["cgls", "pam_point", "dds"], "mr4": ["zero_filled", "pam_point", "dds"]}


def write_phantom(path: Path, offset: float) -> None:
    """A disc with inserts on 4 mm pixels, 4 slices of 48^2, in HU plus `offset`."""
    rng = np.random.default_rng(0)
    z, y, x = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in (4, 48, 48)), indexing="ij")
    array = np.where(x**2 + y**2 < 19**2, 40.0, -1000.0)
    for _ in range(4):
        cy, cx, radius = *rng.uniform(-10, 10, 2), rng.uniform(2, 5)
        array[(y - cy) ** 2 + (x - cx + z) ** 2 < radius**2] = rng.uniform(-800, 800)
    image = nibabel.Nifti1Image((array + offset).transpose(2, 1, 0).astype(np.float32), np.diag([4.0, 4.0, 4.0, 1.0]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def write_prior(folder: Path, modality: str, channels: int) -> None:
    """An untrained prior."""
    import torch

    from models.network import SliceNetwork
    from models.prior import CARD, WEIGHTS

    torch.manual_seed(0)
    SliceNetwork(channels, (8, 16), 1, 2).half().save_pretrained(folder)
    card = {"name": "untrained", "modality": modality, "units": "none", "sigma_data": 0.5, "pixel_mm": [0.1, 20]}
    checksum = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    (folder / CARD).write_text(json.dumps(card | {"sha256": checksum}))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """The working directory of a bench of two tasks and three methods, and its --config."""
    folder = tmp_path_factory.mktemp("bench")
    config = {"ct_slab": "0-4", "mr_slab": "0-4", "slices": "4", "samples": "2", "rival_samples": "2", "jobs": "tasks"}
    config |= {"tasks": ",".join(METHODS), "methods": "cgls,zero_filled,pam_point,dds", "docs": "docs"}
    for modality, channels, offset in (("ct", 1, 0.0), ("mr", 2, 1000.0)):
        write_phantom(folder / f"{modality}.nii.gz", offset)
        write_prior(folder / f"prior_{modality}", modality, channels)
        config |= {modality: f"{modality}.nii.gz", f"{modality}_prior": f"prior_{modality}"}
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "benchmarks" / "Snakefile"), "--cores", "2"]
    command += ["--directory", str(folder), "--config", *(f"{key}={value}" for key, value in config.items())]
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "SNAKEMAKE_PROFILE")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=folder)
    logs = "".join(path.read_text() for path in (folder / "results").rglob("*.log"))
    assert done.returncode == 0, done.stderr + logs
    return folder, config


@pytest.mark.slow
@pytest.mark.workflow
def test_every_task_and_method_has_a_whole_result(finished):
    folder, _ = finished
    for task, methods in METHODS.items():
        case = folder / "results" / "bench" / task / "z4_seed0"
        assert sorted(path.parent.name for path in case.glob("*/result.json")) == sorted(methods)
        for method in methods:
            record = json.loads((case / method / "result.json").read_text())
            assert record["shape_zyx"] == [4, 48, 48]
            estimates = record["estimates"]
            assert set(estimates) == ({"mean", "sample"} if method == "dds" else {"point"})
            assert all(np.isfinite(figures["psnr_db"]["axial"]) for figures in estimates.values())
            assert (record["prior_sha256"] is None) == (record["kind"] == "classical")
            assert nibabel.load(case / method / "estimate.nii.gz").get_data_dtype() == np.int16
    assert json.loads((folder / "results/bench/ct30/z4_seed0/dds/result.json").read_text())["spread"]["coverage90"]


@pytest.mark.slow
@pytest.mark.workflow
def test_stored_estimate_has_the_rmse_of_the_record(finished):
    case = finished[0] / "results" / "bench" / "mr4" / "z4_seed0"
    record = json.loads((case / "pam_point" / "result.json").read_text())
    truth = nibabel.load(case / "measurement" / "truth.nii.gz").get_fdata()
    estimate = nibabel.load(case / "pam_point" / "estimate.nii.gz").get_fdata() * record["stored_scale"]
    rmse = np.sqrt(np.mean((estimate - truth) ** 2)) / np.percentile(truth, 99.5)
    assert rmse == pytest.approx(record["estimates"]["point"]["rmse"]["axial"], rel=2e-3)


@pytest.mark.slow
@pytest.mark.workflow
def test_pages_name_what_was_run(finished):
    folder, _ = finished
    page = (folder / "docs" / "bench.md").read_text()
    assert "[ct30](bench_ct30.md)" in page
    assert "tasks=ct30,mr4" in page
    for task, methods in METHODS.items():
        text = (folder / "docs" / f"bench_{task}.md").read_text()
        assert all(f"| {method} | 0 |" in text for method in methods)
        assert (folder / "docs" / f"bench_{task}.jpg").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.workflow
def test_a_finished_bench_has_nothing_left_to_do_until_a_setting_changes(finished, monkeypatch):
    folder, config = finished
    monkeypatch.chdir(folder)
    lines = Plan(read_config(config)).cost_table().splitlines()
    assert len(lines) == 2
    assert lines[-1].split()[0] == "0"
    more = Plan(read_config(config | {"rival_samples": "3"})).cost_table()
    assert "all_ct30_z4_seed0: dds" in more
    assert set(read_results(folder / "results" / "bench", 4)) == set(METHODS)
