"""Files and folders that appear under their final name complete or not at all, also after kill -9 and a full disk."""

import errno
import hashlib
import os
import secrets
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MAX_NAME_BYTES = 200
PART, OLD = ".part-", ".old-"
_MOVED_BY_OTHERS = (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, errno.EISDIR, errno.ENOTDIR)


@contextmanager
def atomic_path(final: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `final`, renamed to `final` when the block ends without an exception.

    The block creates a file or a folder there. The temporary name ends like the final one, so that writers which
    look at the suffix (.nii.gz) work. Parents are created. On any exception, an interrupt included, what the block
    wrote is removed and an older `final` is left as it was. What a killed process left of `final` is removed first.
    Of two processes that write `final` at once, the later one wins. Raises FileNotFoundError if nothing was written.
    """
    final = Path(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    _clear_up_after_killed(final)
    temporary = _beside(final, PART)
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


def _beside(final: Path, kind: str) -> Path:
    """A hidden name that no other process will take: kind, machine, process, a random part, the end of the name."""
    tail = os.fsencode(final.name)[-MAX_NAME_BYTES:].decode("utf-8", "ignore")
    return final.with_name(f"{kind}{_home()}-{os.getpid()}-{secrets.token_hex(4)}-{tail}")


def _home() -> str:
    """Six digits for this machine and its table of processes: a process number means nothing anywhere else."""
    try:
        namespace = Path("/proc/self/ns/pid").readlink()
    except OSError:
        namespace = ""
    return hashlib.sha256(f"{socket.gethostname()} {namespace}".encode()).hexdigest()[:6]


def _clear_up_after_killed(final: Path) -> None:
    """Remove what processes of this machine that are gone left of `final`; a folder they had moved away comes back."""
    tail = os.fsencode(final.name)[-MAX_NAME_BYTES:].decode("utf-8", "ignore")
    for entry in list(final.parent.iterdir()):
        kind = next((kind for kind in (PART, OLD) if entry.name.startswith(kind)), None)
        parts = entry.name.removeprefix(kind or "").split("-", 3)
        if kind is None or len(parts) != 4 or parts[0] != _home() or parts[3] != tail or not _gone(parts[1]):
            continue
        if kind == OLD and not final.exists():
            with suppress(OSError):
                entry.rename(final)
        else:
            _remove(entry)


def _gone(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except (ValueError, OverflowError, PermissionError):
        return False
    return False


def _replace(temporary: Path, final: Path) -> None:
    """Rename; a folder in the way is moved aside first, and again when another process has put one there meanwhile."""
    for attempt in range(100):
        old = _beside(final, OLD)
        try:
            if final.is_dir() and not final.is_symlink():
                final.replace(old)
            temporary.replace(final)
        except OSError as error:
            if old.exists() and not final.exists():
                with suppress(OSError):
                    old.replace(final)
            if error.errno not in _MOVED_BY_OTHERS or attempt == 99 or not temporary.exists():
                raise
        else:
            break
        finally:
            if final.exists():
                _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _sync_tree(path: Path) -> None:
    if path.is_dir():
        for child in path.iterdir():
            if not child.is_symlink():
                _sync_tree(child)
    elif stat.S_IMODE(path.stat().st_mode) == 0o600:
        with suppress(PermissionError):
            path.chmod(_usual_mode())
    _sync(path)


def _usual_mode() -> int:
    """Permissions of a new file under the user's umask, for writers that make private files whatever it says."""
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o666 & ~mask


def _sync(path: Path) -> None:
    """Flush to the disk; file systems that cannot flush a folder say EINVAL, which is no failure of the write."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)
