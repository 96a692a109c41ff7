"""What every stage's command line shares: one sentence for what the user can mend, a traceback for real bugs."""

import errno
import functools
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence

from data.errors import InputError

Main = Callable[[Sequence[str] | None], int]


def main_wrapper(main: Main) -> Main:
    """Decorate a stage's main(argv) -> int.

    Errors that the user can mend print one line on stderr and return 1: data.errors.InputError; any exception with a
    string attribute `user_message`; models.prior.PriorError (recognised by the name of the class, so that stages
    without torch stay so); a disk that is full, read-only or gone; too little memory (Python's, torch's).
    Everything else keeps its traceback. SIGTERM becomes SystemExit, so that temporary files are removed.
    """

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> int:
        _exit_on_sigterm()
        try:
            return main(argv) or 0
        except Exception as error:
            sentence = user_sentence(error)
            if sentence is None:
                raise
            print(sentence, file=sys.stderr)
            return 1

    return wrapped


def user_sentence(error: BaseException) -> str | None:
    """The one line to show for an error that the user can mend; None for a bug."""
    message = getattr(error, "user_message", None)
    if not isinstance(message, str):
        names = {base.__name__ for base in type(error).__mro__}
        message = _sentence_by_kind(error, names)
    return None if message is None else " ".join(message.split())


def _sentence_by_kind(error: BaseException, names: set[str]) -> str | None:
    if "PriorError" in names:
        return str(error)
    number = _error_number(error, names)
    if number is not None:
        return _disk_sentence(number, _file_name(error))
    out_of_memory = "OutOfMemoryError" in names or ("RuntimeError" in names and "can't allocate memory" in str(error))
    if isinstance(error, MemoryError) or out_of_memory:
        return "Not enough memory: use fewer views, slices or a smaller working grid, or a machine with more memory."
    return None


def _error_number(error: BaseException, names: set[str]) -> int | None:
    """The system's error number; writers in other languages (safetensors, HDF5) tell it in words alone."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if not names & {"OSError", "SafetensorError", "RuntimeError"}:
        return None
    found = re.search(r"\(os error (\d+)\)|errno = (\d+)", str(error))
    return int(found.group(1) or found.group(2)) if found else None


def _file_name(error: BaseException) -> str:
    """The file that an error is about; safetensors tells it in words alone."""
    name = getattr(error, "filename", None)
    if isinstance(name, str | bytes):
        return os.fsdecode(name)
    found = re.search(r'at path "([^"]+)"', str(error))
    return found.group(1) if found else ""


def _disk_sentence(number: int, name: str) -> str | None:
    """What the user can do about an error of files and disks; None where it must be the program's own fault."""
    match number:
        case errno.ENOSPC | errno.EDQUOT:
            return f"The disk is full{f' while writing {name}' if name else ''}: free some space and run again."
        case errno.EFBIG:
            return f"{name or 'A file'} may not grow any further: raise the limit on file sizes (ulimit -f), run again."
        case errno.EACCES | errno.EPERM | errno.EROFS:
            what = name or "A file or folder"
            return f"{what} may not be written or read: check its permissions, and whether its disk is read-only."
        case errno.ENOENT | errno.ENOTDIR | errno.ESTALE if name:
            return f"{name} is not there, or has gone while this ran: check the path, then run again."
        case errno.ENAMETOOLONG:
            return f"{name[:80] or 'A name'}... is too long for this disk: give folders and cohorts shorter names."
        case errno.EMFILE | errno.ENFILE:
            return "Too many files are open: raise the limit (ulimit -n) and run again."
    return None


def json_object(text: str, name: str = "--settings") -> dict:
    """Parse a JSON object given on the command line. Raises InputError when it is none."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{name} is not JSON ({error.msg} at character {error.pos}): give one object.") from error
    if not isinstance(value, dict):
        raise InputError(f"{name} is a JSON {type(value).__name__}: give one object.")
    return value


def _exit_on_sigterm() -> None:
    def leave(_signal, _frame):
        raise SystemExit(143)

    try:
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, leave)
    except ValueError:
        return  # signals belong to the main thread
