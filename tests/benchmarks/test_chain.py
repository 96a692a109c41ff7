"""The page of benchmarks.chain: rows, priors and notes, with a solver that returns the truth."""

from types import SimpleNamespace

import numpy as np
import torch

from benchmarks import chain, measured_error
from benchmarks.measured_error import Case


def fake_case(volume, task, prior, slices):
    truth = np.random.default_rng(0).uniform(0, 100, (slices, 12, 12)).astype(np.float32)
    units = SimpleNamespace(to_physical=lambda x: x.numpy(), modality="ct")
    return Case(torch.from_numpy(truth), units, truth, prior)


def fake_run(name, problem, prior, settings, sample=0):
    shift = {0: -3.0, 1: 0.0, 2: 6.0}[sample] if settings["mode"] == "sample" else 0.5
    return SimpleNamespace(estimate=problem + shift)


def test_a_row_has_point_mean_sample_ratio_and_jump_and_the_page_its_notes(monkeypatch, tmp_path):
    card = {"command": "train it", "sha256": "0123456789abcdef", "modality": "ct"}
    monkeypatch.setattr(chain, "load_case", fake_case)
    monkeypatch.setattr(measured_error, "run_solver", fake_run)
    monkeypatch.setattr(measured_error, "mean_psnr_db", lambda x, truth, _: float(np.abs(x - truth).max()))
    monkeypatch.setattr(chain, "load_prior", lambda path: SimpleNamespace(card=card, modality="ct"))
    (tmp_path / "chain_ct_notes.md").write_text("## What follows\n")
    arguments = ["--volume", "chest.nii.gz", "--prior", "one", "--prior", "two", "--docs", str(tmp_path)]
    assert chain.main(arguments) == 0
    text = (tmp_path / "chain_ct.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith(("| one", "| two"))]
    assert [row[1] for row in rows] == ["ct30", "ct30", "ct8", "ct8", "ct_la90", "ct_la90"]
    point, mean, sample, ratio, jump = rows[0][2:]
    assert (point, mean, sample) == ("0.50", "1.00", "3.00")
    # V = var(-3, 0, 6) = 21, B = 1, K = 3
    assert ratio == "28.00"
    assert jump == "1.00 |"
    assert "0123456789ab" in text
    assert "--slices 8" in text
    assert text.endswith("## What follows\n")
    assert not (tmp_path / "chain_mr.md").exists()
