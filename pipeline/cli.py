"""What every stage's command line shares: one sentence for what the user can mend, a traceback for real bugs."""

import errno
import functools
import json
import signal
import sys
from collections.abc import Callable, Sequence

from data.errors import InputError

Main = Callable[[Sequence[str] | None], int]


def main_wrapper(main: Main) -> Main:
    """Decorate a stage's main(argv) -> int.

    Errors that the user can mend print one line on stderr and return 1: data.errors.InputError; any exception with a
    string attribute `user_message`; models.prior.PriorError (recognised by the name of the class, so that stages
    without torch stay so); a full disk; too little memory (Python's, torch's). Everything else keeps its traceback.
    SIGTERM becomes SystemExit, so that temporary files are removed.
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
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" while writing {error.filename}" if error.filename else ""
        return f"The disk is full{where}: free some space and run again."
    text = str(error)
    out_of_memory = "OutOfMemoryError" in names or ("RuntimeError" in names and "can't allocate memory" in text)
    if isinstance(error, MemoryError) or out_of_memory:
        return "Not enough memory: use fewer views, slices or a smaller working grid, or a machine with more memory."
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
