"""Coil sensitivities from what was measured: filled-in centres, calibration lines, one set of maps or two."""

import numpy as np
import pytest
import torch

from data.errors import InputError
from operators.coils import estimate_sensitivities, simulate_sensitivities
from operators.fourier import fft2, ifft2
from operators.low_rank import complete_kspace
from pipeline.adopt_mr import adopt_mr
from pipeline.mr_sensitivities import cartesian_maps, is_lattice
from pipeline.problem import with_start
from pipeline.problem_mr import mr_problem
from pipeline.settings import MrMeasureSettings
from tests.operators.helpers import read_cfl, seeded, write_cfl
from tests.operators.test_mri import phantom, simulated_kspace
from tests.pipeline.mr_builder import bart, raw


def gappy(shape, share, seed=2):
    return np.random.default_rng(seed).random(shape) < share


def test_a_centre_with_gaps_is_filled_in_and_the_maps_are_right(record_property):
    kspace, truth, inside = simulated_kspace((1, 128, 100), noise=0.01)
    mask = gappy((128, 100), 0.5)
    maps, said = cartesian_maps((kspace * torch.from_numpy(mask)).numpy(), mask, None, "auto", 1, "k")
    agreement = (maps.conj() * truth).sum(1).abs()[:, inside]
    assert float(agreement.mean()) > 0.999
    assert any(text.startswith("warning: the centre of k-space was not sampled whole") for text in said)
    record_property("measured", f"half of the centre missing: maps agree to {float(agreement.mean()):.4f}")


@pytest.mark.oracle
@pytest.mark.interop("read", "calibration-free coil maps", "BART 0.8 sake")
def test_the_filled_in_centre_against_barts(tmp_path, record_property):
    """Both fill in the same gaps; ours is not farther from the truth than BART's."""
    kspace, _, _ = simulated_kspace((1, 128, 100), noise=0.01)
    centre = kspace[0][::2, 52:76, 38:62]
    mask = torch.from_numpy(gappy((24, 24), 0.6))
    ours = complete_kspace(centre * mask, mask)
    write_cfl(tmp_path / "k", (centre * mask).numpy().transpose(2, 1, 0)[:, :, None])
    bart(tmp_path, "sake", "-i", 50, "-s", 0.25, "k", "s")
    theirs = torch.from_numpy(read_cfl(tmp_path / "s").reshape(24, 24, 4).transpose(2, 1, 0).copy())
    errors = [float((found - centre).norm() / centre.norm()) for found in (ours, theirs)]
    record_property("measured", f"error of the filled-in centre {errors[0]:.3f}, BART's {errors[1]:.3f}")
    assert errors[0] < max(1.1 * errors[1], 0.05)
    torch.testing.assert_close(ours[:, mask], centre[:, mask])


def test_lattices_and_empty_centres_are_refused():
    kspace, _, _ = simulated_kspace((1, 64, 64), noise=0.01)
    for mask in (np.arange(64)[None] % 2 * np.ones((64, 1)) > 0, gappy((64, 64), 0.15)):
        with pytest.raises(InputError, match="too few to estimate"):
            cartesian_maps(kspace.numpy() * mask, mask, None, "auto", 1, "k")
    assert is_lattice(np.arange(9)[:, None] % 3 * np.ones((1, 9)) == 0)
    assert not is_lattice(np.ones((9, 9), bool))


def test_separate_calibration_lines_are_taken():
    kspace, truth, inside = simulated_kspace((1, 64, 64), noise=0.01)
    mask = np.arange(64)[None] % 2 * np.ones((64, 1)) > 0
    separate = np.zeros_like(kspace.numpy())
    separate[..., 24:40] = kspace.numpy()[..., 24:40]
    maps, said = cartesian_maps(kspace.numpy() * mask, mask, separate, "auto", 1, "k")
    assert float((maps.conj() * truth).sum(1).abs()[:, inside].mean()) > 0.999
    assert said == ["coil sensitivities from separate calibration lines"]


