"""The table of goals from results that are known."""

import pytest

from benchmarks.bench_results import read_curves, read_results
from benchmarks.page_goals import goal_lines
from tests.benchmarks.bench_result_files import result


def test_goals_are_missed_by_what_is_missing(tmp_path):
    result(tmp_path, "ct30", "tv", {"point": 26.0}, calls={"point": 0})
    result(tmp_path, "ct30", "pam_point", {"point": 29.0})
    spread = {"coverage90": 0.95, "calibration_ratio": 1.0}
    calls = {"mean": 40, "sample": 10}
    result(tmp_path, "ct30", "pam", {"mean": 30.0, "sample": 28.0}, calls=calls, spread=spread)
    result(tmp_path, "ct30", "dds", {"mean": 27.5, "sample": 26.5}, calls=calls)
    result(tmp_path, "ct30", "diffusion_mbir", {"mean": 28.5, "sample": 25.0}, calls=calls)
    lines = {line.goal: line for line in goal_lines(read_results(tmp_path, 64), {}, tmp_path)}
    assert lines["ct30: against tuned 3D tv, axial"].missed == pytest.approx(0.5)
    equal = next(line for goal, line in lines.items() if goal.startswith("ct30") and "at equal network calls" in goal)
    assert equal.missed == pytest.approx(0.5)
    assert "+1.50 dB (pam mean against diffusion_mbir mean, 40 calls)" in equal.reached
    assert lines["raw 90 % coverage, every task"].missed == pytest.approx(0.03)
    assert lines["calibration ratio, every task"].verdict == "reached"
    assert lines["mr8: against tuned wavelet, axial"].verdict == "not measured"


def test_gains_are_taken_seed_by_seed(tmp_path):
    for seed, tv, ours in ((0, 26.0, 29.0), (1, 20.0, 24.0), (2, None, 30.0)):
        result(tmp_path, "ct30", "pam_point", {"point": ours}, seed=seed)
        if tv:
            result(tmp_path, "ct30", "tv", {"point": tv}, calls={"point": 0}, seed=seed)
    lines = {line.goal: line for line in goal_lines(read_results(tmp_path, 64), {}, tmp_path)}
    line = lines["ct30: against tuned 3D tv, axial"]
    assert line.missed == pytest.approx(1.0)
    assert line.reached.startswith("+3.50 dB, +3.00 to +4.00 over 2 seeds (pam point")


def test_gains_without_a_common_seed_are_not_measured(tmp_path):
    result(tmp_path, "ct30", "pam_point", {"point": 29.0}, seed=0)
    result(tmp_path, "ct30", "tv", {"point": 26.0}, seed=1)
    lines = {line.goal: line for line in goal_lines(read_results(tmp_path, 64), {}, tmp_path)}
    assert lines["ct30: against tuned 3D tv, axial"].verdict == "not measured"


def test_a_quarter_of_the_calls_is_compared_at_equal_quality(tmp_path):
    for levels, ours, theirs in ((5, 27.0, 20.0), (10, 29.0, 24.0), (20, 29.5, 26.0), (40, 30.0, 29.4)):
        calls = {"point": levels}
        result(tmp_path, "ct30", f"pam_point-{levels}", {"point": ours}, calls=calls)
        result(tmp_path, "ct30", f"dds-{levels}", {"point": theirs}, calls=calls)
    assert read_results(tmp_path, 64) == {}
    lines = [line for line in goal_lines({}, read_curves(tmp_path, 64), tmp_path) if "quarter" in line.goal]
    assert [line.missed for line in lines[:2]] == pytest.approx([-1.0, 0.4])
