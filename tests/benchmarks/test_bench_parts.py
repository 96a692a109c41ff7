"""The bench's parts: plan, search, scores, goals."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from benchmarks.bench_config import read_config
from benchmarks.bench_results import TaskResults, read_results
from benchmarks.methods import METHODS, Method, methods
from benchmarks.plan import Plan, measured_rates
from benchmarks.published import ROWS
from benchmarks.settings import method_settings, read_tuned, tuned_for, write_tuned
from benchmarks.tasks import TASKS
from data.errors import InputError
from solvers.registry import SOLVERS, solver_settings
from tests.benchmarks.bench_result_files import result

AIR, WATER = -1000.0, 0.0


def body(shape=(8, 24, 24)) -> np.ndarray:
    """A block of water with a step along z, in air."""
    array = np.full(shape, AIR)
    array[:, 4:-4, 4:-4] = WATER
    array[shape[0] // 2 :, 8:-8, 8:-8] = 300.0
    return array


@pytest.fixture
def volumes(tmp_path) -> dict[str, str]:
    """--config with two volumes that are there."""
    for modality in ("ct", "mr"):
        (tmp_path / f"{modality}.nii.gz").touch()
    return {modality: str(tmp_path / f"{modality}.nii.gz") for modality in ("ct", "mr")}


def plan_of(values: dict) -> Plan:
    """The plan of a config, with its jobs and a slab asked for, as the Snakefile does."""
    plan = Plan(read_config(values))
    assert plan.jobs
    assert plan.config.slab("ct", 4)
    return plan


def test_scores_of_a_constant_error_are_closed_form():
    from benchmarks.score import mean_psnr_db, score_image

    truth = body()
    scores = score_image(truth + 20.0, truth, "ct")
    inside = truth[:, 4:-4, 4:-4]
    assert scores["z_jump"] == pytest.approx(1.0)
    assert scores["psnr_db"] == pytest.approx(dict.fromkeys(("axial", "coronal", "sagittal"), 20 * np.log10(100)))
    assert scores["rmse"]["axial"] == pytest.approx(20.0)
    assert mean_psnr_db(truth + 20.0, truth, "ct") == pytest.approx(40.0)
    assert inside.max() == 300.0


def test_spread_of_exchangeable_samples_is_calibrated():
    from benchmarks.score import score_samples

    rng = np.random.default_rng(0)
    truth = body((16, 48, 48))
    draws = truth + rng.normal(0, 30, (5, *truth.shape))
    spread, _ = score_samples(draws[:4], draws[4], "ct")
    assert spread["calibration_ratio"] == pytest.approx(1.0, abs=0.03)
    for level in (50, 80, 90, 95):
        assert spread[f"coverage{level}"] == pytest.approx(level / 100, abs=0.02)
    narrow, _ = score_samples(truth + 0.3 * (draws[:4] - truth), draws[4], "ct")
    assert narrow["coverage90"] < 0.6
    assert narrow["calibration_ratio"] < 0.2


def test_every_search_builds_settings_and_every_registered_solver_takes_part():
    from solvers.classical.registry import CLASSICAL

    for method in METHODS.values():
        for modality, grid in method.search.items():
            assert modality in method.modalities
            for row in grid:
                values = {**row, **method.fixed}
                if method.kind == "classical":
                    CLASSICAL[method.solver].settings(values)
                elif method.solver in SOLVERS:
                    solver_settings(method.solver, values)
    assert {method.solver for method in methods().values() if method.kind != "classical"} == set(SOLVERS)


def test_tuned_settings_of_every_task_build():
    for task in TASKS.values():
        for method in methods().values():
            if method.kind != "classical" and task.modality in method.modalities:
                settings, _ = method_settings(task, method, read_tuned())
                solver_settings(method.solver, settings)


def test_ours_is_never_tuned_and_rivals_fall_back_to_the_nearest_task():
    tuned = {"ct30": {"dds": {"gamma": 1.0}, "pam": {"trust": 9.0}}, "ct_la90": {"dds": {"gamma": 2.0}}}
    dds = METHODS["dds"]
    assert tuned_for(TASKS["ct_la120"], dds, tuned) == ({"gamma": 2.0}, "ct_la90")
    assert tuned_for(TASKS["ct60"], dds, tuned) == ({"gamma": 1.0}, "ct30")
    assert tuned_for(TASKS["mr4"], dds, tuned) == ({}, None)
    assert tuned_for(TASKS["ct8"], METHODS["dds_slerp"], tuned) == ({"gamma": 1.0}, "ct30")
    assert method_settings(TASKS["ct30"], METHODS["pam"], tuned) == ({"mode": "sample"}, None)
    settings, _ = method_settings(TASKS["ct30"], dds.at_levels(40), tuned)
    assert settings == {"gamma": 1.0, "levels": 40}


def test_fallbacks_end_at_a_chief_task_of_the_same_modality():
    for task in TASKS.values():
        assert {TASKS[name].modality for name in task.tuned_as} == {task.modality}
        assert task.tuned_as[-1] in ("ct30", "mr4")


def test_the_most_important_jobs_come_first_and_tasks_without_a_volume_stay_out(volumes):
    plan = Plan(read_config({"ct": volumes["ct"], "curves": "ct30", "jobs": "methods"}))
    names = [job.name for job in plan.jobs]
    assert {job.task.modality for job in plan.jobs} == {"ct"}
    order = ["pam_ct_la90", "classical_ct_la90", "dds_ct30", "dds_ct_la90", "pam_ct60", "dds_ct60", "dreamsampler_ct30"]
    places = [names.index(f"{name}_z64_seed0") for name in order]
    assert places == sorted(places)
    assert "curve_dds_ct30_z16_seed0" in names
    assert plan.priority(plan.jobs[0]) > plan.priority(plan.jobs[-1]) > 0
    by_task = Plan(read_config({**volumes, "order": "tasks"})).jobs
    assert [job.task.name for job in by_task[:4]] == ["ct30"] * 4


def test_a_bench_on_another_thickness_or_seed_has_folders_of_its_own(volumes):
    cases = {
        case
        for config in ({"slices": 16}, {"slices": 64}, {"seeds": "0,1"})
        for case in Plan(read_config({**volumes, "tasks": "ct30", **config})).cases
    }
    assert cases == {"ct30/z16_seed0", "ct30/z64_seed0", "ct30/z64_seed1"}


def test_slabs_are_the_middle(volumes):
    config = read_config(volumes)
    assert config.slab("ct", 64) == (96, 160)
    assert config.slab("ct", 8) == (124, 132)
    with pytest.raises(InputError, match="slab"):
        config.slab("ct", 65)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"task": "ct30"}, "did you mean tasks"),
        ({"tasks": "ct31"}, "did you mean ct30"),
        ({"methods": "ddss"}, "did you mean dds"),
        ({"slices": "many"}, "whole number"),
        ({"samples": 1}, "2 or more"),
        ({"order": "size"}, "methods or tasks"),
        ({"ct": "nowhere.nii.gz"}, "nowhere.nii.gz is not there"),
        ({"ct_slab": "9-4"}, "half-open"),
    ],
)
def test_what_is_wrong_with_a_config_is_one_sentence(values, words, volumes):
    with pytest.raises(InputError, match=words) as caught:
        plan_of({**volumes, **values})
    assert "\n" not in str(caught.value)


def test_what_a_killed_job_left_is_no_result(tmp_path):
    result(tmp_path, "ct30", "dds", {"mean": 27.5, "sample": 26.5})
    folder = tmp_path / "ct30" / "z64_seed0"
    (folder / "dds").rename(folder / ".part-1-ab-dds")
    assert read_results(tmp_path, 64) == {}


def test_a_diverged_method_is_named_and_left_out_of_the_rows(tmp_path):
    result(tmp_path, "ct30", "dds", {"mean": 27.5, "sample": 26.5})
    path = tmp_path / "ct30" / "z64_seed0" / "dds" / "result.json"
    record = json.loads(path.read_text())
    del record["estimates"]
    path.write_text(json.dumps(record | {"failed": "diverged"}))
    found: TaskResults = read_results(tmp_path, 64)["ct30"]
    assert found.rows == []
    assert found.results[0].failed == "diverged"


def test_measured_seconds_replace_guesses(tmp_path):
    result(tmp_path, "ct30", "dds", {"mean": 27.5, "sample": 26.5})
    assert measured_rates(tmp_path) == {("dds", "ct"): pytest.approx(1.0)}


def test_published_figures_stand_beside_a_task_that_there_is():
    assert {row.near for row in ROWS} <= set(TASKS)
    assert all(row.conditions and row.source for row in ROWS)


def test_tuned_settings_are_added_to_and_not_replaced(tmp_path):
    path = tmp_path / "tuned.json"
    write_tuned(path, {"mr4": {"dds": {"gamma": 1.0}}})
    write_tuned(path, {"ct30": {"tv": {"weight": 2.0}}, "mr4": {"tv": {"weight": 3.0}}})
    assert list(read_tuned(path)) == ["ct30", "mr4"]
    assert read_tuned(path)["mr4"] == {"dds": {"gamma": 1.0}, "tv": {"weight": 3.0}}


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    """A measurement of the block on 24^2 pixels."""
    from benchmarks.series import measure_slab

    folder = tmp_path_factory.mktemp("measured")
    image = nibabel.Nifti1Image(body().transpose(2, 1, 0).astype(np.float32), np.diag([4.0, 4.0, 4.0, 1.0]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, folder / "volume.nii.gz")
    measure_slab(folder / "volume.nii.gz", (1, 7), TASKS["ct15"].section(0), folder / "measurement")
    return folder / "measurement"


def test_a_result_is_kept_until_its_settings_change_and_a_failure_leaves_nothing(measured, tmp_path, monkeypatch):
    from benchmarks import run_method
    from benchmarks.run_method import Spec, load_case

    case = load_case(measured, None, 0, "cpu")
    out = tmp_path / "cgls"
    run_method.run_method(case, Spec("cgls", "classical", "cgls", {"iterations": 5}), out)
    first = (out / "result.json").read_text()
    run_method.run_method(case, Spec("cgls", "classical", "cgls", {"iterations": 5}), out)
    assert (out / "result.json").read_text() == first
    run_method.run_method(case, Spec("cgls", "classical", "cgls", {"iterations": 20}), out)
    better = json.loads((out / "result.json").read_text())
    assert better["estimates"]["point"]["chi2"] < json.loads(first)["estimates"]["point"]["chi2"]
    assert better["fingerprint"] != json.loads(first)["fingerprint"]

    def killed(*_):
        raise SystemExit(143)

    monkeypatch.setattr(run_method, "write_images", killed)
    with pytest.raises(SystemExit):
        run_method.run_method(case, Spec("cgls", "classical", "cgls", {"iterations": 7}), out)
    assert [path.name for path in tmp_path.iterdir()] == ["cgls"]
    assert json.loads((out / "result.json").read_text()) == better


def test_search_picks_the_setting_with_the_highest_psnr_and_writes_it_down(measured, tmp_path):
    from benchmarks import tune

    grid = [{"iterations": count} for count in (1, 2, 30)]
    row = {"name": "cgls", "kind": "classical", "solver": "cgls", "coupling": "none", "fixed": {}, "grid": grid}
    out = tmp_path / "tune" / "ct15"
    command = ["search", "--measurement", str(measured), "--out", str(out), "--prior", "none"]
    with pytest.raises(SystemExit):
        tune.main(["search"])
    assert tune.main([*command, "--specs", json.dumps([row]), "--done", str(out / "done.json")]) == 0
    tried = json.loads((out / "cgls.json").read_text())["tried"]
    winner = max(tried, key=lambda one: one["psnr_db"])["settings"]
    where = ["--tuned", str(tmp_path / "tuned.json"), "--docs", str(tmp_path / "docs")]
    assert tune.main(["collect", "--results", str(tmp_path), *where, "--command", "snakemake"]) == 0
    assert read_tuned(tmp_path / "tuned.json") == {"ct15": {"cgls": winner}}
    assert winner != grid[0]
    text = (tmp_path / "docs" / "tuning.md").read_text()
    assert f"**iterations {winner['iterations']}" in text


def test_methods_at_other_levels_keep_their_settings():
    method: Method = METHODS["dds_tv"].at_levels(5)
    assert (method.name, method.fixed) == ("dds_tv-5", {"levels": 5, "tv": True})
