"""A full disk in each stage: one sentence, nothing half under a final name, and with space again it ends as ever."""

import errno
import os
import subprocess

import pytest

from tests.robustness.stages import STAGE_NAMES, leftovers, snapshot

STAGES = [pytest.param(name, marks=pytest.mark.fault(f"disk full in {name}")) for name in STAGE_NAMES]


def assert_refused(reply: dict, part: str, name: str) -> None:
    """Status 1, and the last line on stderr is the one sentence."""
    assert reply["rc"] == 1, reply
    assert "Traceback" not in reply["err"], reply["err"]
    assert part in reply["err"].strip().splitlines()[-1], (name, reply["err"])


def assert_recovers(runner, tree, name: str, out) -> None:
    again = runner(tree.stages[name].request(out))
    assert again["rc"] == 0, again["err"]
    assert snapshot(out.parent) == tree.outputs[name]
    assert leftovers(out.parent) == []


@pytest.mark.parametrize("name", STAGES)
def test_no_space_left_from_some_write_on(runner, tree, record_property, name):
    stage, events = tree.stages[name], tree.replies[name]["events"]
    chosen = sorted({1, max(events // 2, 1), max(events - 1, 1)})
    refused = 0
    for event in chosen:
        out = tree.trial(name)
        full = runner(stage.request(out, errno=errno.ENOSPC, event=event))
        if full["rc"] != 0:
            assert_refused(full, "disk is full", name)
            refused += 1
        assert snapshot(out.parent).items() <= tree.outputs[name].items()
        assert not [left for left in leftovers(out.parent) if ".states" not in left]
        assert_recovers(runner, tree, name, out)
    assert refused >= 1
    record_property("measured", f"{refused} of {len(chosen)} moments stopped it, each in one sentence")


@pytest.mark.parametrize("name", STAGES)
def test_a_limit_on_file_sizes_in_the_midst_of_a_write(runner, tree, name):
    """What a quota does, also to writers that are not Python: the write itself fails, part of the file being there."""
    stage = tree.stages[name]
    out = tree.trial(name)
    alone = tree.results.parent / "alone" / name
    largest = max(path.stat().st_size for path in alone.rglob("*") if path.is_file())
    assert_refused(runner(stage.request(out, file_limit=largest // 2)), "may not grow", name)
    assert snapshot(out.parent).items() <= tree.outputs[name].items()
    assert_recovers(runner, tree, name, out)


@pytest.fixture
def small_disk(tree):
    """A folder that is a file system of its own, a page of which is taken, and a function that sets its size anew."""
    place = tree.results.parent / "disk"
    place.mkdir(exist_ok=True)

    def resize(size: int, options: str = "") -> None:
        command = ["mount", "-t", "tmpfs", "-o", f"{options}size={size},mode=700", "tmpfs", str(place)]
        subprocess.run(command, check=True, capture_output=True)

    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    try:
        resize(4096)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine does not let root mount a small file system")
    (place / "filler").write_bytes(bytes(4096))
    yield place, resize
    subprocess.run(["umount", str(place)], check=False)


@pytest.mark.parametrize("name", STAGES)
def test_a_file_system_that_is_really_full(runner, tree, small_disk, name):
    stage, (place, resize) = tree.stages[name], small_disk
    alone = tree.results.parent / "alone" / name
    pages = sum(-(-path.stat().st_size // 4096) for path in alone.rglob("*") if path.is_file())
    for share in (0.0, 0.5, 0.8):
        resize((1 + int(share * pages)) * 4096, "remount,")
        out = place / str(share) / stage.out.name
        out.parent.mkdir()
        full = runner(stage.request(out))
        if full["rc"] != 0:
            assert_refused(full, "disk is full", name)
        assert full["rc"] == 1 or share
        assert snapshot(out.parent).items() <= tree.outputs[name].items()
        resize(2**26, "remount,")
        assert_recovers(runner, tree, name, out)
        subprocess.run(["rm", "-r", out.parent], check=True)
