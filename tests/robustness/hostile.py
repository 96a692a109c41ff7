"""Attacks by name, and what they are made of."""

import zlib
from collections.abc import Callable
from pathlib import Path

ATTACKS: dict[str, tuple[Callable[[Path], None], str, str]] = {}
TRAPPED = "trapped"
MB = 2**20


def attack(name: str, expected: str = "", modality: str = "ct") -> Callable:
    """Register an attack. expected: a part of the sentence that refuses it, or "taken" where it must be read as usual
    nevertheless; "" for any sentence."""

    def register(write: Callable[[Path], None]) -> Callable[[Path], None]:
        ATTACKS[name] = (write, expected, modality)
        return write

    return register


class Trap:
    """Unpickling it makes a file called `trapped` in the working directory."""

    def __reduce__(self):
        return Path.touch, (Path(TRAPPED),)


def zeros_deflated(megabytes: int, gzipped: bool = False) -> bytes:
    """So many MB of zeros, deflated; made by repeating one flushed block."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packer.compress(bytes(MB))
    packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(MB)) + packer.flush(zlib.Z_FULL_FLUSH)
    head = b"\x1f\x8b\x08\0\0\0\0\0\0\xff" if gzipped else b""
    return head + block * megabytes + packer.flush()
