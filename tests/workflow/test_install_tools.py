""".ci/install-tools, with an apt-get of the test's own: installs what is missing, and no failure of it fails a test."""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "install-tools"
PROGRAMS = {"dcmtk": "dcmdump", "dicom3tools": "dciodvfy", "bart": "bart", "chromium": "chromium", "orthanc": "Orthanc"}
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
# As apt-get does: where one of several packages is unknown, none is installed.
APT = """
echo "$@" >> {log}
case " $* " in *" update "*) exit {update};; *" {unknown} "*) exit 100;; esac
for word in "$@"; do
    case $word in
        {cases}
    esac
done
"""


@pytest.fixture
def machine(tmp_path):
    """A PATH of its own: bash's few helpers, none of the tools, an `id` and, if asked for, an apt-get."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "env", "timeout", "touch", "chmod"):
        (programs / name).symlink_to(shutil.which(name))

    def write(name: str, text: str) -> None:
        (programs / name).write_text(f"#!{shutil.which('bash')}\n{text}\n")
        (programs / name).chmod(0o755)

    def run(user: int, **apt: object) -> tuple[list[str], list[str]]:
        write("id", f"echo {user}")
        if apt:
            made = ((package, programs / name) for package, name in PROGRAMS.items())
            cases = "\n".join(f"{package}) touch {path}; chmod +x {path};;" for package, path in made)
            write("apt-get", APT.format(log=tmp_path / "log", cases=cases, **apt))
        command, environment = ["bash", SCRIPT], {"PATH": str(programs)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        log = (tmp_path / "log").read_text().splitlines() if (tmp_path / "log").is_file() else []
        return [line for line in done.stdout.splitlines() if line.startswith("Tests that need")], log

    return run


def test_everything_is_installed_at_once(machine):
    """But for Orthanc's plugin, whose place a test cannot change."""
    told, log = machine(0, update=0, unknown="none")
    assert len(log) == 2
    assert "dcmtk dicom3tools bart chromium orthanc" in log[1]
    assert all("Tests that need orthanc-dicomweb will" in line for line in told)


def test_what_no_release_has_is_skipped_and_the_rest_installed(machine):
    told, log = machine(0, update=0, unknown="dicom3tools")
    assert len(log) >= 7
    assert len(told) == 1
    assert "dicom3tools" in told[0]
    assert not any(name in told[0] for name in ("dcmtk", "bart", "chromium"))


def test_a_failing_mirror_is_one_sentence(machine):
    told, log = machine(0, update=100, unknown="none")
    assert len(log) == len(told) == 1
    assert "dcmtk dicom3tools bart chromium orthanc" in told[0]
    assert "apt-get install" in told[0]


@pytest.mark.parametrize(("user", "apt"), [(1000, {"update": 0, "unknown": "none"}), (0, {})])
def test_without_root_or_apt_get_nothing_is_tried(machine, user, apt):
    told, log = machine(user, **apt)
    assert log == []
    assert len(told) == 1
    assert "apt-get install dcmtk" in told[0]


def test_where_nothing_is_missing_nothing_is_said():
    if any(shutil.which(name) is None for name in PROGRAMS.values()):
        pytest.skip("not every program is installed here: make tools")
    if not PLUGIN.exists():
        pytest.skip("orthanc-dicomweb is not installed: make tools")
    done = subprocess.run(["bash", SCRIPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
