"""The child of data.isolated under a fuzzer: the product's own, in less time, and going on after files it refused.

Use replaces the child after any file that it fails on, and gives it 10 s of processor time; a fuzzer would do little
else. What ends the child, or takes too much memory in it, is counted here.
"""

import os
import resource
from pathlib import Path

from data import isolated

SECONDS = 1


class Child:
    """Changes data.isolated for the rest of this process. contained: files that ended, stalled or swelled the child."""

    def __init__(self):
        self.contained = 0
        self._ask, self._end = isolated._ask, isolated._Child.end
        isolated.SECONDS = SECONDS
        isolated._ask = self._count
        isolated._Child.end = self._end_if_dead

    def seconds(self) -> float:
        """Processor time of the children so far."""
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        process = isolated._Child.process
        running = 0.0
        if process is not None and process.poll() is None:
            fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
            running = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return used.ru_utime + used.ru_stime + running

    def end(self) -> None:
        self._end()

    def _count(self, child, request) -> dict:
        try:
            reply = self._ask(child, request)
        except isolated._Ended:
            self.contained += 1
            raise
        self.contained += "memory" in reply
        return reply

    def _end_if_dead(self) -> None:
        process = isolated._Child.process
        if process is not None and process.poll() is not None:
            self._end()
