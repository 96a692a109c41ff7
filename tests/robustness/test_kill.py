"""kill -9 at ten moments in each stage: nothing half under a final name, and the next run ends as if nothing had been.

Half of the moments are at events on the disk (a file opened to be written, made, renamed or removed), half at random
times. The state that the reconstruction resumes from must give the same bits.
"""

import os
import random
import signal

import pytest

from tests.robustness.stages import STAGE_NAMES, leftovers, snapshot

# A page takes a second to write: its other moments are in the long version.
MOMENTS = 10
FEWER = {} if os.environ.get("SLICEWEAVE_LONG") else {"page": 4}


def moments(name: str, events: int, seconds: float) -> list[dict]:
    """Ten faults: at distinct events, as far as there are five, and at random times up to the end."""
    rng, number = random.Random(f"moments of {name}"), FEWER.get(name, MOMENTS)
    chosen = sorted(rng.sample(range(1, events + 1), min(number // 2, events)))
    times = sorted(rng.uniform(0.02, 0.95) * seconds for _ in range(number - len(chosen)))
    return [{"kill_event": event} for event in chosen] + [{"kill_after_s": time} for time in times]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.fault(f"kill -9 in {name}")) for name in STAGE_NAMES]
)
def test_killed(runner, tree, record_property, name):
    stage, undisturbed = tree.stages[name], tree.replies[name]
    hit, half = 0, 0
    for fault in moments(name, undisturbed["events"], undisturbed["seconds"]):
        out = tree.trial(name)
        killed = runner(stage.request(out, **fault))
        assert killed["signal"] in (0, signal.SIGKILL)
        hit += killed["signal"] == signal.SIGKILL
        assert "kill_event" not in fault or killed["signal"] == signal.SIGKILL
        left = snapshot(out.parent)
        half += len(leftovers(out.parent)) > 0
        assert left.items() <= tree.outputs[name].items()

        again = runner(stage.request(out))
        assert again["rc"] == 0, again["err"]
        assert snapshot(out.parent) == tree.outputs[name]
        assert leftovers(out.parent) == []
    # On a busy machine a stage can be through before its moment comes.
    assert hit >= FEWER.get(name, MOMENTS) // 3
    record_property("measured", f"{hit} kills, {half} of them in the midst of a write; 0 files lost or half")
