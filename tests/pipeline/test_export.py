"""The export stage: names, sidecars, provenance and its checksums, and what it refuses."""

import json
import shutil
import subprocess

import nibabel
import numpy as np
import pytest

from data.nifti import write_volume
from pipeline import provenance
from tests.data import dicom_builder as build
from tests.pipeline.export_builder import PLANTED, WEIGHTS, arguments, export, make, slices, stage, write_json


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """An oblique CT series, exported with a benchmark of an earlier stage beside it."""
    folder = tmp_path_factory.mktemp("export")
    results, ingested, mean = make(folder, build.Series(orientation=build.OBLIQUE))
    write_json(folder / "benchmarks" / "reconstruct_pam.jsonl", {"s": 12.5, "max_rss": 812.25})
    options = arguments(results, ingested, results / "export", config_hash="c0" * 32)
    assert stage.main([*options, "--benchmarks", str(folder / "benchmarks")]) == 0
    return results, ingested, mean


def sidecar(results, ingested, entities="desc-recon"):
    name = f"sub-study_acq-{ingested.name}_rec-pam_{entities}_ct.json"
    return json.loads((results / "export" / "sub-study" / "ct" / name).read_text(encoding="utf-8"))


@pytest.mark.interop("write", "NIfTI with BIDS-like names", "nibabel")
def test_names_and_sidecars(done):
    results, ingested, mean = done
    stem = f"sub-study_acq-{ingested.name}"
    folder = results / "export" / "sub-study" / "ct"
    names = {
        f"{stem}_rec-pam_desc-recon_ct": "uncertainty/pam/mean",
        f"{stem}_rec-pam_desc-point_ct": "reconstruct/pam/point",
        f"{stem}_rec-pam_desc-support_ct": "uncertainty/pam/support",
        f"{stem}_rec-pam_stat-std_desc-uncertainty_ct": "uncertainty/pam/std",
        f"{stem}_rec-pam_stat-lower90_desc-uncertainty_ct": "uncertainty/pam/lower90",
        f"{stem}_rec-pam_stat-upper90_desc-uncertainty_ct": "uncertainty/pam/upper90",
        f"{stem}_rec-zerofilled_desc-baseline_ct": "baseline/zero_filled",
    }
    assert {path.name for path in folder.iterdir()} == {name + end for name in names for end in (".nii.gz", ".json")}
    for name, source in names.items():
        exported, own = nibabel.load(folder / f"{name}.nii.gz"), nibabel.load(results / f"{source}.nii.gz")
        np.testing.assert_array_equal(exported.get_fdata(), own.get_fdata())
        np.testing.assert_array_equal(exported.affine, own.affine)
        described = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        assert described["Units"] == ("1" if "support" in name else "HU")
        assert described["Shape"] == list(mean.shape[::-1])
        assert described["Sha256"] == provenance.file_digest(folder / f"{name}.nii.gz")
    description = json.loads((results / "export" / "dataset_description.json").read_text(encoding="utf-8"))
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "sliceweave"


def test_every_output_says_where_it_comes_from(done):
    results, ingested, _ = done
    manifest = json.loads((ingested.parent / "manifest.json").read_text(encoding="utf-8"))
    facts = sidecar(results, ingested)["Provenance"]
    assert facts["Input"]["Sha256"] == manifest["series"][0]["source_hash"]
    assert facts["Input"]["Files"] == 7
    assert facts["ConfigSha256"] == "c0" * 32
    assert facts["Stages"] == {"reconstruct_pam": {"Seconds": 12.5, "PeakMemoryMiB": 812.25}}
    assert facts["Software"]["Version"].startswith("0.1.0")
    assert any("face" in warning for warning in facts["Warnings"])
    run = facts["Reconstruction"]
    assert run["Prior"] == {"Name": "ct", "WeightsSha256": WEIGHTS}
    assert (run["Seed"], run["Device"], run["Seconds"]) == (3, "x86_64 CPU, 1 threads", 1.5)
    assert run["Alarm"]["Verdict"] == "in"
    assert PLANTED not in json.dumps(facts)
    assert "/home" not in json.dumps(facts)


def test_dicom_and_description_say_the_same(done):
    results, ingested, _ = done
    facts = sidecar(results, ingested)["Provenance"]
    description = json.loads((results / "export" / "dataset_description.json").read_text(encoding="utf-8"))
    shared = description["GeneratedBy"][0]["Provenance"]
    assert shared["Reconstructions"]["pam"] == facts["Reconstruction"]
    assert {key: shared[key] for key in facts if key != "Reconstruction"} == {
        key: value for key, value in facts.items() if key != "Reconstruction"
    }
    for name in ("pam_reconstruction", "pam_std", "pam_std_map"):
        for dataset in slices(results / "export" / "dicom" / name):
            (equipment,) = dataset.ContributingEquipmentSequence
            said = equipment.ContributionDescription
            told = ("seed 3", "2 samples", "on x86_64 CPU, 1 threads")
            assert all(word in said for word in (WEIGHTS, facts["Input"]["Sha256"], "c0" * 32, *told))
            assert equipment.SoftwareVersions[0] == f"sliceweave {facts['Software']['Version']}"[:64]


def test_an_alarm_goes_with_every_image(tmp_path, done):
    results, ingested, _ = done
    copy = tmp_path / "results" / "cohort" / "study" / results.name
    shutil.copytree(results, copy)
    write_json(copy / "alarm" / "pam" / "alarm.json", {"verdict": "out", "sentence": "Unlike all training patients."})
    assert export(copy, ingested, tmp_path / "out") == 0
    for name in ("pam_reconstruction", "pam_std_map"):
        for dataset in slices(tmp_path / "out" / "dicom" / name):
            assert dataset.ImageComments.startswith("RESEARCH ONLY")
            assert "Unlike all training patients." in dataset.ImageComments


