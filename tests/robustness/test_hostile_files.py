"""Hostile studies through `ingest`: refused in one sentence or read as usual, in bounded time and memory."""

import json
from pathlib import Path

import pytest

from tests.robustness import (
    attacks_dicom,  # noqa: F401 -- registers its attacks, as the others do
    attacks_folder,  # noqa: F401
    attacks_images,
    attacks_kspace,
    attacks_projections,
    stages,
)
from tests.robustness.fault_runner import Request
from tests.robustness.hostile import ATTACKS, TRAPPED
from tests.robustness.stages import Runner, leftovers, snapshot

MEMORY_MB, CPU_S = 1500, 30


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A runner that has imported nothing but ingest."""
    started = Runner(tmp_path_factory.mktemp("reader"))
    yield started
    started.close()


VOXELS = attacks_projections.VIEWS.tobytes() * 4
HARMLESS = {
    "dicom": (stages.write_study, "ct"),
    "nifti": (attacks_images.nifti, "ct"),
    "nrrd": (lambda study: attacks_images.nrrd(study, *attacks_images.NRRD, "encoding: raw", data=VOXELS), "ct"),
    "metaimage": (lambda study: attacks_images.meta(study, VOXELS), "ct"),
    "npy": (attacks_kspace.plain_npy, "mr"),
    "fastmri": (attacks_kspace.plain_fastmri, "mr"),
    "bart": (attacks_kspace.plain_bart, "mr"),
    "geometry": (attacks_projections.geometry, "ct"),
    "tiff": (attacks_projections.plain_tiff, "ct"),
    "mat": (attacks_projections.plain_mat, "ct"),
}


def ingest(reader, tmp_path, study, modality):
    argv = ["--study", str(study), "--out", str(tmp_path / "out" / "ingest")]
    argv += ["--settings", json.dumps({"modality": modality})]
    fault = {"memory_mb": MEMORY_MB, "cpu_s": CPU_S, "folder": str(tmp_path)}
    return reader(Request("pipeline.ingest", argv, str(tmp_path / "out"), fault))


@pytest.mark.parametrize("name", HARMLESS)
def test_what_the_attacks_are_made_from_is_taken(reader, tmp_path, name):
    """So that an attack is refused for what is hostile in it."""
    write, modality = HARMLESS[name]
    write(tmp_path / "study")
    done = ingest(reader, tmp_path, tmp_path / "study", modality)
    assert (done["rc"], done["err"]) == (0, "")


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.hostile(name)) for name in ATTACKS])
def test_attack(reader, tmp_path, record_property, name):
    write, expected, modality = ATTACKS[name]
    study, out = tmp_path / "study", tmp_path / "out" / "ingest"
    write(study)
    done = ingest(reader, tmp_path, study, modality)
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
    record_property("measured", f"{end} in {done['seconds']:.2g} s with {done['peak_mb']:.0f} MB")
