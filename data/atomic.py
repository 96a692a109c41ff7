"""Files and folders that appear under their final name complete or not at all."""

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(final: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `final`, renamed to `final` when the block ends without an exception.

    The block creates a file or a folder there. The temporary name ends like the final one, so that writers which
    look at the suffix (.nii.gz) work. Parents are created. On any exception, an interrupt included, what the block
    wrote is removed and an older `final` is left as it was. Raises FileNotFoundError if the block wrote nothing.
    """
    final = Path(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".part-{os.getpid()}-{secrets.token_hex(4)}-{final.name}")
    try:
        yield temporary
        _sync_tree(temporary)
        _replace(temporary, final)
    except BaseException:
        _remove(temporary)
        raise
    _sync(final.parent)


@contextmanager
def atomic_directory(final: str | os.PathLike) -> Iterator[Path]:
    """As `atomic_path`, with the temporary folder made already. An older folder `final` is replaced whole."""
    with atomic_path(final) as temporary:
        temporary.mkdir()
        yield temporary


def write_text(final: str | os.PathLike, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(final) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _replace(temporary: Path, final: Path) -> None:
    if not final.is_dir() or final.is_symlink():
        temporary.replace(final)
        return
    old = final.with_name(f".old-{os.getpid()}-{secrets.token_hex(4)}-{final.name}")
    final.replace(old)
    try:
        temporary.replace(final)
    except BaseException:
        old.replace(final)
        raise
    shutil.rmtree(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync_tree(path: Path) -> None:
    if path.is_dir():
        for child in path.iterdir():
            if not child.is_symlink():
                _sync_tree(child)
    elif stat.S_IMODE(path.stat().st_mode) == 0o600:
        path.chmod(_usual_mode())
    _sync(path)


def _usual_mode() -> int:
    """Permissions of a new file under the user's umask, for writers that make private files whatever it says."""
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o666 & ~mask


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
