"""Snakemake end to end on a cut-down demo: what is made, what a change re-runs, how it fails and how it goes on."""

import csv
import shutil
import subprocess
import sys
import zipfile
from glob import glob
from pathlib import Path

import nibabel
import pytest
from safetensors import safe_open

from pipeline import config as plan_of
from pipeline.paths import StudyPaths
from tests.workflow.conftest import ROOT, kill, plain_env, started, wait_for, write_phantom

pytestmark = [pytest.mark.workflow, pytest.mark.slow, pytest.mark.timeout(900)]

CHEST_METHODS = {"fbp", "tv"}
ORDER = [
    "measure", "baseline", "reconstruct", "uncertainty", "support", "alarm", "evaluate", "export", "page", "study",
    "summary", "index",
]  # fmt: skip


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def series_of(results: Path, cohort: str) -> tuple[StudyPaths, str]:
    """Paths of the cohort's only study, and its only series."""
    (study,) = (entry.name for entry in (results / cohort).iterdir() if entry.is_dir())
    paths = StudyPaths(results, cohort, study)
    (series,) = plan_of.accepted_series(paths.ingest)
    return paths, series


def test_every_cohort_has_its_results_on_one_grid(finished):
    for cohort in ("chest", "head", "raw"):
        paths, series = series_of(finished.results, cohort)
        folder = paths.series(series)
        volumes = [*folder.glob("baseline/*.nii.gz"), *folder.glob("uncertainty/pam/*.nii.gz")]
        volumes += [folder / "reconstruct" / "pam" / "point.nii.gz", *folder.glob("measurement/truth.nii.gz")]
        images = [nibabel.load(path) for path in volumes]
        assert len(volumes) == 2 + 9 + 1 + (cohort != "raw")
        assert {image.shape for image in images} == {images[0].shape}
        assert all((image.affine == images[0].affine).all() for image in images)
        with safe_open(folder / "reconstruct" / "pam" / "samples.safetensors", "np") as file:
            assert file.get_slice("samples").get_shape() == [2, *images[0].shape[::-1]]
        assert paths.page(series).stat().st_size > 10_000
        assert list((folder / "export").rglob("*.nii.gz"))


def test_summary_has_a_row_for_every_study_method_and_plane(finished):
    rows = table(finished.results / "summary.tsv")
    chest = [row for row in rows if row["cohort"] == "chest"]
    assert {row["method"].split("_")[0] for row in chest} >= CHEST_METHODS | {"pam"}
    assert {row["plane"] for row in chest} >= {"axial", "coronal", "sagittal"}
    keys = [(row["cohort"], row["study"], row["method"], row["plane"]) for row in rows]
    assert len(keys) == len(set(keys))
    assert {row["cohort"] for row in rows} == {"chest", "head", "raw"}
    assert all(float(row["psnr_db"]) > 5 for row in chest)
    assert all(row["psnr_db"] == "" for row in rows if row["cohort"] == "raw")


def test_dicom_in_dicom_out(finished):
    paths, series = series_of(finished.results, "chest")
    assert list((paths.series(series) / "export" / "dicom").rglob("*"))
    paths, series = series_of(finished.results, "head")
    assert not (paths.series(series) / "export" / "dicom").exists()


def test_every_job_has_a_log_and_most_a_benchmark(finished):
    logs = {path.stem for path in finished.results.glob("logs/chest/*/*/*.log")}
    expected = {"measure", "baseline_fbp", "baseline_tv", "reconstruct_pam", "uncertainty_pam", "support_pam"}
    expected |= {"alarm_pam", "evaluate", "export", "page"}
    assert logs == expected
    assert {path.stem for path in finished.results.glob("benchmarks/chest/*/*/*.jsonl")} == expected


def test_index_links_to_every_page(finished):
    index = (finished.results / "index.html").read_text()
    pages = sorted(path.name for path in (finished.results / "reports").glob("*.html"))
    assert len(pages) == 3
    assert all(f"reports/{page}" in index for page in pages)


def test_finished_run_has_nothing_left_to_do(finished):
    assert finished.jobs() == {}


@pytest.mark.parametrize(
    ("section", "change", "first"),
    [
        ("measure", {"views": 13}, "measure"),
        ("reconstruct", {"seed": 1}, "reconstruct"),
        ("uncertainty", {"interval": 0.8}, "uncertainty"),
        ("export", {"dicom": False}, "export"),
        ("report", {"max_mb": 20}, "page"),
    ],
)
def test_a_changed_setting_reruns_what_depends_on_it(finished, section, change, first):
    after = {
        "measure": dict.fromkeys(ORDER, 1) | {"baseline": 2},
        "reconstruct": dict.fromkeys(ORDER[2:], 1),
        "uncertainty": dict.fromkeys((stage for stage in ORDER[3:] if stage != "alarm"), 1),
        "export": dict.fromkeys(["export", *ORDER[9:]], 1),
        "page": dict.fromkeys(ORDER[8:], 1),
    }
    assert finished.jobs(cohorts={"chest": {section: change}}) == after[first]


