"""Two at once on one output, whole runs killed, studies damaged while others run: whole results, and who had to give
way says so in one sentence."""

import json
import os
import random
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.robustness.stages import ROOT, STAGE_NAMES, chain, leftovers, snapshot, tiny_config, write_study
from tests.workflow.conftest import Workflow, kill, started, wait_for

KILLS = 10 if os.environ.get("SLICEWEAVE_LONG") else 3
# The undisturbed tree was made with one thread, and says so.
ONE_THREAD = ("--set-threads", "reconstruct=1", "support=1", "alarm=1")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.fault(f"two runs on one output in {name}")) for name in STAGE_NAMES]
)
def test_twins(runner, tree, name):
    stage = tree.stages[name]
    out = tree.trial(name)
    twins = runner(replace(stage.request(out), copies=2))
    assert 0 in [twin["rc"] for twin in twins]
    for twin in twins:
        assert twin["rc"] in (0, 1)
        assert "Traceback" not in twin["err"]
        assert twin["rc"] == 0 or len(twin["err"].strip().splitlines()[-1].split(": ")) > 1
    assert snapshot(out.parent) == tree.outputs[name]
    # A twin that failed leaves the states that its next run would take up.
    failed = any(twin["rc"] for twin in twins)
    assert [left for left in leftovers(out.parent) if not (failed and left.endswith(".states"))] == []


def locked(workflow: Workflow) -> bool:
    return any((workflow.folder / ".snakemake" / "locks").glob("*"))


def files_in(folder: Path) -> int:
    """Hidden ones and folders, too: what a run has got done, and what it is about to do."""
    return sum(len(folders) + len(files) for _, folders, files in os.walk(folder))


def ours(left: list[str]) -> list[str]:
    """Without what Snakemake keeps in folders that are outputs."""
    return [name for name in left if not name.endswith(".snakemake_timestamp")]


@pytest.fixture
def two_studies(priors, tree, tmp_path, monkeypatch) -> Workflow:
    """A cohort of two studies; the first is the tree's, under the tree's label."""
    monkeypatch.setenv("GIT_DIR", os.devnull)  # as in tests.robustness.stages
    studies = tmp_path / "studies"
    shutil.copytree(tree.study, studies / "study")
    write_study(studies / "second", seed=9)
    (tmp_path / "run").mkdir()
    return Workflow(tmp_path / "run", json.loads(json.dumps(tiny_config(studies, priors["ct"]))))


@pytest.mark.workflow
@pytest.mark.slow
@pytest.mark.fault("two Snakemake runs on one folder, then kill -9 of the first")
def test_second_run_and_a_killed_first(two_studies, tree):
    """The second run is told that the folder is in use; after the kill, one --unlock and the same command go on."""
    (series,) = (tree.results / "tiny" / "study").glob("ct*")
    target = f"results/tiny/study/{series.name}/measurement/measurement.safetensors"
    ingested = two_studies.results / "tiny" / "study" / "ingest"
    with started(two_studies, target) as first:
        assert wait_for(lambda: locked(two_studies) and ingested.is_dir(), first)
        os.killpg(first.pid, signal.SIGSTOP)  # however slowly the second starts, it comes in the midst of the first
        second = two_studies.run(target)
    assert second.returncode == 1
    assert "Directory cannot be locked" in second.stdout + second.stderr
    assert "Traceback" not in second.stdout + second.stderr
    assert two_studies.run("--unlock").returncode == 0
    done = two_studies.run(target)
    assert done.returncode == 0, done.stderr
    assert_equals_tree(two_studies.results, tree, "measurement")


def assert_equals_tree(results: Path, tree, *parts: str) -> None:
    """The first study's results are those of the undisturbed tree."""
    (series,) = (tree.results / "tiny" / "study").glob("ct*")
    for part in parts:
        expected = snapshot(series / part)
        assert expected
        assert snapshot(results / "tiny" / "study" / series.name / part) == expected


@pytest.mark.workflow
@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.fault(f"kill -9 of a whole Snakemake run at {KILLS} moments of its progress")
def test_whole_run_killed_again_and_again(two_studies, tree, record_property):
    """Every job of two studies; after each kill nothing is half, and the last run ends as if nothing had been.

    Moments are counts of files and folders, which come later on a busy machine, as the work does.
    """
    rng = random.Random("whole run")
    most = 2 * files_in(tree.results / "tiny")
    ends, in_the_midst = [], 0
    for moment in sorted(rng.sample(range(1, most), KILLS)):
        with started(two_studies, *ONE_THREAD) as begun:
            assert wait_for(lambda: locked(two_studies), begun)
            goal = max(moment, files_in(two_studies.results) + 1)
            assert wait_for(lambda goal=goal: files_in(two_studies.results) >= goal, begun)
            kill(begun)
        in_the_midst += len(ours(leftovers(two_studies.results))) > 0
        ends.append(snapshot(two_studies.results / "tiny" / "study"))
        assert two_studies.run("--unlock").returncode == 0
    done = two_studies.run(*ONE_THREAD)
    assert done.returncode == 0, done.stderr
    parts = ("measurement", "baseline", "reconstruct", "uncertainty", "alarm", "export")
    assert_equals_tree(two_studies.results, tree, *parts)
    last = snapshot(two_studies.results / "tiny" / "study")
    for end in ends:
        assert end.items() <= last.items()
    assert len(list((two_studies.results / "reports").glob("*.html"))) == 2
    assert ours(leftovers(two_studies.results)) == []
    record_property("measured", f"{KILLS} kills, {in_the_midst} in the midst of a write; both studies complete, the "
                                "one that was run before bit-equal to it")  # fmt: skip


@pytest.mark.workflow
@pytest.mark.slow
@pytest.mark.fault("one study of a cohort damaged while the others run")
def test_no_other_study_is_harmed(two_studies, tree):
    """Also when it is damaged before it is read, the other one's reconstruction is as ever; the run tells which."""
    (series,) = (tree.results / "tiny" / "study").glob("ct*")
    targets = [f"results/tiny/study/{series.name}/reconstruct/pam/run.json", "results/tiny/second/ingest"]
    victim = two_studies.folder.parent / "studies" / "second"
    with started(two_studies, *targets, *ONE_THREAD) as begun:
        assert wait_for(lambda: locked(two_studies), begun)
        for path in sorted(victim.iterdir()):
            path.write_bytes(path.read_bytes()[:600])
        assert begun.wait(900) == 1
    assert "Traceback" not in (two_studies.folder / "terminal.txt").read_text()
    assert_equals_tree(two_studies.results, tree, "measurement", "reconstruct")
    assert not (two_studies.results / "tiny" / "second" / "ingest").exists()
    assert "second" in (two_studies.results / "failures.tsv").read_text()


def test_chain_is_what_the_rules_call(tree, priors):
    """The stages of these tests take the arguments that the rules give them."""
    rules = " ".join(path.read_text() for path in (ROOT / "pipeline" / "rules").glob("*.smk"))
    for stage in chain(tree.study, tree.results, priors["ct"]).values():
        assert f"python -m {stage.module}" in rules
        for option in (word for word in stage.arguments if word.startswith("--")):
            assert option in rules
