"""Our DiffPIR and DPS against deepinv's on the same problem, prior, noise levels and noise.

    python -m benchmarks.crosscheck --prior models/weights/ct

deepinv is an optional extra (requirements-extra.txt); it is imported without torchvision, which nothing here needs.
Writes docs/results/crosscheck.md. What is made equal, and what cannot be, is said there and in the functions below.
"""

import argparse
import importlib
import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from math import sqrt
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.deepinv_peer import deepinv_denoiser, deepinv_physics, import_deepinv
from benchmarks.series import machine
from models.denoised import Denoised
from models.gaussian import GaussianPrior
from models.mixture import MixturePrior
from models.prior import load_prior
from operators.ct_geometry import ImageGrid, ParallelBeam, view_angles
from operators.ct_projector import CtProjector
from operators.norm import Normalised, operator_norm
from pipeline.cli import main_wrapper
from solvers.draws import Draws
from solvers.problem import Problem
from solvers.state import State

PAGE = Path(__file__).parent.parent / "docs" / "results" / "crosscheck.md"
SIDE, SLICES, VIEWS, PIXEL_MM, SIGMA_Y = 48, 3, 10, 1.6, 0.01


def disc_problem(seed: int = 0) -> tuple[Problem, Tensor]:
    """(problem, truth): discs of several densities on a small CT grid, parallel beam, white noise in the data."""
    y, x = (torch.arange(SIDE, dtype=torch.float32) - (SIDE - 1) / 2)[:, None], None
    x = y.T
    truth = torch.full((SLICES, SIDE, SIDE), -1.0)
    for z in range(SLICES):
        truth[z][(y / 20) ** 2 + (x / 16) ** 2 < 1] = 0.05
        truth[z][(y - 6 + z) ** 2 + (x - 5) ** 2 < 25] = -0.8
        truth[z][(y + 8) ** 2 + (x + 4 - z) ** 2 < 9] = 0.6
    projector = CtProjector(ImageGrid(SIDE, SIDE, PIXEL_MM), ParallelBeam(view_angles(VIEWS, 180.0), 70, PIXEL_MM))
    norm = operator_norm(projector, (1, SIDE, SIDE), torch.float32, torch.Generator().manual_seed(0))
    A = Normalised(projector, norm)
    clean = A(truth)
    noisy = clean + SIGMA_Y * Draws(seed).normal(tuple(clean.shape), torch.float32, "data")
    weights = torch.full((1, 1, 1), SIGMA_Y**-2)
    return Problem(A, noisy, weights, A.adjoint(noisy), 1.0, (2.0, PIXEL_MM, PIXEL_MM)), truth


def one_slice(problem: Problem) -> Problem:
    """The first slice alone."""
    return Problem(
        problem.A, problem.y[:1], problem.weights, problem.x_init[:1], problem.sigma_init, problem.spacing_mm
    )


class Clipped:
    """A prior whose mean is clipped to [-1, 1], as deepinv's DiffPIR clips what its denoiser gives."""

    def __init__(self, prior: Any):
        self.prior, self.sigma_data = prior, prior.sigma_data

    def denoise(self, x: Tensor, sigma: float, spacing_mm, noise_correlation: float = 0.0) -> Denoised:
        denoised = self.prior.denoise(x, sigma, spacing_mm, noise_correlation)
        return denoised._replace(mean=denoised.mean.clamp(-1, 1))


@contextmanager
def fixed_levels(module: ModuleType, sigmas: list[float]) -> Iterator[None]:
    """Lets one of our solvers take these noise levels."""
    with mock.patch.object(module, "karras_levels", return_value=list(sigmas)):
        yield


def last_iterate(run: Iterator[State], levels: int) -> Tensor:
    """x (z y x) of the state after `levels` levels, noise included."""
    with torch.no_grad():
        for state in run:
            if state.level == levels:
                return state.x
    raise ValueError(f"the run has fewer than {levels} levels")


def our_levels(name: str, problem: Problem, prior: Any, sigmas: list[float], start: Tensor, values: dict) -> Tensor:
    """Iterate of our solver after all but the last of the noise levels, from `start` (z y x)."""
    module = importlib.import_module(f"solvers.{name}")
    settings = {"diffpir": "DiffPirSettings", "dps": "DpsSettings"}[name]
    chosen = getattr(module, settings)(levels=len(sigmas), **values)
    owner = importlib.import_module("solvers.guidance") if name == "dps" else module
    with fixed_levels(owner, sigmas):
        run = getattr(module, name)(problem, prior, chosen, Draws(0), State(0, start, problem.x_init))
        return last_iterate(run, len(sigmas) - 1)