def folded(rows=96):
    """(k-space of a 128 x 100 phantom in a field of view of `rows` rows, where the object folds onto itself)."""
    kspace, _, _ = simulated_kspace((1, 128, 100), noise=0.01)
    images = ifft2(kspace)
    small = torch.zeros((1, 8, rows, 100), dtype=torch.complex64)
    for row in range(128):
        small[:, :, (row - 64 + rows // 2) % rows] += images[:, :, row]
    return fft2(small)


@pytest.mark.oracle
@pytest.mark.interop("read", "two sets of coil maps", "BART 0.8 ecalib")
def test_two_sets_of_maps_span_what_barts_do(tmp_path, record_property):
    kspace = folded()
    mask = np.ones((96, 100), bool)
    maps, _ = cartesian_maps(kspace.numpy(), mask, None, "region", 2, "k")
    ours = maps[0]
    write_cfl(tmp_path / "k", kspace[0].permute(2, 1, 0)[:, :, None].numpy())
    bart(tmp_path, "ecalib", "-m", 2, "-c", 0.8, "-r", 32, "k", "m")
    theirs = torch.from_numpy(read_cfl(tmp_path / "m").reshape(100, 96, 8, 2).transpose(3, 2, 1, 0).copy())
    norm = theirs.norm(dim=1, keepdim=True)
    theirs = theirs / norm.clamp_min(1e-6) * (norm > 1e-3)
    both = (ours[1].norm(dim=0) > 0) & (theirs[1].norm(dim=0) > 0)
    spans = [torch.einsum("mcyx,mdyx->yxcd", sets, sets.conj()) for sets in (ours, theirs)]
    worst = float((spans[0] - spans[1]).flatten(2).norm(dim=2)[both].max())
    record_property("measured", f"spans differ by at most {worst:.0e} where both have two sets")
    assert float(both.float().mean()) > 0.1
    assert worst < 0.05


def test_a_field_of_view_that_is_too_small_is_told_and_two_sets_explain_the_data():
    kspace, settings = folded().numpy(), {"source": "measured", "holdout_fraction": 0.03}
    mask = gappy((96, 100), 0.5) | (np.hypot(*np.meshgrid(np.arange(100) - 50, np.arange(96) - 48)) < 17)
    chi2 = {}
    for maps in (1, 2):
        measurement, _ = adopt_mr(raw(kspace * mask), MrMeasureSettings(maps=maps, **settings), "k")
        said = " ".join(measurement.metadata["preparation"])
        problem, units = mr_problem(with_start(measurement))
        chi2[maps] = problem.chi2(problem.x_init), units.heldout.error(problem.x_init)
        assert ("set measure.maps to 2" in said) == (maps == 1)
        told = [text for text in measurement.metadata["warnings"] if "the intervals do not cover its error" in text]
        assert len(told) == maps - 1
    assert chi2[2][0] < 0.5 * chi2[1][0]
    assert chi2[2][1] < 0.8 * chi2[1][1]


def test_an_object_inside_the_field_of_view_raises_no_warning():
    kspace, _, _ = simulated_kspace((1, 128, 100), noise=0.01)
    _, said = cartesian_maps(kspace.numpy(), np.ones((128, 100), bool), None, "auto", 1, "k")
    assert not any("warning" in text for text in said)


def test_estimating_from_one_slice_in_eight_does_not_depend_on_the_others():
    maps = simulate_sensitivities(4, (1, 64, 64), seeded(1))
    kspace = fft2(maps * phantom((64, 64)))
    region = (slice(20, 44), slice(20, 44))
    alone = estimate_sensitivities(kspace, region)
    together = estimate_sensitivities(kspace.expand(3, -1, -1, -1).contiguous(), region)
    torch.testing.assert_close(together[1], alone[0], rtol=1e-3, atol=1e-3)
