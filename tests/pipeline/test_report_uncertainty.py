"""The alarm's verdict among the page's lights."""

import json
from dataclasses import replace

import pytest

from pipeline import report_uncertainty
from pipeline.report_series import load_series
from tests.pipeline.report_series_builder import LABELS, make_series


@pytest.mark.parametrize(("verdict", "light"), [("in", "good"), ("unsure", "care"), ("out", "bad")])
def test_alarm_of_the_shown_solver_comes_first(tmp_path, verdict, light):
    folder = tmp_path / "n"
    make_series(folder)
    alarm = folder / "alarm" / "pam" / "alarm.json"
    alarm.parent.mkdir(parents=True)
    alarm.write_text(json.dumps({"verdict": verdict, "sentence": "Known images."}))
    series = load_series(folder, LABELS)
    first = report_uncertainty.verdicts(series)[0]
    assert (first.light, first.sentence) == (light, "Known images.")
    assert "prior" in first.title
    assert report_uncertainty.verdicts(replace(series, alarm={})) == report_uncertainty.verdicts(series)[1:]