@pytest.mark.interop("write", "SHA256SUMS", "sha256sum -c")
def test_checksums(tmp_path, done, record_property, capsys):
    results, _, _ = done
    export_dir = tmp_path / "export"
    shutil.copytree(results / "export", export_dir)
    files = [path for path in export_dir.rglob("*") if path.is_file()]
    lines = (export_dir / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(files) - 1
    checked = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=export_dir, check=False)
    assert checked.returncode == 0
    record_property("measured", f"{len(lines)} files agree")
    assert provenance.main(["check", str(export_dir)]) == 0
    (export_dir / "viewers" / "README.txt").write_text("changed", encoding="utf-8")
    (export_dir / "extra").write_text("new", encoding="utf-8")
    next(export_dir.rglob("*.dcm")).unlink()
    capsys.readouterr()
    assert provenance.main(["check", str(export_dir)]) == 1
    said = capsys.readouterr().out
    assert {line.split(":")[0] for line in said.splitlines()} == {"changed", "missing", "not in SHA256SUMS"}


def test_checksums_of_a_study(tmp_path, done):
    results, ingested, _ = done
    study = tmp_path / "study"
    shutil.copytree(results.parent, study)
    shutil.copytree(ingested.parent, study / "ingest")
    assert provenance.main(["sums", str(study)]) == 0
    checked = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=study, check=False)
    assert checked.returncode == 0
    named = (study / "SHA256SUMS").read_text(encoding="utf-8")
    assert "ingest/manifest.json" in named
    assert f"{results.name}/export/SHA256SUMS" in named
    assert provenance.check(study) == []
    (study / results.name / "export" / "extra").write_text("new", encoding="utf-8")
    assert provenance.check(study) == [f"not in SHA256SUMS: {results.name}/export/extra"]


def test_damaged_checksums_are_told(tmp_path, capsys):
    assert provenance.main(["check", str(tmp_path)]) == 1
    (tmp_path / "SHA256SUMS").write_text("nonsense\n", encoding="utf-8")
    assert provenance.main(["check", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 2


@pytest.mark.parametrize(
    ("value", "kept"),
    [("/home/x/ct", "ct"), ("models/my ct", "my ct"), ("HU / 1000", "HU / 1000"), (["a/b"], ["b"]), (1.5, 1.5)],
)
def test_paths_are_cut(value, kept):
    assert provenance.pathless(value) == kept


def test_version_outside_a_clone_is_the_packages(tmp_path, monkeypatch):
    provenance.version.cache_clear()
    assert "+git." in provenance.version()
    monkeypatch.setattr(provenance, "REPOSITORY", tmp_path)
    provenance.version.cache_clear()
    assert provenance.version() == "0.1.0"
    provenance.version.cache_clear()


def test_the_same_export_twice_is_the_same(tmp_path, done):
    results, ingested, _ = done
    options = arguments(results, ingested, tmp_path / "again", config_hash="c0" * 32)
    assert stage.main([*options, "--benchmarks", str(results.parents[3] / "benchmarks")]) == 0
    for path in (results / "export").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "again" / path.relative_to(results / "export")).read_bytes()


def test_nifti_input_and_dicom_off_give_no_dicom(tmp_path, done):
    results, ingested, _ = make(tmp_path, build.Series("MR"), "nifti")
    assert export(results, ingested, tmp_path / "out", modality="mr") == 0
    assert not (tmp_path / "out" / "dicom").exists()
    assert list((tmp_path / "out" / "sub-study" / "anat").glob("*_desc-recon_MR.nii.gz"))
    results, ingested, _ = done
    assert export(results, ingested, tmp_path / "off", dicom=False) == 0
    assert not (tmp_path / "off" / "dicom").exists()


@pytest.mark.parametrize(
    "settings",
    [{"dicoms": True}, {"dicom": "yes"}, {"deidentify": "no"}, {"dicom_series": ["mean"]}, {"key_file": ""}],
    ids=lambda settings: next(iter(settings)),
)
def test_bad_settings(tmp_path, capfd, done, settings):
    results, ingested, _ = done
    refused(capfd, results, ingested, tmp_path, settings)


@pytest.mark.parametrize("name", ["uncertainty", "nan", "source", "nothing", "no-study"])
def test_bad_input(tmp_path, capfd, name):
    results, ingested, mean = make(tmp_path, build.Series())
    if name == "uncertainty":
        (results / "uncertainty" / "pam" / "std.nii.gz").unlink()
    elif name == "nan":
        write_volume(results / "baseline" / "zero_filled.nii.gz", mean.array_zyx * np.nan, mean.affine)
    elif name == "source":
        shutil.rmtree(tmp_path / "study")
    elif name == "no-study":
        for path in (tmp_path / "study").iterdir():
            build.edit(path, {"StudyInstanceUID": ""})
    else:
        shutil.rmtree(results)
    refused(capfd, results, ingested, tmp_path, {})


def refused(capfd, results, ingested, folder, settings):
    """One sentence on stderr, status 1, and nothing under the final name."""
    capfd.readouterr()
    assert export(results, ingested, folder / "out" / "export", **settings) == 1
    captured = capfd.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.rstrip().endswith(".")
    assert not list((folder / "out").glob("*"))
