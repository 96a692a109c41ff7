"""What `ingest` refuses: one sentence, no file under its final name, no word about a patient."""

import errno
import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from pipeline import ingest_volume
from tests.data import dicom_builder as build
from tests.pipeline.ingest_builder import (
    DEMO,
    NOTES,
    accepted,
    add_report,
    gap,
    ingest,
    random_volume,
    write_kspace,
)


def _mixed(study, modality="CT"):
    uids = build.new_uids()
    build.write(build.Series(modality), study, uids, "A")
    build.write(build.Series(modality, seed=1), study, uids, "B")


def _cut(study):
    path = build.write(build.Series(), study)[2]
    path.write_bytes(path.read_bytes()[:-100])


def _cut_header(study):
    path = build.write(build.Series(), study)[0]
    path.write_bytes(path.read_bytes()[:300])


def _cut_jpeg2000(study):
    study.mkdir()
    for path in sorted((DEMO / "ct" / "lidc0314").iterdir())[:48]:
        (study / path.name).symlink_to(path)
    for path in list(study.iterdir()):
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    victim = study / "IM0007"
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])


def _noise_for_pixels(study):
    study.mkdir()
    for path in (DEMO / "ct" / "lidc0314").iterdir():
        shutil.copy(path, study)
    ds = pydicom.dcmread(study / "IM0007")
    ds.PixelData = pydicom.encaps.encapsulate([b"\x00\x01" * 500])
    ds["PixelData"].VR = "OB"
    ds.save_as(study / "IM0007")


def _garbage(study):
    build.write(build.Series(), study)
    (study / "IM999.dcm").write_bytes(b"garbage" * 100)


def _garbage_with_magic(study):
    build.write(build.Series(), study)
    (study / "IM999").write_bytes(bytes(128) + b"DICM" + b"\xff\x00garbage" * 50)


def _flat_dicom(study):
    for path in build.write(build.Series(), study):
        ds = pydicom.dcmread(path)
        ds.PixelData = bytes(len(ds.PixelData))
        ds.save_as(path)


def _cut_gz(study):
    random_volume(study / "v.nii.gz", shape=(20, 20, 20))
    path = study / "v.nii.gz"
    path.write_bytes(path.read_bytes()[:-3000])


def _with_nan(array):
    array = array.copy()
    array[0, 0, 0] = np.nan
    return array


def _with_infinity(array):
    return np.where(array == array.max(), np.inf, array)


def _image(shape, notes):
    rng = np.random.default_rng(0)
    return lambda study: write_kspace(study, (rng.normal(size=shape) + 1j).astype(np.complex64), notes)


