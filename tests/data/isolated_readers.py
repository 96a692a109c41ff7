"""Readers that fail in ways that libraries in C fail, for test_isolated.py."""

import os
import time
from pathlib import Path

import numpy as np

from data.errors import InputError
from data.isolated import read_isolated


def report(path: Path, *arguments: object) -> dict:
    print("libraries print")
    one = np.arange(6, dtype=">i2").reshape(2, 3).T
    return {"name": path.name, "arguments": arguments, "one": one, "none": np.zeros((0, 2)), "number": np.array(0.1),
            "count": np.int64(3), "process": os.getpid()}  # fmt: skip


def array(_path: Path, shape: list[int]) -> np.ndarray:
    return np.full(shape, 1 + 2j, np.complex64)


def refuse(path: Path) -> None:
    raise InputError(f"{path} is wrong: make it right.", "json")


def vanish(path: Path) -> None:
    (path / "nothing").read_bytes()


def fail(_path: Path) -> None:
    raise KeyError("a mistake in the program")


def abort(_path: Path) -> None:
    os.abort()


def half_a_reply(_path: Path) -> None:
    os.close(0)
    os._exit(0)


def sleep(_path: Path, seconds: float) -> None:
    time.sleep(seconds)


def spin(path: Path) -> None:
    path.write_text(str(os.getpid()))
    while True:
        pass


def swell(_path: Path) -> None:
    held = []
    while True:
        held.append(np.ones(2**22))


def by_content(path: Path) -> None:
    """Isolated, what the file says: "array", "abort" or "refuse"."""
    function = path.read_text()
    read_isolated(f"{__name__}:{function}", path, *([[2, 3]] if function == "array" else []))
