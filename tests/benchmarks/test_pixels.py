"""The page of benchmarks.pixels from a small DICOM study: rows by grid, errors of a denoiser that is known."""

from types import SimpleNamespace

import torch

from benchmarks import pixels
from models.denoised import Denoised
from tests.data import dicom_builder


class HalfWay:
    """Denoises to 0.1 (100 HU) off the truth's place of 1000 HU, and predicts four times that mean square."""

    def __init__(self):
        self.card = {"pixel_mm": [1.0, 2.0], "sha256": "0123456789abcdef"}

    def denoise(self, x, sigma, spacing_mm, noise_correlation=0.0):
        return Denoised(torch.full_like(x, 1.1), torch.full_like(x, 0.04))


def test_every_grid_has_its_row_and_the_page_its_picture(monkeypatch, tmp_path):
    study = dicom_builder.Series(slices=4, rows=64, columns=64, pixel_mm=(0.75, 0.75))
    dicom_builder.write(study, tmp_path / "study")
    monkeypatch.setattr(pixels, "load_prior", lambda path: HalfWay())
    monkeypatch.setattr(pixels, "reconstruction", lambda grid, prior: (["tv", "pam"], [grid.truth[0], grid.truth[0]]))
    arguments = ["--study", str(tmp_path / "study"), "--slices", "1", "3", "--matrices", "64", "32"]
    assert pixels.main([*arguments, "--docs", str(tmp_path)]) == 0
    text = (tmp_path / "pixels.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith(("| 64", "| 32"))]
    assert [row[:2] for row in rows] == [["| 64", "0.75"], ["| 32", "1.5"]]
    assert (tmp_path / "pixels.jpg").stat().st_size > 1000


def test_denoising_is_told_as_rmse_and_share_predicted():
    truth = torch.full((2, 8, 8), 1000.0).numpy()
    truth[:, :2] = -1000
    grid = SimpleNamespace(
        truth=truth, units=SimpleNamespace(scale=1000.0), problem=SimpleNamespace(spacing_mm=(1.0, 1.0, 1.0))
    )
    assert pixels.denoising(grid, HalfWay()) == ["100.0 (4.00)"] * len(pixels.SIGMAS)


def test_total_variation_gets_its_best_weight(monkeypatch):
    monkeypatch.setitem(pixels.CLASSICAL, "tv", lambda problem, settings: settings["weight"])
    monkeypatch.setattr(pixels, "axial_db", lambda image, truth: -abs(image - 2.0))
    assert pixels.best_tv(SimpleNamespace(problem=None, truth=None, hu=lambda x: x)) == (2.0, 2.0)
