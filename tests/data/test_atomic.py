"""Complete or not at all."""

import os

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
