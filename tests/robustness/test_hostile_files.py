"""Hostile studies through `ingest`: refused in one sentence or read as usual, in bounded time and memory."""

import json
from pathlib import Path

import pytest

from tests.robustness.attacks import ATTACKS, TRAPPED
from tests.robustness.fault_runner import Request
from tests.robustness.stages import Runner, leftovers, snapshot

MEMORY_MB, CPU_S = 1500, 30


@pytest.fixture(scope="module")
def reader():
    """A runner that has imported nothing but ingest."""
    started = Runner()
    yield started
    started.close()


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.hostile(name)) for name in ATTACKS])
def test_attack(reader, tmp_path, record_property, name):
    write, expected, modality = ATTACKS[name]
    study, out = tmp_path / "study", tmp_path / "out" / "ingest"
    write(study)
    argv = ["--study", str(study), "--out", str(out), "--settings", json.dumps({"modality": modality})]
    fault = {"memory_mb": MEMORY_MB, "cpu_s": CPU_S, "folder": str(tmp_path)}
    done = reader(Request("pipeline.ingest", argv, str(tmp_path / "out"), fault))
    assert not done["timed_out"]
    assert done["signal"] == 0, done
    assert "Traceback" not in done["err"], done["err"]
    if expected == "taken":
        assert done["rc"] == 0, done["err"]
        rows = json.loads((out / "manifest.json").read_text())["series"]
        assert [row["accepted"] for row in rows].count(True) == 1
        assert all(part.isalnum() for part in (row["series"] for row in rows))
    else:
        assert done["rc"] == 1, done["out"]
        assert len(done["err"].strip().splitlines()) == 1, done["err"]
        assert expected in done["err"]
        assert "Not enough memory" not in done["err"]
        assert snapshot(out.parent) == {}
    assert leftovers(out.parent) == []
    assert not list(tmp_path.rglob(TRAPPED))
    assert not Path(TRAPPED).exists()
    end = "read as usual" if done["rc"] == 0 else "refused"
    record_property("measured", f"{end} in {done['seconds']:.1f} s with {done['peak_mb']:.0f} MB")
