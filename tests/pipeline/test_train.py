"""Reading of training volumes, with and without a degraded partner."""

import nibabel
import numpy as np
import pytest

from data.errors import InputError
from models.training import TrainingSettings
from pipeline.train import planes, read_pairs, read_training_volume

AFFINE = np.diag([1.5, 1.5, 2.0, 1.0])


def write(path, array_zyx, affine=AFFINE):
    path.parent.mkdir(exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array_zyx.transpose(2, 1, 0).astype(np.float32), affine), path)
    return path


def volume(seed=0, shape=(4, 5, 6), scale=1000.0):
    return scale * np.random.default_rng(seed).uniform(-1, 1, shape)


def test_ct_is_in_thousands_of_hu_and_clipped(tmp_path):
    array = volume()
    array[0, 0, :2] = -3000, 9000
    read = read_training_volume(write(tmp_path / "a.nii.gz", array), "ct")
    assert read.spacing_mm == pytest.approx((2.0, 1.5, 1.5))
    assert read.degraded is None
    np.testing.assert_allclose(read.slices, np.clip(array / 1000, -1, 2), atol=1e-3)


def test_a_degraded_magnitude_has_the_scale_of_its_clean_one(tmp_path):
    clean = np.abs(volume())
    pair = write(tmp_path / "bad" / "a.nii.gz", 0.5 * clean)
    read = read_training_volume(write(tmp_path / "clean" / "a.nii.gz", clean), "mr", pair)
    np.testing.assert_allclose(read.degraded, 0.5 * read.slices, atol=1e-3)
    assert np.percentile(read.slices, 99.5) == pytest.approx(1, abs=0.01)


def test_restacked_planes_keep_clean_and_degraded_together(tmp_path):
    clean = np.abs(volume(1))
    clean[:, 2] = 0
    cube = np.diag([1.5, 1.5, 1.5, 1.0])
    pair = write(tmp_path / "bad" / "a.nii.gz", 0.5 * clean, cube)
    stacks = planes(read_training_volume(write(tmp_path / "clean" / "a.nii.gz", clean, cube), "mr", pair), "mr")
    assert [s.slices.shape for s in stacks] == [(4, 5, 6), (4, 4, 6), (6, 4, 5)]
    for stack in stacks:
        np.testing.assert_allclose(stack.degraded, 0.5 * stack.slices, atol=1e-3)


def test_a_residual_start_needs_a_partner_on_the_same_grid(tmp_path):
    path = write(tmp_path / "clean" / "a.nii.gz", volume())
    settings = TrainingSettings("ct", 0.5, residual_sigma=0.3)
    with pytest.raises(InputError, match="--degraded"):
        read_pairs([path], settings, None)
    with pytest.raises(InputError, match=r"no a\.nii\.gz"):
        read_pairs([path], settings, tmp_path / "bad")
    write(tmp_path / "bad" / "a.nii.gz", volume(shape=(4, 5, 7)))
    with pytest.raises(InputError, match="grid"):
        read_pairs([path], settings, tmp_path / "bad")
    write(tmp_path / "bad" / "a.nii.gz", volume(2))
    assert read_pairs([path], settings, tmp_path / "bad")[0].degraded is not None
    assert read_pairs([path], TrainingSettings("ct", 0.5), None)[0].degraded is None
