"""The fuzz targets' contract on their seeds, on kept findings, and on a few mutations that hypothesis chooses.

The long, coverage-guided version is `python -m tests.fuzz.run`.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.seeds import join, split
from tests.fuzz.targets import TARGETS, run

FINDINGS = sorted((Path(__file__).parent / "findings").iterdir())
EXAMPLES = 12


@pytest.fixture(autouse=True, scope="module")
def _impatient():
    """Files that stall a library do so for one second of processor time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data.isolated.SECONDS", 1)
        yield


@pytest.fixture(scope="module", params=TARGETS)
def target(request):
    if request.param in ("ismrmrd", "fastmri", "xml"):
        pytest.importorskip("ismrmrd", reason="ismrmrd-python, which writes the seeds, is not installed")
    if request.param in ("nrrd", "metaimage"):
        pytest.importorskip("SimpleITK", reason="SimpleITK, which writes the seeds, is not installed")
    return TARGETS[request.param], TARGETS[request.param].seeds()


def test_seeds_are_taken(target, tmp_path):
    chosen, seeds = target
    assert {run(chosen, data, tmp_path) for data in seeds} == {"taken"}
    assert list(tmp_path.iterdir()) == []


@settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)
@given(
    seed=st.integers(0, 10),
    cut=st.one_of(st.just(1.0), st.floats(0, 1)),
    changes=st.lists(st.tuples(st.floats(0, 0.999), st.binary(max_size=9), st.booleans()), max_size=6),
)
def test_mutations_are_refused_in_a_sentence_or_read(target, tmp_path, seed, cut, changes):
    """Truncated, overwritten or with bytes put in between; `run` raises for anything but InputError."""
    chosen, seeds = target
    data = seeds[seed % len(seeds)]
    data = data[: round(cut * len(data))]
    for place, piece, insert in changes:
        at = int(place * len(data))
        data = data[:at] + piece + data[at if insert else at + len(piece) :]
    assert run(chosen, data, tmp_path) in ("taken", "refused", "left out")


@pytest.mark.hostile("inputs that fuzzing had found")
@pytest.mark.parametrize("path", FINDINGS, ids=lambda path: path.name)
def test_findings_stay_fixed(path, tmp_path):
    """File names begin with the target's."""
    assert run(TARGETS[path.name.split("-")[0]], path.read_bytes(), tmp_path) in ("taken", "refused", "left out")


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=4))
def test_parts_survive_joining(parts):
    assert split(join(*parts), len(parts)) == parts


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
def test_the_fuzzer_runs_and_counts(tmp_path):
    command = [sys.executable, "-m", "tests.fuzz.run", "--target", "xml", "--seconds", "1", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    figures = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout
    assert figures["executions"] > 20
    assert figures["findings"] == {}
    assert len(list((tmp_path / "xml" / "corpus").iterdir())) > 2


def test_what_the_child_contains_is_no_finding_and_the_child_goes_on(tmp_path):
    """The first and last input are read, the second aborts the child, the third is refused."""
    code = (
        "import json, sys; from pathlib import Path; from tests.fuzz.run import Session\n"
        "from tests.data.isolated_readers import by_content; from tests.fuzz.targets import Target\n"
        "session = Session('mat', 1e9, Path(sys.argv[1]))\n"
        "session.target = Target(('x',), list, read=by_content, isolated=True)\n"
        "for data in (b'array', b'abort', b'refuse', b'array'):\n"
        "    session.one(data)\n"
        "print(json.dumps([session.ends, session.findings, session.child.seconds() > 0])); session.child.end()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    ends, findings, used = json.loads(done.stdout)
    assert ends == {"taken": 2, "contained": 1, "refused": 1}, done.stderr
    assert findings == {}
    assert used
    assert not (tmp_path / "guiding").exists()
