"""Names of studies, and files in the working directory, through real Snakemake: nothing of theirs is run."""

import json
import os
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import find_studies
from pipeline.paths import label
from tests.robustness.hostile import TRAPPED
from tests.robustness.stages import tiny_config, write_study
from tests.workflow.conftest import Workflow

NAMES = [
    ";touch trapped;", "$(touch trapped)", "`touch trapped`", "-rf", "a\nb", "{wildcards.study} {input}", "ü ß 漢字",
    "n" * 255, "'\"|&<>*?", "%s%n",
]  # fmt: skip


@pytest.fixture
def hostile(tree, priors, tmp_path) -> Workflow:
    """A cohort of studies of such names, run in a folder of modules that would be imported from there."""
    studies, folder = tmp_path / "studies", tmp_path / "run"
    for name in NAMES:
        shutil.copytree(tree.study, studies / name)
    folder.mkdir()
    for name in ("numpy.py", "pydicom.py", "data.py", "pipeline.py", "sitecustomize.py", "json.py", "tqdm.py"):
        (folder / name).write_text("__import__('pathlib').Path('trapped').touch()\n")
    return Workflow(folder, json.loads(json.dumps(tiny_config(studies, priors["ct"]))))


@pytest.mark.workflow
@pytest.mark.slow
@pytest.mark.hostile("studies named by shell commands, and modules in the working directory")
def test_names_are_inert(hostile, record_property):
    # `python -m snakemake` looks for modules where it is started; users start `snakemake`, which does not.
    command = hostile.command("--until", "ingest")
    here = os.environ | {"PYTHONSAFEPATH": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=here, cwd=hostile.folder)
    assert done.returncode == 0, done.stdout + done.stderr
    made = sorted(path.name for path in (hostile.results / "tiny").iterdir())
    assert made == sorted(label(name) for name in NAMES)
    assert all((hostile.results / "tiny" / name / "ingest" / "manifest.json").is_file() for name in made)
    assert not list(hostile.folder.parent.rglob(TRAPPED))
    record_property("measured", f"{len(NAMES)} studies ingested under {len(set(made))} harmless names")


@pytest.mark.hostile("any study name at all")
@given(st.text(min_size=1, max_size=300))
def test_labels_are_letters_and_digits(name):
    made = label(name)
    assert made.isascii()
    assert made.isalnum()
    assert len(made) <= 46
    assert made == label(name)


@given(st.lists(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40)))
def test_different_names_stay_different(names):
    assert len({label(name) for name in names}) == len(set(names))


def test_studies_that_are_links_in_a_circle_are_no_studies(tmp_path):
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    write_study(tmp_path / "good")
    assert list(find_studies(tmp_path)) == ["good"]