def noises(problem: Problem, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Stand-in for deepinv's torch.randn_like: call n gives the noise that our solvers draw for level n, (z 1 y x)."""
    count = iter(range(10_000))
    return lambda *_, **__: (
        Draws(0).normal(problem.shape, problem.dtype, next(count), "noise").to(problem.device)[:, None].to(dtype)
    )


def diffpir_pair(
    deepinv: ModuleType, problem: Problem, prior: Any, levels: int, penalty: float, zeta: float, largest: float
) -> tuple[Tensor, Tensor]:
    """(ours, deepinv's) DiffPIR iterate at the last noise level, both in u with variance-exploding noise.

    deepinv's penalty is twice ours: its rho = lambda sigma_n^2 / sigma_t^2 has sigma_n of images in [0, 1] and sigma_t
    of images in [-1, 1], and its proximal step takes 1 / (2 rho). Its variance-preserving schedule is shortened to end
    at `largest`; it stops after the last re-noise, without a last denoising, and clips the denoised image to [-1, 1].
    """
    wrapped = deepinv_denoiser(deepinv, prior, problem.spacing_mm, centred=False)
    theirs = deepinv.sampling.DiffPIR(
        wrapped, deepinv.optim.data_fidelity.L2(), sigma=SIGMA_Y / 2, max_iter=levels, zeta=zeta, lambda_=2 * penalty
    )
    shorten(theirs, largest)
    sigmas = [float(theirs.sigmas[i]) for i in theirs.seq]
    water = problem.A(torch.ones_like(problem.x_init))
    noise = noises(problem, torch.float32)
    with mock.patch.object(torch, "randn_like", noise):
        physics = deepinv_physics(deepinv, problem)
        out = theirs((problem.y + water) / 2, physics, x_init=((problem.x_init + 1) / 2)[:, None])
    scale = float(theirs.sqrt_alphas_cumprod[theirs.find_nearest(theirs.reduced_alpha_cumprod, sigmas[-1])])
    first = sqrt(sigmas[0] ** 2 - SIGMA_Y**2) * Draws(0).normal(problem.shape, problem.dtype, 0, "noise")
    values = {"penalty": penalty, "zeta": zeta, "cg_iterations": 200, "cg_tolerance": 1e-6}
    ours = our_levels("diffpir", problem, prior, sigmas, problem.x_init + first, values)
    return ours, (2 * out[:, 0] - 1) / scale


def shorten(model: Any, largest: float) -> None:
    """Ends the linear beta schedule of a deepinv DiffPIR at sigma = `largest`: sigma^2 = exp(sum of beta) - 1."""
    model.beta_end = 2 * float(torch.tensor(largest**2 + 1).log()) / model.num_train_timesteps - model.beta_start
    (
        model.sqrt_1m_alphas_cumprod,
        model.reduced_alpha_cumprod,
        model.sqrt_alphas_cumprod,
        model.sqrt_recip_alphas_cumprod,
        model.sqrt_recipm1_alphas_cumprod,
        model.betas,
    ) = model.get_alpha_beta()
    model.get_alpha_prod = lambda: (model.sqrt_recip_alphas_cumprod, model.sqrt_recipm1_alphas_cumprod)
    model.rhos, model.sigmas, model.seq = model.get_noise_schedule(sigma=model.sigma)


def dps_pair(
    deepinv: ModuleType, problem: Problem, prior: Any, sigmas: list[float], zeta: float
) -> tuple[Tensor, Tensor]:
    """(ours, deepinv's) DPS iterate of one slice at the last noise level, in u with variance-exploding noise.

    deepinv puts the gradient of |y - A D| into the score, so a step moves by weight sigma^2 (1 - sigma'^2 / sigma^2)
    times it; the paper moves by zeta whatever the step, and so do we. Here deepinv's weight is set anew for every step
    so that both move alike: what is compared is the derivative through the network, the norm and the ancestral update.
    """
    if problem.shape[0] != 1:
        raise ValueError("deepinv normalises the residual slice by slice, ours by volume: give one slice")
    sampling = deepinv.sampling
    wrapped = deepinv_denoiser(deepinv, prior, problem.spacing_mm, centred=True)
    fidelity = sampling.DPSDataFidelity(denoiser=wrapped)
    low, high = min(sigmas) / 2, max(sigmas)
    sde = sampling.VarianceExplodingDiffusion(sigma_min=low, sigma_max=high)
    times = torch.tensor([torch.tensor(s / low).log() / torch.tensor(high / low).log() for s in sigmas]).double()
    solver = sampling.DDPMSolver(timesteps=times)
    model = sampling.PosteriorDiffusion(
        data_fidelity=fidelity, denoiser=wrapped, sde=sde, solver=solver, minus_one_one=False
    )
    noise = noises(problem, torch.float64)
    start = problem.x_init + sigmas[0] * noise()[:, 0].float()
    solver.randn_like = noise
    physics, x = deepinv_physics(deepinv, problem), start[:, None].double()
    voxels = problem.x_init.numel()
    for index, (sigma, following) in enumerate(pairwise(sigmas)):
        shares = [1 / (1 + (s / prior.sigma_data) ** 2) for s in (sigma, following)]
        length = zeta * prior.sigma_data * sqrt(voxels / (shares[0] * shares[1]))
        fidelity.weight = length / (sigma**2 - following**2)
        x, _ = solver.step(model.posterior, times[index], times[index + 1], x.detach(), y=problem.y, physics=physics)
    ours = our_levels("dps", problem, prior, sigmas, start, {"zeta": zeta})
    return ours, x[:, 0].detach().float()


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Root mean square difference over the root mean square of deepinv's image around its mean."""
    return float((ours - theirs).square().mean().sqrt() / theirs.std())


def comparisons(prior_folder: Path) -> Iterator[tuple[str, str, float]]:
    """(solver, prior, relative difference) of every pair."""
    deepinv = import_deepinv()
    problem, truth = disc_problem()
    ky, kx = (torch.fft.fftfreq(SIDE)[:, None], torch.fft.fftfreq(SIDE)[None, :])
    power = 0.05 / (1 + 400 * (ky**2 + kx**2))
    means = torch.stack([truth[0], truth[1].flip(0), truth[2].flip(1)])
    priors = {
        "Gaussian": GaussianPrior(power, mean=-0.3),
        "Gaussian mixture": MixturePrior(means, 0.1, torch.full((3,), 1 / 3)),
        f"network {prior_folder.name}": load_prior(prior_folder),
    }
    sigmas = [float(s) for s in torch.logspace(0.0, -1.7, 12)]
    for name, prior in priors.items():
        if hasattr(prior, "bfloat16"):
            prior.bfloat16 = False
        for words, denoiser in (("DiffPIR", prior), ("DiffPIR, both clipped", Clipped(prior))):
            yield words, name, difference(*diffpir_pair(deepinv, problem, denoiser, 12, 7.0, 0.3, 3.0))
        yield "DPS", name, difference(*dps_pair(deepinv, one_slice(problem), prior, sigmas, 0.05))


NOTES = """\
What is made equal: the operator (a small parallel-beam CT), data with white noise, the start, every noise level, every
noise tensor, the denoiser. Compared is the iterate at the last noise level, before the last denoising, since deepinv's
DiffPIR ends there.

What differs by convention, and how it was matched:

- **DiffPIR, penalty.** deepinv's `lambda_` is twice ours for the same data weight: its rho = lambda sigma_n^2 /
  sigma_t^2 mixes sigma_n of images in [0, 1] with sigma_t of images in [-1, 1], and the proximal step takes
  1 / (2 rho).
- **DiffPIR, clipping.** deepinv clips the denoised image to [-1, 1] before the data step. Ours does not: CT goes above.
  The rows "both clipped" give ours the same clipped denoiser: what is left is rounding (float32, the table that
  rho is looked up in, two conjugate-gradient codes).
- **DiffPIR, last level.** deepinv returns the last re-noised iterate, still times sqrt(alpha), after a denoising whose
  result it drops. Ours ends with a denoised and data-corrected image.
- **DPS, step.** deepinv puts the gradient of |y - A D(x)| into the score, so a step moves by
  weight (sigma^2 - sigma'^2) times it. The paper's algorithm 1 moves by zeta whatever the step, and so does ours. At a
  fixed weight the two are different samplers; here the weight was set step by step so that both move alike.
- **DPS, norm.** deepinv normalises the residual slice by slice, ours over the volume: compared on one slice.
"""


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", type=Path, required=True, help="folder of a CT prior")
    parser.add_argument("--tolerance", type=float, default=1e-2, help="largest relative difference that passes")
    arguments = parser.parse_args(argv)
    rows = list(comparisons(arguments.prior))
    version = importlib.metadata.version("deepinv")
    lines = [
        f"# Cross-check with deepinv {version}",
        "",
        f"Command: `python -m benchmarks.crosscheck --prior {arguments.prior}`. Seed 0. Machine: {machine()}.",
        "",
        "| solver | prior | relative difference (rms over the image's standard deviation) |",
        "| --- | --- | --- |",
        *(f"| {solver} | {prior} | {value:.1e} |" for solver, prior, value in rows),
        "",
        NOTES,
    ]
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text("\n".join(lines), encoding="utf-8")
    worst = max(value for solver, _, value in rows if solver != "DiffPIR")
    print(f"largest relative difference with equal clipping {worst:.1e}")
    return 0 if worst <= arguments.tolerance else 1


if __name__ == "__main__":
    raise SystemExit(main())
