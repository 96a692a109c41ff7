"""Notices when a study folder changes while it is read: half a transfer must not pass for a study."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.errors import InputError

State = dict[str, tuple[int, int, int]]


@contextmanager
def unchanged(study: Path, out: Path) -> Iterator[None]:
    """Raise InputError "changed" if a file of STUDY is added, removed or written before the block ends.

    It replaces an InputError or OSError of the block, of which a change is the likelier cause. What lies below the
    folder of STUDY in which OUT is, should it be there, and hidden files do not count.
    """
    own = _own_folder(study, out)
    before = _state(study, own)
    try:
        yield
    except (InputError, OSError) as error:
        _compare(study, before, _state(study, own), error)
        raise
    _compare(study, before, _state(study, own), None)


def _compare(study: Path, before: State, after: State, cause: Exception | None) -> None:
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    if not changed:
        return
    name = changed[0]
    what = "appeared" if name not in before else "vanished" if name not in after else "was changed"
    more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
    raise InputError(
        f"{study / name}{more} {what} while the study was read: run again when nothing writes there any more.",
        "changed",
    ) from cause


def _state(study: Path, own: str | None) -> State:
    """Size, time of change and inode by path."""
    state = {}
    for root, folders, files in os.walk(study):
        folders[:] = [name for name in folders if not name.startswith(".") and str(Path(root, name)) != own]
        for path in (Path(root, name) for name in files if not name.startswith(".")):
            try:
                found = path.stat()
            except OSError:
                continue
            state[str(path.relative_to(study))] = (found.st_size, found.st_mtime_ns, found.st_ino)
    return state


def _own_folder(study: Path, out: Path) -> str | None:
    """The folder right below STUDY in which OUT lies."""
    try:
        inside = out.resolve().relative_to(study.resolve())
    except ValueError:
        return None
    return str(study / inside.parts[0]) if inside.parts else None