CT, MR = {"modality": "ct"}, {"modality": "mr"}
BAD = {
    "gap": (gap, CT, "evenly spaced"),
    "tilt": (lambda study: build.write(build.Series(shift_mm=0.6), study), CT, "tilted gantry"),
    "mixed": (_mixed, CT, "two or more acquisitions"),
    "mixed-mr": (lambda study: _mixed(study, "MR"), MR, "cannot be told apart"),
    "truncated": (_cut, CT, "ends before its pixels"),
    "truncated-header": (_cut_header, CT, "IM002"),
    "truncated-jpeg2000": (_cut_jpeg2000, CT, "IM0007"),
    "undecodable-pixels": (_noise_for_pixels, CT, "cannot be decoded"),
    "undecodable-file": (_garbage, CT, "IM999.dcm"),
    "undecodable-magic": (_garbage_with_magic, CT, "IM999"),
    "constant-dicom": (_flat_dicom, CT, "all values are the same"),
    "nan": (lambda study: random_volume(study / "v.nii.gz", _with_nan), MR, "not finite"),
    "infinite": (lambda study: random_volume(study / "v.nii.gz", _with_infinity), MR, "not finite"),
    "constant": (lambda study: random_volume(study / "v.nii.gz", np.ones_like), MR, "all values are the same"),
    "truncated-gz": (_cut_gz, MR, "ends too early"),
    "kspace-shape": (_image((2, 6, 8), NOTES | {"shape": [2, 6, 9]}), MR, "its JSON says"),
    "kspace-axes": (_image((6, 8), NOTES), MR, "its JSON says"),
    "kspace-constant": (lambda study: write_kspace(study, np.zeros((2, 6, 8), np.complex64), NOTES), MR, "the same"),
    "kspace-no-json": (_image((2, 6, 8), None), MR, "no MR series can be used"),
    "empty": (lambda study: study.mkdir(), CT, "no series found"),
    "no-folder": (lambda study: None, CT, "not a folder"),
    "only-a-report": (add_report, CT, "objects without an image"),
    "only-a-localizer": (lambda study: build.write(build.Series(slices=2), study), CT, "too few slices"),
    "other-modality": (lambda study: build.write(build.Series("MR"), study), CT, "does not use"),
    "slab": (lambda study: build.write(build.Series(), study), CT | {"slices": [0, 8]}, "more than 7 slices"),
    "slab-order": (lambda study: build.write(build.Series(), study), CT | {"slices": [4, 2]}, "ingest.slices"),
    "key": (lambda study: build.write(build.Series(), study), CT | {"slice": None}, "slices"),
    "policy": (lambda study: build.write(build.Series(), study), CT | {"on_gap": "ignore"}, "ingest.on_gap"),
    "modality": (lambda study: build.write(build.Series(), study), {"modality": "pet"}, "choose one of ct, mr"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(tmp_path, capfd, name):
    make, settings, part = BAD[name]
    make(tmp_path / "study")
    (tmp_path / "results").mkdir()
    assert ingest(tmp_path / "study", tmp_path / "results" / "out", **settings) == 1
    captured = capfd.readouterr()
    assert part in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert list((tmp_path / "results").iterdir()) == []


def test_full_disk(tmp_path, capsys, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    random_volume(tmp_path / "study" / "v.nii.gz")
    monkeypatch.setattr(ingest_volume, "write_volume", fail)
    assert ingest(tmp_path / "study", tmp_path / "results" / "out", modality="mr") == 1
    captured = capsys.readouterr()
    assert "disk is full" in captured.err
    assert captured.err.count("\n") == 1
    assert list((tmp_path / "results").iterdir()) == []


def test_damage_beside_a_good_series_stops_the_study(tmp_path):
    build.write(build.Series(), tmp_path / "study" / "good")
    gap(tmp_path / "study" / "bad")
    assert ingest(tmp_path / "study", tmp_path / "out", modality="ct") == 1
    assert not (tmp_path / "out").exists()


def test_damage_in_another_modality_does_not(tmp_path):
    build.write(build.Series(), tmp_path / "study" / "good")
    build.write(build.Series("MR"), tmp_path / "study" / "bad")[3].unlink()
    assert ingest(tmp_path / "study", tmp_path / "out", modality="ct") == 0
    assert len(accepted(tmp_path / "out")) == 1


def test_an_error_leaves_the_older_result(tmp_path):
    gap(tmp_path / "study")
    (tmp_path / "out" / "older").mkdir(parents=True)
    assert ingest(tmp_path / "study", tmp_path / "out", modality="ct") == 1
    assert [path.name for path in tmp_path.joinpath("out").iterdir()] == ["older"]


PLANTED = "ZZPLANTEDZZ"
TEXTS = (
    "PatientName", "PatientID", "AccessionNumber", "StudyDescription", "SeriesDescription", "InstitutionName",
    "ReferringPhysicianName", "ProtocolName", "ImageComments", "StationName", "StudyID", "OperatorsName",
)  # fmt: skip


def test_nothing_about_the_patient_leaves_the_study(tmp_path, capsys):
    tags = dict.fromkeys(TEXTS, PLANTED)
    study = tmp_path / "study"
    build.write(build.Series(tags=tags), study / "good")
    build.write(build.Series(slices=2, tags=tags, seed=1), study / "few")
    for path in list((study / "good").iterdir()):
        ds = pydicom.dcmread(path)
        ds.add_new(0x00091001, "LO", PLANTED)
        ds.SOPInstanceUID = generate_uid()
        ds.save_as(path)
    assert ingest(study, tmp_path / "out", modality="ct") == 0
    captured = capsys.readouterr()
    assert PLANTED not in captured.out + captured.err
    for path in (tmp_path / "out").rglob("*"):
        assert PLANTED not in path.name
        if path.is_file():
            content = path.read_bytes()
            content = gzip.decompress(content) if path.suffix == ".gz" else content
            assert PLANTED.encode() not in content, path
    (study / "good" / "IM000").unlink()
    assert ingest(study, tmp_path / "again", modality="ct") == 1
    assert PLANTED not in capsys.readouterr().err


def test_values_of_broken_attributes_are_not_printed(tmp_path):
    study = tmp_path / "study"
    for path in build.write(build.Series(), study):
        raw = path.read_bytes()
        path.write_bytes(raw.replace(b"20200101", PLANTED.encode()[:8]))
    command = [sys.executable, "-m", "pipeline.ingest", "--study", study, "--out", tmp_path / "out"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0
    assert PLANTED[:8] not in done.stdout + done.stderr
    assert done.stderr == ""
