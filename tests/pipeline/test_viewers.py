"""Files for desktop viewers: every path in them exists and opens; viewers are stood in for by what they document."""

import json
import runpy
import subprocess
import sys
import types
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib
import nibabel
import numpy as np
import pytest

from pipeline.viewers import Layer, write_viewers
from tests.data import dicom_builder as build
from tests.pipeline.export_builder import export, make

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebooks" / "look_at_a_result.ipynb"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An export in a folder with a space and a quote in its name."""
    folder = tmp_path_factory.mktemp("viewers") / "it's a folder"
    window = {"WindowCenter": -450, "WindowWidth": 2000}
    results, ingested, _ = make(folder, build.Series(rows=24, columns=24, tags=window))
    assert export(results, ingested, results / "export") == 0
    return results / "export"


def kind(path):
    return Path(path).name.split("_rec-")[1].split("_ct.nii")[0]


def test_slicer_scene_names_volumes_that_are_there(exported):
    scene = exported / "viewers" / "slicer_scene.mrml"
    root = ET.parse(scene).getroot()  # noqa: S314
    nodes = {node.get("id"): node for node in root}
    assert len(nodes) == len(list(root))
    volumes = root.findall("Volume")
    assert len(volumes) == 7
    for volume in volumes:
        stored, shown = nodes[volume.get("storageNodeRef")], nodes[volume.get("displayNodeRef")]
        name = stored.get("fileName")
        assert not Path(name).is_absolute()
        assert nibabel.load(scene.parent / name).shape == (12, 12, 5)
        assert float(shown.get("window")) > 0
        if "desc-recon" in name:
            assert (float(shown.get("window")), float(shown.get("level"))) == (2000, -450)
    for view in root.findall("SliceComposite"):
        assert "desc-recon" in _file(nodes, view.get("backgroundVolumeID"))
        assert "stat-std" in _file(nodes, view.get("foregroundVolumeID"))


def _file(nodes, volume):
    return nodes[nodes[volume].get("storageNodeRef")].get("fileName")


class Recorder:
    """Stands for a viewer's object: every call is kept with its name, and answered by another recorder."""

    def __init__(self, calls, name=""):
        self.calls, self.name = calls, name

    def __getattr__(self, name):
        return Recorder(self.calls, f"{self.name}.{name}")

    def __call__(self, *arguments, **named):
        self.calls.append((self.name.lstrip("."), arguments, named))
        return Recorder(self.calls, self.name)

    def __getitem__(self, index):
        return 100.0


def stand_in(name, calls):
    """A module whose functions record their calls."""
    module = types.ModuleType(name)
    module.__getattr__ = lambda attribute: Recorder(calls, attribute)
    return module


def test_slicer_script_loads_and_layers_the_volumes(exported, monkeypatch):
    calls = []
    monkeypatch.setitem(sys.modules, "slicer", stand_in("slicer", calls))
    runpy.run_path(str(exported / "viewers" / "open_in_slicer.py"))
    loaded = [arguments[0] for name, arguments, _ in calls if name == "util.loadVolume"]
    assert len(loaded) == 7
    assert all(nibabel.load(path).shape == (12, 12, 5) for path in loaded)
    assert [kind(path) for path in loaded[:2]] == ["pam_desc-recon", "pam_stat-std_desc-uncertainty"]
    (layers,) = [named for name, _, named in calls if name == "util.setSliceViewerLayers"]
    assert layers["foregroundOpacity"] == 0.5
    windows = [arguments for name, arguments, _ in calls if name.endswith("SetWindowLevelMinMax")]
    assert windows[0] == (-1450.0, 550.0)


def test_mricrogl_script_loads_base_and_overlay(exported, monkeypatch, tmp_path):
    calls = []
    monkeypatch.setitem(sys.modules, "gl", stand_in("gl", calls))
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(exported / "viewers" / "mricrogl.py"))
    assert [name for name, _, _ in calls[:5]] == ["resetdefaults", "loadimage", "minmax", "overlayload", "minmax"]
    assert kind(calls[1][1][0]) == "pam_desc-recon"
    assert kind(calls[3][1][0]) == "pam_stat-std_desc-uncertainty"
    assert nibabel.load(calls[1][1][0]).shape == nibabel.load(calls[3][1][0]).shape
    assert calls[2][1] == (0, -1450.0, 550.0)


@pytest.mark.parametrize("program", ["fsleyes", "itksnap"])
def test_shell_scripts_start_the_viewer_with_files_that_are_there(exported, tmp_path, program):
    """A stand-in on the path prints its arguments, each on a line."""
    fake = tmp_path / program
    fake.write_text('#!/bin/sh\npwd\nprintf "%s\\n" "$@"\n', encoding="utf-8")
    fake.chmod(0o755)
    command, found = ["sh", str(exported / "viewers" / f"{program}.sh")], {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/", env=found)
    folder, *words = done.stdout.splitlines()
    files = [word for word in words if word.endswith(".nii.gz")]
    assert len(files) == 7
    assert all((Path(folder) / name).is_file() for name in files)
    if program == "itksnap":
        assert words[0] == "-g"
        assert kind(words[1]) == "pam_desc-recon"
    else:
        assert kind(files[-1]) == "pam_stat-std_desc-uncertainty"
        assert words[-2:] == ["-a", "50"]


def test_readme_names_every_viewer_and_the_purpose(exported):
    text = (exported / "viewers" / "README.txt").read_text(encoding="utf-8")
    for word in ("3D Slicer", "ITK-SNAP", "FSLeyes", "MRIcroGL", "OHIF", "RESEARCH ONLY"):
        assert word in text
    for word in text.split():
        if word.endswith(".nii.gz"):
            assert (exported / word).is_file()


def test_a_single_baseline_is_opened_too(tmp_path):
    write_viewers(tmp_path, [Layer("sub-a/ct/a b.nii.gz", "fbp <baseline>", (0.0, 1.0), "other")], "RESEARCH ONLY")
    root = ET.parse(tmp_path / "viewers" / "slicer_scene.mrml").getroot()  # noqa: S314
    assert root.find("Volume").get("name") == "fbp <baseline>"
    assert root.find("SliceComposite").get("foregroundVolumeID") == ""
    assert "'sub-a/ct/a b.nii.gz'" in (tmp_path / "viewers" / "itksnap.sh").read_text(encoding="utf-8")
    assert "overlayload" not in (tmp_path / "viewers" / "mricrogl.py").read_text(encoding="utf-8")


def cells(widgets):
    """Sources of the notebook's code cells, without or up to those that make widgets."""
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] for cell in code)
    return ["".join(cell["source"]) for cell in code if widgets or "widget" not in cell["metadata"].get("tags", [])]


@pytest.mark.parametrize("widgets", [False, True], ids=["pictures", "with-ipyniivue"])
def test_notebook_runs_on_an_export(exported, monkeypatch, capsys, widgets):
    if widgets:
        pytest.importorskip("ipyniivue", reason="ipyniivue is optional: pip install ipyniivue")
    matplotlib.use("Agg")
    monkeypatch.setenv("SLICEWEAVE_EXPORT", str(exported))
    space = {}
    for source in cells(widgets):
        exec(compile(source, str(NOTEBOOK), "exec"), space)  # noqa: S102
    said = capsys.readouterr().out
    assert "Like the training patients." in said
    assert "standard deviation of the posterior samples, pam (HU)" in said
    assert np.isclose(space["mean"].mean(), nibabel.load(space["recon_path"]).get_fdata().mean())
    assert len(space["figure"].axes) == 8
    if widgets:
        assert len(space["viewer"].volumes) == 2