def test_a_new_solver_leaves_the_others_alone(finished):
    jobs = finished.jobs(cohorts={"chest": {"solvers": ["pam", "dds"]}})
    assert (jobs["reconstruct"], jobs["uncertainty"]) == (1, 1)
    assert "baseline" not in jobs
    assert "measure" not in jobs


def test_snakemake_report_reaches_the_pages(finished, tmp_path):
    done = finished.run("--report", str(tmp_path / "report.zip"))
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / "report.zip") as archive:
        names = " ".join(archive.namelist())
    paths, series = series_of(finished.results, "chest")
    assert paths.page(series).name in names


def test_dry_run_of_a_fresh_folder_counts_the_checkpoints(small, tmp_path):
    from tests.workflow.conftest import Workflow

    assert Workflow(tmp_path, small).jobs() == {"ingest": 3, "study": 3, "summary": 1, "index": 1}


@pytest.mark.fault("a truncated file in one study of a cohort")
def test_one_bad_study_among_good_ones(phantoms):
    studies = phantoms.folder.parent / "studies"
    (studies / "bad").mkdir()
    (studies / "bad" / "volume.nii.gz").write_bytes((studies / "good" / "volume.nii.gz").read_bytes()[:500])
    done = phantoms.run()
    assert done.returncode == 1
    assert len(list((phantoms.results / "reports").glob("disc_good_*.html"))) == 1
    assert not (phantoms.results / "disc" / "bad" / "ingest").exists()
    assert {row["study"] for row in table(phantoms.results / "summary.tsv")} == {"good"}
    (failure,) = table(phantoms.results / "failures.tsv")
    assert (failure["study"], failure["stage"]) == ("bad", "ingest")
    assert failure["message"] in done.stderr
    assert "Traceback" not in done.stderr
    index = (phantoms.results / "index.html").read_text()
    assert "disc_good_" in index
    assert "<td>bad</td>" in index

    shutil.rmtree(studies / "bad")
    again = phantoms.run()
    assert again.returncode == 0, again.stderr
    assert not (phantoms.results / "failures.tsv").exists()
    assert "<td>bad</td>" not in (phantoms.results / "index.html").read_text()


@pytest.mark.timeout(1500)
@pytest.mark.fault("kill -9 of a Snakemake run in the midst of a sample")
def test_a_killed_run_goes_on_bit_equal(phantoms):
    slow = {"reconstruct": {"levels": 10, "point": False}}
    states = "disc/good/*/reconstruct/.pam.states/*/*.state.safetensors"
    with started(phantoms, cohorts={"disc": slow}) as broken:
        # pathlib's glob raises where a folder goes while it looks.
        there = wait_for(lambda: glob(str(phantoms.results / states)), broken)  # noqa: PTH207
        assert there, "the run ended before it could be killed"
        kill(broken)
    (state,) = phantoms.results.glob(states)
    samples = state.parents[2] / "pam" / "samples.safetensors"
    target = str(samples.relative_to(phantoms.folder))
    assert not samples.exists()

    assert phantoms.run("--unlock", cohorts={"disc": slow}).returncode == 0
    resumed = phantoms.run(target, cohorts={"disc": slow})
    assert resumed.returncode == 0, resumed.stderr
    assert not state.exists()
    first = samples.read_bytes()
    shutil.rmtree(phantoms.results)
    phantoms.run(target, cohorts={"disc": slow})
    assert samples.read_bytes() == first


def test_a_misspelt_key_is_one_sentence_on_the_terminal(phantoms):
    done = phantoms.run("--dry-run", cohorts={"disc": {"measure": {"veiws": 3}}})
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("Error")]
    assert len(said) == 1
    assert "unknown key 'veiws' in cohorts.disc.measure; did you mean 'views'?" in said[0]
    assert "Traceback" not in done.stderr


def test_one_study_folder_and_a_new_study_later(phantoms):
    studies = phantoms.folder.parent / "studies"
    alone = phantoms.jobs(cohorts={"disc": {"studies": str(studies / "good")}})
    assert alone["ingest"] == 1
    write_phantom(studies / "odd name; $(touch x)", seed=1)
    assert phantoms.jobs()["ingest"] == 2


@pytest.mark.hostile("YAML for Snakemake's template engine in a study folder")
def test_config_inside_a_study_is_inert(phantoms, tmp_path):
    """A YAML that would run code if Snakemake read it as config."""
    trap = tmp_path / "trapped"
    text = f"__use_yte__: true\nx: ?__import__('pathlib').Path({str(trap)!r}).touch()\n"
    for name in ("config.yaml", "profile.yaml"):
        (phantoms.folder.parent / "studies" / "good" / name).write_text(text)
    assert phantoms.run("--until", "ingest").returncode == 0
    assert not trap.exists()


def test_nothing_to_do_without_a_config(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--dry-run", "--directory", str(tmp_path), "-s", str(ROOT / "Snakefile")],
        capture_output=True,
        text=True,
        check=False,
        env=plain_env(),
    )
    assert done.returncode == 1
    assert "Error: the config names no cohort; give --configfile" in done.stderr
