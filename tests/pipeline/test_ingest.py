"""The ingest stage through its command line: what is taken, and every bad input with one sentence and no folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from data.nifti import read_volume
from pipeline.measurement import read_tensors
from tests.data import dicom_builder as build
from tests.pipeline.ingest_builder import (
    DEMO,
    NOTES,
    accepted,
    add_report,
    gap,
    ingest,
    manifest,
    random_volume,
    write_kspace,
)


def test_demo_ct(tmp_path):
    assert ingest(DEMO / "ct" / "lidc0314", tmp_path / "out", modality="ct", slices=[10, 26]) == 0
    (row,) = accepted(tmp_path / "out")
    assert (row["modality"], row["kind"], row["slices"]) == ("ct", "volume", 16)
    volume = read_volume(tmp_path / "out" / row["series"] / "volume.nii.gz")
    assert volume.shape == (16, 512, 512)
    assert volume.affine[2, 3] == pytest.approx(-569.8 + 10, abs=1e-3)
    source = json.loads((tmp_path / "out" / row["series"] / "source.json").read_text(encoding="utf-8"))
    for z, entry in enumerate(source["files"]):
        ds = pydicom.dcmread(entry["path"], stop_before_pixels=True)
        assert float(ds.ImagePositionPatient[2]) == pytest.approx(-559.8 + z, abs=1e-3)


def test_demo_mr_equals_its_file(tmp_path):
    assert ingest(DEMO / "mr" / "studyforrest", tmp_path / "out", modality="mr") == 0
    (row,) = accepted(tmp_path / "out")
    taken = nibabel.load(tmp_path / "out" / row["series"] / "volume.nii.gz")
    given = nibabel.load(DEMO / "mr" / "studyforrest" / "T1w_slab.nii.gz")
    assert row["slices"] == 36
    assert nibabel.aff2axcodes(taken.affine) == ("R", "A", "S")
    np.testing.assert_array_equal(np.asarray(taken.dataobj), np.asarray(given.dataobj))
    np.testing.assert_allclose(taken.affine, given.affine, atol=1e-6)


def test_demo_kspace_equals_its_file(tmp_path):
    assert ingest(DEMO / "kspace" / "brain8coil", tmp_path / "out", modality="mr") == 0
    (row,) = accepted(tmp_path / "out")
    tensors, metadata = read_tensors(tmp_path / "out" / row["series"] / "kspace.safetensors")
    np.testing.assert_array_equal(tensors["kspace"][0], np.load(DEMO / "kspace" / "brain8coil" / "kspace.npy"))
    assert row["kind"] == "kspace"
    assert metadata["shape_zyx"] == [1, 230, 180]


def test_a_mixed_folder_is_sorted_out(tmp_path):
    study = tmp_path / "study"
    series = build.Series(orientation=build.OBLIQUE)
    build.write(series, study / "a")
    kind = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    localizer = build.Series(slices=2, orientation=build.CORONAL, tags=kind)
    build.write(localizer, study / "b")
    build.write(build.Series("MR", seed=1), study / "c")
    add_report(study / "a")
    (study / "readme.txt").write_text("not an image")
    assert ingest(study, tmp_path / "out", modality="ct") == 0
    rows = manifest(tmp_path / "out")["series"]
    assert sorted(row["reason"] for row in rows) == ["", "localizer", "non-image", "other-modality"]
    assert all(row["detail"] for row in rows if not row["accepted"])
    (row,) = accepted(tmp_path / "out")
    taken = read_volume(tmp_path / "out" / row["series"] / "volume.nii.gz")
    np.testing.assert_array_equal(taken.array_zyx, series.stored * build.SLOPE + build.INTERCEPT)
    np.testing.assert_allclose(taken.affine, series.affine_ras, atol=1e-4)
    table = (tmp_path / "out" / "manifest.tsv").read_text(encoding="utf-8").splitlines()
    assert len({line.count("\t") for line in table}) == 1
    assert len(table) == 1 + len(rows)


def test_labels_and_hashes_are_stable_and_apart(tmp_path):
    for name in ("T1w.nii.gz", "T1_w.nii.gz", "sub/T1w.nii.gz"):
        random_volume(tmp_path / "study" / name)
    for out in ("one", "two"):
        assert ingest(tmp_path / "study", tmp_path / out, modality="mr") == 0
    labels = [row["series"] for row in accepted(tmp_path / "one")]
    assert len(set(labels)) == 3
    assert all(label.isalnum() for label in labels)
    assert manifest(tmp_path / "one") == manifest(tmp_path / "two")


def test_an_older_result_is_replaced_whole(tmp_path):
    random_volume(tmp_path / "study" / "a.nii.gz")
    (tmp_path / "out" / "stale").mkdir(parents=True)
    assert ingest(tmp_path / "study", tmp_path / "out", modality="mr") == 0
    assert not (tmp_path / "out" / "stale").exists()


def test_kspace_json_is_part_of_the_hash(tmp_path):
    rng = np.random.default_rng(0)
    array = (rng.normal(size=(2, 6, 8)) + 1j).astype(np.complex64)
    hashes = set()
    for spacing in (1, 2):
        write_kspace(tmp_path / "study", array, NOTES | {"spacing_mm": [5, spacing, spacing]})
        assert ingest(tmp_path / "study", tmp_path / "out", modality="mr") == 0
        hashes.add(accepted(tmp_path / "out")[0]["source_hash"])
    assert len(hashes) == 2


def test_as_a_process_without_torch(tmp_path):
    gap(tmp_path / "study")
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", _NO_TORCH, "--study", tmp_path / "study", "--out", tmp_path / "out"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(root)}
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "evenly spaced" in done.stderr


_NO_TORCH = (
    "import sys\n"
    "from pipeline.ingest import main\n"
    "import pipeline.export\n"
    "status = main(sys.argv[1:])\n"
    "assert 'torch' not in sys.modules and 'monai' not in sys.modules\n"
    "sys.exit(status)\n"
)
