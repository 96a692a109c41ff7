"""Reading in a process of its own, under limits, by libraries in C that damaged input can crash, hang or swell.

`read_isolated("package.module:name", path, ...)` calls name(path, ...) in a child process and gives what it returns.
The child, `python -m data.isolated`, is started with the first such file, serves the next ones too, so that a folder
of many files pays for its imports once, and is replaced after any file that it fails on. It ends when its input ends,
with this process; while it reads, at its limit of processor time. Results come through a pipe, as JSON and raw arrays.
"""

import atexit
import contextlib
import importlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import InputError

try:
    import resource
except ImportError:  # Windows: then only time is limited
    resource = None

# A file of S bytes may take SECONDS + S / BYTES_A_SECOND of processor time, PATIENCE times as long by the clock, and
# MEMORY + GROWTH * S bytes, at most MOST_MEMORY: eight times the largest array that is read, 2**31 complex64 samples.
SECONDS, BYTES_A_SECOND, PATIENCE = 10, 2**21, 8
MEMORY, GROWTH, MOST_MEMORY = 2**30, 256, 8 * 2**34
# False: read in this process, for those who want to look into the readers, such as a fuzzer.
ISOLATE = True
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def read_isolated(
    function: str, path: Path, *arguments: Any, seconds: float | None = None, memory: int | None = None
) -> Any:
    """What FUNCTION ("module:name") returns for (path, *arguments): JSON, an array, or a dict with arrays as values.

    Arguments are JSON. Tuples come back as lists. seconds: of processor time; memory: bytes beyond the interpreter's
    own; without them by the file's size. InputError and OSError of the function are raised as they are. Raises
    InputError where the child crashed or took too long ("undecodable") or took too much memory ("too-large").
    """
    if not ISOLATE:
        return _function(function)(path, *arguments)
    size = path.stat().st_size if path.exists() else 0
    seconds = seconds or SECONDS + size / BYTES_A_SECOND
    memory = memory or min(MEMORY + GROWTH * size, MOST_MEMORY)
    with _LOCK:
        try:
            reply = _ask(_Child.current(), [os.fspath(Path.cwd()), function, str(path), arguments, seconds, memory])
        except _Ended as end:
            _Child.end()
            said = f"takes longer than {seconds:.0f} s" if end.late else "crashes the library that reads it"
            raise InputError(f"{path} {said}, as damaged files do: copy it again.", "undecodable") from end
        except BaseException:
            _Child.end()
            raise
        if "value" in reply:
            return reply["value"]
        _Child.end()
    _raise(path, reply, memory)


def _raise(path: Path, reply: dict, memory: int) -> None:
    if "input" in reply:
        raise InputError(*reply["input"])
    if "os" in reply:
        raise OSError(*reply["os"])
    if "memory" in reply:
        most = f"{memory / 2**30:.1f} GiB of memory"
        raise InputError(f"{path} takes more than {most}, too much for its size: copy it again.", "too-large")
    raise RuntimeError(f"reading {path} failed:\n{reply['bug']}")


class _Ended(Exception):
    def __init__(self, late: bool):
        super().__init__()
        self.late = late


class _Child:
    """The one child of this process."""

    process: subprocess.Popen | None = None
    owner = 0

    @classmethod
    def current(cls) -> subprocess.Popen:
        if cls.process is None or cls.owner != os.getpid() or cls.process.poll() is not None:
            cls.end()
            paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
            cls.process, cls.owner = subprocess.Popen(
                [sys.executable, "-P", "-m", "data.isolated"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | _ONE_THREAD | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
            ), os.getpid()  # fmt: skip
        return cls.process

    @classmethod
    def end(cls) -> None:
        """Also at exit. After a fork the child is the other process's."""
        process, cls.process = cls.process, None
        if process is None or cls.owner != os.getpid():
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()


_LOCK = threading.Lock()
atexit.register(_Child.end)


def _ask(child: subprocess.Popen, request: list) -> dict:
    """The child's reply, with its arrays in place. Raises _Ended where there is none, or half of one."""
    late = threading.Event()
    watch = threading.Timer(PATIENCE * request[-2], lambda: (late.set(), child.kill()))
    watch.start()
    try:
        child.stdin.write(json.dumps(request).encode() + b"\n")
        child.stdin.flush()
        reply = json.loads(child.stdout.readline() or b"null")
        if reply is not None and "value" in reply:
            reply["value"] = _decoded(child.stdout, reply)
    except (OSError, ValueError, TypeError, EOFError):
        reply = None
    finally:
        watch.cancel()
    if reply is None:
        child.kill()
        raise _Ended(child.wait() == -getattr(signal, "SIGXCPU", 0) or late.is_set())
    return reply


def _decoded(stream: Any, reply: dict) -> Any:
    value = reply["value"]
    for name, dtype, shape in reply["arrays"]:
        array = np.empty(shape, np.dtype(dtype))
        view = memoryview(array.reshape(-1).view(np.uint8))
        while len(view):
            if not (count := stream.readinto(view)):
                raise EOFError
            view = view[count:]
        if name is None:
            return array
        value[name] = array
    return value


# The child.


def serve() -> None:
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # libraries print to standard output
    for line in sys.stdin.buffer:
        reply, arrays = _answer(*json.loads(line))
        try:
            out.write(json.dumps(reply, default=lambda scalar: scalar.item()).encode() + b"\n")
            for array in arrays:
                out.write(memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8)))
            out.flush()
        except BrokenPipeError:
            os._exit(1)
        del reply, arrays


def _answer(folder: str, function: str, path: str, arguments: list, seconds: float, memory: int) -> tuple[dict, list]:
    try:
        os.chdir(folder)
        call = _function(function)
        _limit(seconds, memory)
        value = call(Path(path), *arguments)
        named = value.items() if isinstance(value, dict) else [(None, value)]
        arrays = {name: item for name, item in named if isinstance(item, np.ndarray)}
        if isinstance(value, dict):
            value = {name: item for name, item in value.items() if name not in arrays}
        described = [(name, array.dtype.str, array.shape) for name, array in arrays.items()]
        return {"value": None if None in arrays else value, "arrays": described}, list(arrays.values())
    except InputError as error:
        return {"input": [str(error), error.reason]}, []
    except MemoryError:
        return {"memory": True}, []
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            return {"os": [error.errno, error.strerror, error.filename]}, []
        return {"bug": traceback.format_exc()}, []


def _function(name: str) -> Any:
    module, attribute = name.split(":")
    return getattr(importlib.import_module(module), attribute)


def _limit(seconds: float, memory: int) -> None:
    """Soft limits, counted from what this process has taken so far; stricter ones of the user's stay."""
    if resource is None:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    _lower(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime + seconds))
    _lower(resource.RLIMIT_CORE, 0)
    with contextlib.suppress(OSError):  # no /proc: then memory is not limited
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _lower(resource.RLIMIT_AS, pages * resource.getpagesize() + memory)


_FIRST: dict[int, tuple[int, int]] = {}


def _lower(what: int, value: int) -> None:
    soft, hard = _FIRST.setdefault(what, resource.getrlimit(what))
    bounds = [value, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)]
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(what, (min(bounds), hard))


if __name__ == "__main__":
    serve()
