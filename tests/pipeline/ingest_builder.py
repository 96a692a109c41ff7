"""Studies for the tests of `ingest`, and what it says of them."""

import json
from pathlib import Path

import numpy as np

from data.nifti import write_volume
from pipeline.ingest import main
from tests.data import dicom_builder as build

DEMO = Path(__file__).parents[2] / "data" / "demo"
NOTES = {"axes": "coils y x", "spacing_mm": [5, 1, 1]}


def ingest(study, out, **settings):
    return main(["--study", str(study), "--out", str(out), "--settings", json.dumps(settings)])


def manifest(out):
    return json.loads((out / "manifest.json").read_text(encoding="utf-8"))


def accepted(out):
    return [row for row in manifest(out)["series"] if row["accepted"]]


def write_kspace(folder, array, notes):
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "kspace.npy", array)
    if notes is not None:
        (folder / "kspace.json").write_text(json.dumps(notes), encoding="utf-8")


def add_report(folder):
    """A structured report: DICOM without an image."""
    ds = build.dataset(build.Series(), 0, build.new_uids())
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    for keyword in ("PixelData", "Rows", "Columns"):
        delattr(ds, keyword)
    folder.mkdir(parents=True, exist_ok=True)
    ds.save_as(folder / "report", enforce_file_format=True)


def random_volume(path, change=lambda array: array, shape=(5, 6, 7)):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(path, change(np.random.default_rng(0).normal(size=shape)), np.diag([2.0, 1.5, 3, 1]))


def gap(study):
    build.write(build.Series(), study)[3].unlink()
