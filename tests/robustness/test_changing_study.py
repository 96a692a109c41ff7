"""A study folder that changes while it is read: the state before, the state after, or one sentence; never a mixture."""

import random
import shutil
from dataclasses import replace

import pytest

from tests.robustness.stages import leftovers, snapshot, write_study

MOMENTS = 10


def faults(study, spare):
    """What happens to the study, as tests.robustness.fault_runner.change understands it."""
    victim = sorted(study.iterdir())[4]
    return {
        "removed": ["remove", str(victim)],
        "replaced by a slice of another patient": ["copy", str(spare), str(victim)],
        "grown": ["append", str(victim), "4096"],
        "cut short": ["truncate", str(victim), "700"],
        "joined by a new file": ["copy", str(spare), str(study / "IM999")],
    }


@pytest.mark.parametrize(
    "what",
    [
        pytest.param(what, marks=pytest.mark.fault(f"a file {what} while its study is read"))
        for what in (
            "removed", "replaced by a slice of another patient", "grown", "cut short", "joined by a new file"
        )
    ],
)  # fmt: skip
def test_changed_while_it_is_read(runner, tree, tmp_path, record_property, what):
    write_study(tmp_path / "other", seed=5)
    spare = sorted((tmp_path / "other").iterdir())[4]
    request = tree.stages["ingest"].request(tmp_path / "x" / "ingest", read=10**9, below=str(tree.study), do=[])
    reads = runner(request)["reads"]
    refused = 0
    for moment in sorted(random.Random(what).sample(range(1, reads + 1), min(MOMENTS, reads))):
        study = tmp_path / str(moment)
        shutil.copytree(tree.study, study)
        out = tmp_path / "out" / str(moment) / "ingest"
        do = faults(study, spare)[what]
        request = tree.stages["ingest"].request(out, read=moment, below=str(study), do=do)
        request = replace(request, argv=[str(study) if word == str(tree.study) else word for word in request.argv])
        done = runner(request)
        assert done["reads"] >= moment
        assert done["rc"] == 1, done["out"]
        assert "while the study was read: run again" in done["err"].strip().splitlines()[-1]
        assert "Traceback" not in done["err"]
        assert snapshot(out.parent) == {}
        assert leftovers(out.parent) == []
        refused += 1

        again = runner(replace(request, fault={}))
        assert "while the study was read" not in again["err"]
        assert again["rc"] == (0 if what in ("grown", "joined by a new file") else 1)
    record_property("measured", f"{refused} of {refused} moments told in one sentence")


@pytest.fixture
def borrowed(tree, tmp_path):
    """The study's first file, put back after the test."""
    first = sorted(tree.study.iterdir())[0]
    shutil.copy2(first, tmp_path / "kept")
    yield first
    shutil.copy2(tmp_path / "kept", first)


@pytest.mark.fault("a source file vanishes between ingest and export")
def test_vanished_after_it_was_read(runner, tree, borrowed):
    borrowed.unlink()
    assert_export_names(borrowed, runner, tree)


@pytest.mark.fault("a source file becomes another patient's between ingest and export")
def test_changed_after_it_was_read(runner, tree, borrowed, tmp_path):
    """Export takes the series' header from the source again; another patient's must not get in."""
    write_study(tmp_path / "other", seed=5)
    shutil.copy(sorted((tmp_path / "other").iterdir())[0], borrowed)
    assert_export_names(borrowed, runner, tree)


def assert_export_names(path, runner, tree):
    out = tree.trial("export")
    done = runner(tree.stages["export"].request(out))
    assert done["rc"] == 1
    assert "Traceback" not in done["err"]
    assert str(path) in done["err"].strip().splitlines()[-1]
    assert snapshot(out.parent) == {}
