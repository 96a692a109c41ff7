"""A small study, ingested, with results as the stages before `export` leave them."""

import json

import numpy as np
import pydicom

from data.nifti import read_volume, write_volume
from data.volume import Volume
from pipeline import export as stage
from pipeline import ingest
from tests.data import dicom_builder as build

PLANTED = "ZZPLANTEDZZ"
WEIGHTS = "a0" * 32
MR_TAGS = {"ScanningSequence": "GR", "SequenceVariant": "SP", "MRAcquisitionType": "3D", "EchoTime": 4.2}


def halved(volume):
    """The working grid: half the rows and columns, every voxel the mean of four."""
    z, y, x = volume.shape
    array = volume.array_zyx.reshape(z, y // 2, 2, x // 2, 2).mean((2, 4))
    affine = volume.affine.copy()
    affine[:3, 3] += (affine[:3, 0] + affine[:3, 1]) / 2
    affine[:3, :2] *= 2
    return Volume.from_affine(array, affine)


def make(folder, series, kind="dicom", prepare=None, ingest_settings=None):
    """(series folder with results, ingested series, working-grid mean) of a small study.

    prepare: called with the study folder before it is read.
    """
    study = folder / "study"
    if kind == "dicom":
        build.write(series, study)
    elif kind == "enhanced":
        build.write_enhanced(series, study / "enhanced.dcm")
    else:
        write_volume(study / "v.nii.gz", series.stored, series.affine_ras)
    if prepare is not None:
        prepare(study)
    settings = {"modality": series.modality.lower(), "slices": [1, series.slices - 1]} | (ingest_settings or {})
    arguments = ["--study", str(study), "--out", str(folder / "ingest"), "--settings", json.dumps(settings)]
    assert ingest.main(arguments) == 0
    (ingested,) = (path for path in (folder / "ingest").iterdir() if path.is_dir())
    results = folder / "results" / "cohort" / "study" / ingested.name
    mean = halved(read_volume(ingested / "volume.nii.gz"))
    write_results(results, mean)
    return results, ingested, mean


def write_results(results, mean):
    std = np.random.default_rng(0).gamma(2, 10, mean.shape)
    volumes = {
        "uncertainty/pam/mean": mean.array_zyx,
        "uncertainty/pam/std": std,
        "uncertainty/pam/lower90": mean.array_zyx - 2 * std,
        "uncertainty/pam/upper90": mean.array_zyx + 2 * std,
        "uncertainty/pam/support": np.clip(std / 100, 0, 1),
        "reconstruct/pam/point": mean.array_zyx + 1,
        "baseline/zero_filled": mean.array_zyx + 2,
    }
    for name, array in volumes.items():
        write_volume(results / f"{name}.nii.gz", array, mean.affine)
    run = {
        "solver": "pam",
        "seed": 3,
        "prior": {"name": "ct", "sha256": WEIGHTS, "command": f"--volumes /home/{PLANTED}"},
        "settings": {"prior": f"/home/{PLANTED}/ct", "samples": 2},
        "patient": PLANTED,
        "network_calls": 60,
        "seconds": 1.5,
        "peak_mem_mb": 700.0,
        "device": "x86_64 CPU, 1 threads",
        "versions": {"torch": "2.13.0"},
    }
    write_json(results / "reconstruct" / "pam" / "run.json", run)
    write_json(results / "uncertainty" / "pam" / "uncertainty.json", {"samples": 2, "interval": 0.9})
    write_json(results / "baseline" / "zero_filled.json", {"method": "zero_filled", "seconds": 0.1})
    write_json(results / "alarm" / "pam" / "alarm.json", {"verdict": "in", "sentence": "Like the training patients."})


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def arguments(results, ingested, out, **settings):
    """The stage's command line; the key of a test's study lies beside it."""
    own = {"modality": "ct", "study": "study", "series": ingested.name, "cohort": "cohort"}
    own |= {"key_file": str(results.parents[2] / "key")} | settings
    return ["--series-dir", str(results), "--ingest", str(ingested), "--out", str(out), "--settings", json.dumps(own)]


def export(results, ingested, out, **settings):
    return stage.main(arguments(results, ingested, out, **settings))


def slices(folder):
    return [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
