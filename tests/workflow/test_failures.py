"""The failures that a Snakemake log tells of become sentences; the index outdates itself."""

from pathlib import Path

import pytest

from pipeline import failures, summary

LOG = """
Error in rule ingest:
    jobid: 2
    output: results/chest/bad/ingest
    log: {logs}/chest/bad/ingest.log (check log file(s) for error details)
    shell:
        python -m pipeline.ingest

Error in rule baseline:
    log: {logs}/chest/good/s1/baseline_tv.log (check log file(s) for error details)
"""


@pytest.fixture
def logs(tmp_path):
    logs = tmp_path / "logs"
    for name, text in {
        "chest/bad/ingest.log": "working\nslice 3 is missing;\trescan.\n\n",
        "chest/good/s1/baseline_tv.log": "  0%|\r 50%|\rDisk full.\n",
        "chest/good/s1/measure.log": "a warning of a stage that did not fail\n",
    }.items():
        (logs / name).parent.mkdir(parents=True, exist_ok=True)
        (logs / name).write_text(text)
    return logs


def test_failed_stages_and_only_those(logs):
    found = failures.find(LOG.format(logs=logs), logs)
    assert found == [
        failures.Failure("chest", "bad", "", "ingest", "slice 3 is missing;\trescan."),
        failures.Failure("chest", "good", "s1", "baseline_tv", "Disk full."),
    ]


def test_report_writes_one_row_each_and_clear_forgets(logs, tmp_path, capsys):
    (tmp_path / "run.log").write_text(LOG.format(logs=logs))
    failures.report([tmp_path / "run.log"], tmp_path, logs)
    rows = [line.split("\t") for line in (tmp_path / failures.FILE_NAME).read_text().splitlines()]
    assert rows[0] == ["cohort", "study", "series", "stage", "message"]
    assert rows[1] == ["chest", "bad", "", "ingest", "slice 3 is missing; rescan."]
    assert "chest/good/s1 baseline_tv: Disk full." in capsys.readouterr().err
    failures.clear(tmp_path)
    assert not (tmp_path / failures.FILE_NAME).exists()


def test_a_log_without_failures_writes_nothing(tmp_path):
    (tmp_path / "run.log").write_text("Building DAG of jobs...\n")
    assert failures.report([tmp_path / "run.log"], tmp_path, tmp_path) == []
    assert not (tmp_path / failures.FILE_NAME).exists()


def test_summary_joins_tables_with_different_columns(tmp_path):
    for name, text in {"a": "study\tpsnr_db\nA\t30\n", "b": "study\tchi2\nB\t1.0\n"}.items():
        folder = tmp_path / "results" / "c" / name / "s"
        folder.mkdir(parents=True)
        (folder / "metrics.tsv").write_text(text)
    out = tmp_path / "results" / "summary.tsv"
    assert summary.main(["--out", str(out), "--results", str(tmp_path / "results")]) == 0
    assert out.read_text() == "study\tpsnr_db\tchi2\nA\t30\t\nB\t\t1.0\n"


def test_summary_of_nothing_is_an_empty_table(tmp_path):
    out = tmp_path / "summary.tsv"
    assert summary.main(["--out", str(out)]) == 0
    assert Path(out).read_text().strip() == ""


def test_a_stage_killed_at_its_progress_bar_left_no_words(tmp_path):
    log = tmp_path / "reconstruct.log"
    log.write_text("\rpam:   0%|          | 0/50 [00:00<?, ?level/s]\rpam:   2%|▏         | 1/50 [00:09<07:30]")
    assert failures.last_line(log).startswith("was stopped before it could say why")
    assert failures.last_line(tmp_path / "none.log").startswith("no log was written")
