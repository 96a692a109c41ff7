"""CT without a water value leaves as attenuation in 1/mm."""

import numpy as np
import pytest

from data.volume import Volume
from pipeline.ct_attenuation import as_attenuation, level_per_mm
from pipeline.measure_ct_measured import adopt_ct, measured_settings
from pipeline.measurement import write_measurement
from tests.data.ct_scans import FAN
from tests.pipeline.test_measure_ct_measured import water_scan


@pytest.mark.parametrize(("water", "level"), [(None, 0.02), (0.0192, None)])
def test_the_level_is_asked_for_only_where_no_water_value_was_known(tmp_path, water, level):
    settings = measured_settings({"working_matrix": 48, "mu_water_per_mm": water})
    measurement, _ = adopt_ct(water_scan(FAN), settings, "scan")
    assert level_per_mm(tmp_path) is None
    write_measurement(tmp_path / "measurement", measurement)
    found = level_per_mm(tmp_path)
    assert found == (level if level is None else pytest.approx(level, rel=0.03))


def test_hu_become_attenuation():
    volume = Volume.from_affine(np.array([[[-1000.0, 0.0, 500.0]]], np.float32), np.eye(4))
    assert as_attenuation(volume, 0.02, False).array_zyx.ravel() == pytest.approx([0, 0.02, 0.03])
    assert as_attenuation(volume, 0.02, True).array_zyx.ravel() == pytest.approx([-0.02, 0, 0.01])
