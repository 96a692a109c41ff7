"""The key of the pseudonyms: made once, for its owner alone, never shown."""

import os
import re
import subprocess
import sys

import pytest

from data.dicom_deidentify import read_key
from data.errors import InputError
from tests.data import dicom_builder as build
from tests.pipeline.export_builder import export, make, slices


def test_same_key_same_mapping_over_runs(tmp_path):
    results, ingested, _ = make(tmp_path, build.Series())
    for name in ("one", "two", "other"):
        key = tmp_path / ("second" if name == "other" else "first")
        assert export(results, ingested, tmp_path / name, key_file=str(key)) == 0
    one, two, other = (slices(tmp_path / name / "dicom" / "pam_std")[0] for name in ("one", "two", "other"))
    assert one.PatientID == two.PatientID != other.PatientID
    assert one.SOPInstanceUID == two.SOPInstanceUID != other.SOPInstanceUID
    assert one.StudyInstanceUID == two.StudyInstanceUID != other.StudyInstanceUID


def test_key_is_made_once_for_the_owner_alone_and_never_shown(tmp_path, capfd):
    results, ingested, _ = make(tmp_path, build.Series())
    path = tmp_path / "keys" / "deidentify.key"
    old = os.umask(0)
    try:
        assert export(results, ingested, tmp_path / "one", key_file=str(path)) == 0
    finally:
        os.umask(old)
    key = path.read_text(encoding="ascii").strip()
    assert path.stat().st_mode & 0o777 == 0o600
    assert re.fullmatch("[0-9a-f]{64}", key)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    said = capfd.readouterr()
    assert "a new key for pseudonyms was made" in said.out
    assert key not in said.out + said.err
    for file in (entry for entry in (tmp_path / "one").rglob("*") if entry.is_file()):
        assert key.encode() not in file.read_bytes()
    assert export(results, ingested, tmp_path / "two", key_file=str(path)) == 0
    assert "new key" not in capfd.readouterr().out
    assert path.read_text(encoding="ascii").strip() == key


def test_many_at_once_get_one_key(tmp_path):
    code = "import sys; from pathlib import Path; from data.dicom_deidentify import read_key;"
    code += "print(read_key(Path(sys.argv[1]), lambda text: None).decode())"
    command = [sys.executable, "-c", code, str(tmp_path / "key")]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert len({process.communicate()[0] for process in started}) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]


def test_keys_that_are_none(tmp_path):
    said = []
    (tmp_path / "short").write_text("secret\n", encoding="ascii")
    (tmp_path / "folder").mkdir()
    for name in ("short", "folder", "short/below"):
        with pytest.raises(InputError) as caught:
            read_key(tmp_path / name, said.append)
        assert "export.key_file" in str(caught.value)
        assert "secret" not in str(caught.value)
    shared = tmp_path / "shared"
    shared.write_text("x" * 40, encoding="ascii")
    shared.chmod(0o644)
    assert read_key(shared, said.append) == b"x" * 40
    assert said == [f"others may read the key {shared}: chmod 600 it"]
