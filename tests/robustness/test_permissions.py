"""Input that may only be read is enough; output that may not be written, or input that may not be read, is told."""

import errno
import os
import shutil
import subprocess

import pytest

from tests.robustness.stages import STAGE_NAMES, Runner, leftovers, snapshot

NOBODY = 65534
STAGES_AT_HOME = ("ingest", "reconstruct", "export", "page")


@pytest.mark.fault("read-only study folder")
def test_read_only_study(runner, tree, tmp_path):
    """The study is mounted or marked read-only: it is read as ever, and nothing is written into it."""
    study = tmp_path / "study"
    shutil.copytree(tree.study, study)
    for path in (*study.iterdir(), study):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = sorted((path.name, path.stat().st_mtime_ns) for path in study.iterdir())
    out = tree.trial("ingest")
    request = tree.stages["ingest"].request(out, **_unprivileged(out.parent, study))
    request.argv[request.argv.index(str(tree.study))] = str(study)
    done = runner(request)
    assert done["rc"] == 0, done["err"]
    assert sorted((path.name, path.stat().st_mtime_ns) for path in study.iterdir()) == before


def _unprivileged(out, study) -> dict:
    """As nobody, where root runs the tests, for whom no permission counts; the output's folder is given to nobody."""
    if os.geteuid() != 0:
        return {}
    os.chown(out, NOBODY, NOBODY)
    for parent in (*out.parents, *study.parents):
        if parent.stat().st_mode & 0o005 != 0o005 and parent.stat().st_uid == os.geteuid():
            parent.chmod(parent.stat().st_mode | 0o055)
    return {"uid": NOBODY}


@pytest.mark.fault("unreadable study folder or file")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_unreadable_study(runner, tree, tmp_path, what):
    study = tmp_path / "study"
    shutil.copytree(tree.study, study)
    closed = sorted(study.iterdir())[2] if what == "file" else study
    out = tree.trial("ingest")
    request = tree.stages["ingest"].request(out, **_unprivileged(out.parent, study))
    request.argv[request.argv.index(str(tree.study))] = str(study)
    closed.chmod(0)
    try:
        done = runner(request)
    finally:
        closed.chmod(0o755)
    assert done["rc"] == 1
    assert "Traceback" not in done["err"]
    assert str(study) in done["err"].strip().splitlines()[-1]
    assert snapshot(out.parent) == {}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.fault(f"read-only output in {name}")) for name in STAGE_NAMES]
)
def test_read_only_output(runner, tree, name):
    """Every write of the stage is refused by a read-only file system: one sentence, nothing there; later it ends."""
    stage = tree.stages[name]
    out = tree.trial(name)
    done = runner(stage.request(out, errno=errno.EROFS, event=1))
    assert done["rc"] == 1
    assert "Traceback" not in done["err"]
    assert "whether its disk is read-only" in done["err"].strip().splitlines()[-1]
    assert snapshot(out.parent) == {}
    assert runner(stage.request(out))["rc"] == 0
    assert snapshot(out.parent) == tree.outputs[name]
    assert leftovers(out.parent) == []


@pytest.mark.fault("home and temporary folders full and read-only")
def test_full_home_and_temporary_folders(runner, tree, tmp_path, record_property):
    """matplotlib, torch and others like to keep things at home; the stages do not need it."""
    full = tmp_path / "full"
    full.mkdir()
    mounted = os.geteuid() == 0 and not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4096,ro", "tmpfs", str(full)], check=False, capture_output=True
    ).returncode
    if not mounted:
        full.chmod(0o500)
    names = ("HOME", "TMPDIR", "TMP", "TEMP", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR")
    started = Runner(runner.folder, **dict.fromkeys(names, str(full)))
    try:
        for name in STAGES_AT_HOME:
            out = tree.trial(name)
            done = started(tree.stages[name].request(out))
            assert done["rc"] == 0, (name, done["err"])
            assert snapshot(out.parent) == tree.outputs[name]
    finally:
        started.close()
        if mounted:
            subprocess.run(["umount", str(full)], check=False)
    record_property("measured", f"{', '.join(STAGES_AT_HOME)} end as ever")
