"""Runs stages with a fault put in, each in a process of its own that is forked after the imports are done.

One JSON request a line on stdin, one JSON reply a line on stdout; see `Request`. Run as
`python -m tests.robustness.fault_runner`.
"""
# ruff: noqa: PTH100, PTH112, PTH118 -- an audit hook is called for every file: strings are enough there

import importlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink", "shutil.rmtree")


@dataclass(frozen=True)
class Request:
    """A stage's main(argv) and what goes wrong in it.

    module: such as "pipeline.ingest". watch: the folder whose writes are counted as events, from 1.
    fault: {"kill_event": n}, {"kill_after_s": t}, {"errno": e, "event": n} (every write from the n-th on fails),
    {"file_limit": bytes}, {"uid": n}, {"memory_mb": m, "cpu_s": s}, {"read": n, "below": folder, "do": [...]}
    (changes files when the n-th file below the folder is opened to be read), {"environment": {...}}, {"folder": the
    working directory}; or several.
    copies: so many processes at once; the reply is then a list.
    """

    module: str
    argv: list[str]
    watch: str
    fault: dict = field(default_factory=dict)
    timeout_s: float = 120.0
    copies: int = 1


class Faults:
    """An audit hook that counts what touches the disk and strikes at the event asked for."""

    def __init__(self, request: Request):
        self.fault = request.fault
        self.watch = os.path.join(os.path.realpath(request.watch), "")
        self.below = os.path.join(os.path.realpath(self.fault.get("below", "/nowhere")), "")
        self.events = self.reads = 0

    def __call__(self, event: str, arguments: tuple) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes):
            path = os.path.abspath(os.fsdecode(arguments[0]))
            if arguments[2] & WRITES and path.startswith(self.watch):
                self._written(path)
            elif not arguments[2] & WRITES and path.startswith(self.below) and not os.path.isdir(path):
                self._read()
        elif event in CHANGES and isinstance(arguments[0], str | bytes | os.PathLike):
            path = os.path.abspath(os.fsdecode(arguments[0]))
            if path.startswith(self.watch):
                self._written(path, event)

    def _written(self, path: str, event: str = "open") -> None:
        self.events += 1
        if self.events == self.fault.get("kill_event"):
            os.kill(os.getpid(), signal.SIGKILL)
        creates = event in ("open", "os.mkdir")
        if creates and "errno" in self.fault and self.events >= self.fault["event"]:
            raise OSError(self.fault["errno"], os.strerror(self.fault["errno"]), path)

    def _read(self) -> None:
        self.reads += 1
        if self.reads == self.fault.get("read"):
            self.below = "/nowhere/"
            change(self.fault["do"])


def change(what: list[str]) -> None:
    """["remove", path], ["copy", from, to], ["append", path, bytes] or ["truncate", path, bytes]."""
    match what:
        case ["remove", path]:
            Path(path).unlink()
        case ["copy", source, target]:
            shutil.copy(source, target)
        case ["append", path, size]:
            with Path(path).open("ab") as handle:
                handle.write(bytes(int(size)))
        case ["truncate", path, size]:
            os.truncate(path, int(size))


def run(request: Request, main: Callable) -> dict:
    """Fork, run, and tell how it ended: rc (or None), signal, out, err, events, reads, seconds, peak_mb, timed_out."""
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.perf_counter()
        process = os.fork()
        if process == 0:
            os.close(reading)
            _child(request, main, out.fileno(), err.fileno(), writing)
        os.close(writing)
        timers = [threading.Timer(request.timeout_s, os.kill, (process, signal.SIGKILL))]
        if "kill_after_s" in request.fault:
            timers.append(threading.Timer(request.fault["kill_after_s"], os.kill, (process, signal.SIGKILL)))
        for timer in timers:
            timer.start()
        _, status, used = os.wait4(process, 0)
        for timer in timers:
            timer.cancel()
        seconds = time.perf_counter() - began
        with os.fdopen(reading) as pipe:
            counts = json.loads(pipe.read() or "{}")
        texts = []
        for handle in (out, err):
            handle.seek(0)
            texts.append(handle.read().decode(errors="replace"))
    ended = {"rc": os.WEXITSTATUS(status), "signal": 0} if os.WIFEXITED(status) else {"rc": None}
    if os.WIFSIGNALED(status):
        ended["signal"] = os.WTERMSIG(status)
    peak_mb = used.ru_maxrss / 1024
    told = {"out": texts[0], "err": texts[1], "seconds": seconds, "peak_mb": peak_mb}
    return ended | told | {"timed_out": seconds >= request.timeout_s} | counts


def _child(request: Request, main: Callable, out: int, err: int, counts: int) -> None:
    """Never returns. As `python -m MODULE ARGV` would end."""
    code = 1
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        _limit(request.fault)
        faults = Faults(request)
        sys.addaudithook(faults)
        try:
            code = main(request.argv) or 0
        except SystemExit as leave:
            code = leave.code if isinstance(leave.code, int) else 1
        except BaseException:
            traceback.print_exc()
        faults.fault = {}
        os.write(counts, json.dumps({"events": faults.events, "reads": faults.reads}).encode())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _limit(fault: dict) -> None:
    if "memory_mb" in fault:
        most = _virtual_bytes() + fault["memory_mb"] * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    if "cpu_s" in fault:
        resource.setrlimit(resource.RLIMIT_CPU, (fault["cpu_s"], fault["cpu_s"]))
    if "file_limit" in fault:
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault["file_limit"],) * 2)
    os.environ.update(fault.get("environment", {}))
    os.chdir(fault.get("folder", "."))
    if "uid" in fault:
        os.setgroups([])
        os.setgid(fault["uid"])
        os.setuid(fault["uid"])


def _virtual_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def serve() -> None:
    """Answer requests until stdin ends; a stage is imported when it is first asked for."""
    for line in sys.stdin:
        request = Request(**json.loads(line))
        main = importlib.import_module(request.module).main
        with ThreadPoolExecutor(request.copies) as pool:
            replies = list(pool.map(run, [request] * request.copies, [main] * request.copies))
        print(json.dumps(replies if request.copies > 1 else replies[0]), flush=True)


if __name__ == "__main__":
    serve()
