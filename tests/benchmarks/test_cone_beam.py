"""The page of cone beams, made from a small volume."""

import numpy as np
import pytest

from benchmarks import cone_beam, run_method
from data.nifti import write_volume


@pytest.fixture
def patient(tmp_path):
    """A cylinder of water with a bone, 64 x 64 pixels of 5 mm, 16 slices."""
    y, x = np.meshgrid(np.arange(64) - 31.5, np.arange(64) - 31.5, indexing="ij")
    hu = np.where(np.hypot(y, x) < 24, 0.0, -1000.0) + np.where(np.hypot(y - 8, x) < 5, 700.0, 0.0)
    path = tmp_path / "patient.nii.gz"
    write_volume(path, np.repeat(hu[None], 16, 0), np.diag([5.0, 5.0, 3.0, 1.0]), np.int16, "")
    return path


@pytest.fixture
def in_this_process(monkeypatch):
    """Methods run without a new Python each; how many did."""
    calls = []

    def start(command):
        calls.append(command)
        return run_method.main(command[3:])

    monkeypatch.setattr(cone_beam, "start", start)
    classical = cone_beam.specs(2)[:2]
    monkeypatch.setattr(cone_beam, "specs", lambda samples: classical)
    return calls


def test_the_page_has_every_method_the_picture_and_the_command(patient, in_this_process, tmp_path):
    arguments = ["--volume", str(patient), "--slices", "0", "16", "--work", str(tmp_path / "work")]
    assert cone_beam.main([*arguments, "--out", str(tmp_path / "docs")]) == 0
    page = (tmp_path / "docs" / "cone_beam.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith(("| fdk", "| cgls"))]
    assert len(rows) >= 2
    assert "patient, native slices 0 to 16, 2 joined: 8 slices of 64 x 64. 60 views over 360 degrees" in page
    assert "--volume patient.nii.gz" in page
    assert str(tmp_path) not in page.split("Machine")[0]
    assert (tmp_path / "docs" / "cone_beam.jpg").stat().st_size > 5000
    assert len(in_this_process) == 2


def test_search_prints_a_line_a_setting(patient, in_this_process, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cone_beam, "SEARCH", {"tv": [{"weight": 1.0, "iterations": 2}]})
    arguments = ["--volume", str(patient), "--slices", "0", "16", "--work", str(tmp_path / "work"), "--search"]
    assert cone_beam.main(arguments) == 0
    assert "\ntv_1: " in capsys.readouterr().out


def test_the_projectors_cost_is_told(capsys):
    assert cone_beam.main(["--time", "16"]) == 0
    assert capsys.readouterr().out.startswith("16^3 voxels, 60 views of 16 x 24: projection 0.0")


def test_a_method_that_fails_ends_in_one_sentence(patient, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cone_beam, "start", lambda command: 1)
    arguments = ["--volume", str(patient), "--slices", "0", "16", "--work", str(tmp_path / "work")]
    assert cone_beam.main(arguments) == 1
    assert "fdk failed" in capsys.readouterr().err
