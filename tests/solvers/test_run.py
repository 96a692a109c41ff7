"""The runner: progress, checkpoints, resume to the same bits, independence of what else is in the batch."""

from __future__ import annotations

import pytest
import torch

from solvers.registry import SOLVERS, solver_settings
from solvers.run import run_solver, run_steps
from tests.solvers.problems import make_problem, stationary_prior

SHAPE = (3, 6, 6)
CASES = [(name, preset) for name in sorted(SOLVERS) for preset in (None, *SOLVERS[name].presets)]


class Interruption(Exception):
    pass


def problem_and_prior(dtype=torch.float32):
    prior = stationary_prior(SHAPE[1:], 0.5, 1.0, "mr" if dtype.is_complex else "ct")
    return make_problem(SHAPE, 18, 0.05, prior, dtype)[0], prior


def settings_of(name, preset):
    return {**(SOLVERS[name].presets[preset] if preset else {}), "levels": 6}


def stop_after(level):
    def progress(done, total):
        if done == level:
            raise Interruption

    return progress


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize(("name", "preset"), CASES)
def test_a_resumed_run_gives_the_same_bits(name, preset, dtype, tmp_path):
    problem, prior = problem_and_prior(dtype)
    settings = settings_of(name, preset)
    unbroken = run_solver(name, problem, prior, settings, seed=4, sample=1)
    checkpoint = tmp_path / "state.safetensors"
    for level in (2, 5):
        with pytest.raises(Interruption):
            run_solver(name, problem, prior, settings, 4, 1, checkpoint, stop_after(level))
        assert checkpoint.exists()
    seen = []
    resumed = run_solver(name, problem, prior, settings, 4, 1, checkpoint, lambda done, total: seen.append(done))
    assert torch.equal(resumed.estimate, unbroken.estimate)
    assert resumed.network_calls == unbroken.network_calls
    assert resumed.chi2 == unbroken.chi2
    assert seen == list(range(5, run_steps(solver_settings(name, settings)) + 1))
    assert list(tmp_path.iterdir()) == []


def test_a_run_killed_after_its_last_level_is_only_read(tmp_path):
    problem, prior = problem_and_prior()
    checkpoint = tmp_path / "state.safetensors"
    with pytest.raises(Interruption):
        run_solver("dds", problem, prior, {"levels": 3}, checkpoint=checkpoint, progress=stop_after(3))
    unbroken = run_solver("dds", problem, prior, {"levels": 3})
    denoiser_calls = []

    class Counting:
        card = prior.card
        sigma_data = prior.sigma_data

        def denoise(self, *arguments, **named):
            denoiser_calls.append(1)
            return prior.denoise(*arguments, **named)

    finished = run_solver("dds", problem, Counting(), {"levels": 3}, checkpoint=checkpoint)
    assert torch.equal(finished.estimate, unbroken.estimate)
    assert denoiser_calls == []
    assert not checkpoint.exists()


@pytest.mark.parametrize("change", ["settings", "seed", "sample", "data", "damage"])
def test_a_foreign_or_damaged_checkpoint_is_not_taken_up(change, tmp_path):
    problem, prior = problem_and_prior()
    checkpoint = tmp_path / "state.safetensors"
    with pytest.raises(Interruption):
        run_solver("dds", problem, prior, {"levels": 4}, 0, 0, checkpoint, stop_after(2))
    settings, seed, sample = {"levels": 4}, 0, 0
    if change == "settings":
        settings = {"levels": 4, "gamma": 3.0}
    elif change == "seed":
        seed = 1
    elif change == "sample":
        sample = 1
    elif change == "data":
        problem = make_problem(SHAPE, 18, 0.05, prior, seed=9)[0]
    else:
        checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    fresh = run_solver("dds", problem, prior, settings, seed, sample)
    result = run_solver("dds", problem, prior, settings, seed, sample, checkpoint)
    assert torch.equal(result.estimate, fresh.estimate)


def test_samples_differ_and_do_not_depend_on_their_order():
    problem, prior = problem_and_prior()
    forward = [run_solver("pam", problem, prior, {"levels": 4}, 7, k).estimate for k in (0, 1)]
    backward = [run_solver("pam", problem, prior, {"levels": 4}, 7, k).estimate for k in (1, 0)]
    assert torch.equal(forward[0], backward[1])
    assert torch.equal(forward[1], backward[0])
    assert not torch.allclose(forward[0], forward[1])


def test_result_accounts_for_the_run():
    problem, prior = problem_and_prior()
    seen = []
    result = run_solver("dreamsampler", problem, prior, {"levels": 4}, progress=lambda a, b: seen.append((a, b)))
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    assert result.network_calls == 4
    assert result.chi2 == problem.chi2(result.estimate)
    assert result.seconds > 0
    assert result.peak_mem_mb > 10
    assert not result.estimate.requires_grad
