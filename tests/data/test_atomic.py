"""Complete or not at all."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data.atomic import atomic_directory, atomic_path, write_text


def _fail(writing, error):
    with writing as temporary:
        (temporary / "half" if temporary.is_dir() else temporary).write_text("half")
        raise error


def test_file_appears_whole_and_leaves_nothing_beside(tmp_path):
    final = tmp_path / "new" / "result.nii.gz"
    with atomic_path(final) as temporary:
        assert temporary.parent == final.parent
        assert temporary.name.endswith("result.nii.gz")
        temporary.write_bytes(b"half")
        assert not final.exists()
        temporary.write_bytes(b"whole")
    assert final.read_bytes() == b"whole"
    assert list(final.parent.iterdir()) == [final]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_error_keeps_the_old_file(tmp_path, error):
    final = tmp_path / "result"
    write_text(final, "old")
    with pytest.raises(error):
        _fail(atomic_path(final), error)
    assert final.read_text() == "old"
    assert list(tmp_path.iterdir()) == [final]


def test_folder_replaces_an_older_one_whole(tmp_path):
    final = tmp_path / "folder"
    (final / "stale").mkdir(parents=True)
    with atomic_directory(final) as temporary:
        (temporary / "fresh").write_text("1")
        assert (final / "stale").is_dir()
    assert [path.name for path in final.iterdir()] == ["fresh"]
    assert list(tmp_path.iterdir()) == [final]


def test_error_keeps_the_old_folder(tmp_path):
    final = tmp_path / "folder"
    final.mkdir()
    (final / "kept").write_text("1")
    with pytest.raises(OSError):
        _fail(atomic_directory(final), OSError)
    assert [path.name for path in final.iterdir()] == ["kept"]
    assert list(tmp_path.iterdir()) == [final]


def test_permissions_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        with atomic_path(tmp_path / "result") as temporary:
            temporary.touch(0o600)
    finally:
        os.umask(old)
    assert (tmp_path / "result").stat().st_mode & 0o777 == 0o640


def test_writing_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "result"):
        pass
    assert list(tmp_path.iterdir()) == []


DIE = """
import os, signal, sys
from pathlib import Path
from data import atomic
final, what = Path(sys.argv[1]), sys.argv[2]
if what == "between":  # the old folder is moved aside, the new one is not there yet
    original = Path.replace
    def replace(self, target):
        if self.name.startswith(".part-"):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, target)
    Path.replace = replace
with atomic.atomic_directory(final) as folder:
    (folder / "half").write_text("half")
    if what == "inside":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("moment", ["inside", "between"])
def test_what_a_killed_process_left_is_cleared_and_the_old_folder_comes_back(tmp_path, moment):
    final = tmp_path / "out"
    final.mkdir()
    (final / "old").write_text("old")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", DIE, final, moment], env=environment, check=False)
    assert done.returncode == -9
    assert len([path for path in tmp_path.iterdir() if path.name.startswith(".part-")]) == 1
    with pytest.raises(OSError):
        _fail(atomic_path(final), OSError(errno.ENOSPC, "full"))
    assert (final / "old").read_text() == "old"
    assert list(tmp_path.iterdir()) == [final]


def test_what_a_living_process_or_another_machine_writes_is_left_alone(tmp_path):
    final = tmp_path / "out"
    with atomic_path(final) as mine:
        mine.write_text("mine")
        elsewhere = tmp_path / ".part-abcdef-1-0011aabb-out"
        elsewhere.touch()
        with atomic_path(final) as other:
            other.write_text("other")
        assert mine.exists()
    assert final.read_text() == "mine"
    assert elsewhere.exists()


def test_a_name_of_255_bytes_can_be_written(tmp_path):
    final = tmp_path / ("\u00e4" * 120 + ".nii.gz")
    with atomic_path(final) as temporary:
        assert temporary.name.endswith(".nii.gz")
        temporary.touch()
    assert list(tmp_path.iterdir()) == [final]
