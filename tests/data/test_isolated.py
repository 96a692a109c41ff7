"""Reading in a child process: results as read directly, and every way to fail as one InputError."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from data import isolated
from data.errors import InputError
from data.isolated import read_isolated
from data.kspace import KSpace, kspace_parts, read_hdf5, read_kspace
from data.projections import claims, read_projections
from data.projections_mat import helsinki_values, read_helsinki

ROOT = Path(__file__).parents[2]
READERS = "tests.data.isolated_readers:"
FINDINGS = ROOT / "tests" / "fuzz" / "findings"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "x.h5"
    path.write_bytes(b"0123456789")
    return path


def _refused(function, path, *arguments, **limits):
    with pytest.raises(InputError) as caught:
        read_isolated(READERS + function, path, *arguments, **limits)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


def test_values_come_back_as_they_are(file):
    back = read_isolated(READERS + "report", file, "a", 1.5, None)
    assert (back["name"], back["arguments"], back["count"]) == ("x.h5", ["a", 1.5, None], 3)
    assert back["one"].dtype == np.dtype(">i2")
    np.testing.assert_array_equal(back["one"], [[0, 3], [1, 4], [2, 5]])
    assert back["none"].shape == (0, 2)
    assert back["number"] == 0.1
    assert back["process"] != os.getpid()


def test_one_child_serves_many_files_and_a_failure_replaces_it(file):
    first, second = (read_isolated(READERS + "report", file)["process"] for _ in range(2))
    _refused("refuse", file)
    assert first == second != read_isolated(READERS + "report", file)["process"]


def test_array_larger_than_a_pipe_and_relative_path_and_odd_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    array = read_isolated(READERS + "array", Path("nothing there"), [300, 200, 10])
    np.testing.assert_array_equal(array, np.full((300, 200, 10), 1 + 2j, np.complex64))
    odd = Path(os.fsdecode(b"\xff\n.h5"))
    odd.write_bytes(b"")
    assert read_isolated(READERS + "report", odd)["name"] == odd.name


def test_errors_pass_unchanged(file):
    error = _refused("refuse", file)
    assert (str(error), error.reason) == (f"{file} is wrong: make it right.", "json")
    with pytest.raises(NotADirectoryError):
        read_isolated(READERS + "vanish", file)
    with pytest.raises(RuntimeError, match="a mistake in the program"):
        read_isolated(READERS + "fail", file)


@pytest.mark.hostile("file that crashes the library that reads it")
@pytest.mark.parametrize("function", ["abort", "half_a_reply"])
def test_crash(file, function):
    assert _refused(function, file).reason == "undecodable"
    assert read_isolated(READERS + "report", file)["name"] == file.name


@pytest.mark.hostile("file that its library takes for ever to read")
def test_time(file, monkeypatch):
    pytest.importorskip("resource", reason="no limit of processor time on this system")
    began = time.monotonic()
    error = _refused("spin", file, seconds=1)
    assert "longer than 1 s" in str(error)
    assert error.reason == "undecodable"
    monkeypatch.setattr(isolated, "PATIENCE", 1)
    assert "longer than 1 s" in str(_refused("sleep", file, 300, seconds=1))
    assert time.monotonic() - began < 60


@pytest.mark.hostile("file that its library takes gigabytes to read")
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited on Linux alone")
def test_memory(file):
    error = _refused("swell", file, memory=2**28)
    assert "0.2 GiB" in str(error)
    assert error.reason == "too-large"


def test_limits_are_counted_anew_for_each_file(file):
    shape = [2**20, 8]
    for _ in range(6):
        read_isolated(READERS + "array", file, shape, seconds=1, memory=2**28)
    with pytest.raises(InputError, match="memory"):
        read_isolated(READERS + "array", file, [2**20, 64], memory=2**28)


def test_nothing_is_left_in_the_temporary_folder(file, monkeypatch, tmp_path_factory):
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    read_isolated(READERS + "array", file, [1000, 1000])
    _refused("abort", file)
    assert list(folder.iterdir()) == []


def _running(process: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    return False


@pytest.mark.fault("kill -9 while a file is read in a child process")
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("busy", [True, False])
def test_no_child_outlives_its_parent(file, busy):
    read = "spin" if busy else "report"
    code = (
        "import sys; from pathlib import Path; from data.isolated import read_isolated\n"
        f"path = Path(sys.argv[1]); done = read_isolated('{READERS}{read}', path, seconds=2)\n"
        "path.write_text(str(done['process'])); sys.stdin.read()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(file)], cwd=ROOT, stdin=subprocess.PIPE)
    try:
        end = time.monotonic() + 60
        while file.read_text() in ("0123456789", "") and time.monotonic() < end:
            time.sleep(0.05)
        child = int(file.read_text())
        assert _running(child)
        parent.send_signal(signal.SIGKILL)
        while _running(child) and time.monotonic() < end:
            time.sleep(0.05)
        assert not _running(child)
    finally:
        parent.kill()
        parent.communicate()


def test_good_files_are_read_as_directly(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "k.h5"
    with h5py.File(path, "w") as handle:
        handle["kspace"] = (rng.normal(size=(3, 2, 8, 10)) + 1j).astype(np.complex64)
    path.with_suffix(".json").write_text('{"axes": "z coils y x", "spacing_mm": [4, 2, 1.1]}')
    read, direct = read_kspace(path), KSpace(**read_hdf5(path, ""))
    assert kspace_parts(path) == ("",)
    for name, value in vars(direct).items():
        assert type(getattr(read, name)) is type(value)
        np.testing.assert_array_equal(getattr(read, name), value)


def test_good_matlab_file_is_read_as_directly(tmp_path):
    from tests.fuzz.targets import TARGETS

    path = tmp_path / "x.mat"
    path.write_bytes(TARGETS["mat"].seeds()[1])
    assert claims(path)
    read = vars(read_helsinki(path))
    for name, value in helsinki_values(path).items():
        np.testing.assert_array_equal(read[name], value)


@pytest.mark.hostile("HDF5 and MATLAB files on which libraries crash, or take minutes or gigabytes")
@pytest.mark.parametrize(
    ("finding", "name"),
    [("fastmri-hdf5-takes-minutes", "x.h5"), ("ismrmrd-hdf5-takes-minutes", "x.h5"),
     ("ismrmrd-hdf5-takes-gigabytes", "x.h5"), ("mat-scipy-crashes", "x.mat")],
)  # fmt: skip
def test_what_fuzzing_had_found(tmp_path, finding, name, monkeypatch, record_property):
    pytest.importorskip("resource", reason="no limits on this system")
    monkeypatch.setattr(isolated, "SECONDS", 1)
    path = tmp_path / name
    path.write_bytes((FINDINGS / finding).read_bytes())
    if name == "x.h5":
        assert kspace_parts(path) == ("",)
    began = time.monotonic()
    with pytest.raises(InputError) as caught:
        read_kspace(path) if name == "x.h5" else read_projections(path)
    assert caught.value.reason in ("truncated", "undecodable", "too-large")
    record_property("measured", f"refused after {time.monotonic() - began:.1f} s at a limit of 1 s of processor time")
