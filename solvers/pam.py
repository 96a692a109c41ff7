"""PaM: perturb-and-MAP along a short noise schedule, the default sampler and point estimate."""

from collections.abc import Iterator
from dataclasses import dataclass

from models.prior import SlicePrior
from solvers.correction import ErrorModel, correct
from solvers.draws import Draws
from solvers.problem import Problem
from solvers.schedule import karras_levels
from solvers.slice_coupling import ar1_draw, coupling_coefficient
from solvers.state import State


@dataclass(frozen=True)
class PamSettings:
    """`mode` "sample" draws from the posterior, "point" takes every correction's mode.

    `noise_length_mm` is the correlation length along z of the re-noise, `error_length_mm` that of the denoiser's error
    (0: independent slices). `sigma_max` null starts at the problem's own level. `trust` multiplies the predicted error
    variance on top of the prior's own calibration.
    """

    mode: str = "sample"
    levels: int = 15
    sigma_max: float | None = None
    sigma_min: float = 0.01
    trust: float = 1.0
    noise_length_mm: float = 0.0
    error_length_mm: float = 4.0
    cg_iterations: int = 30
    cg_tolerance: float = 1e-3


def pam(
    problem: Problem, prior: SlicePrior, settings: PamSettings, draws: Draws, state: State | None = None
) -> Iterator[State]:
    """Yields a State after every noise level sigma: h, V = D(x_sigma); x ~ N(mode, cov) of `correct`; x' = x + sigma'
    z.

    The draw has the covariance of the exact posterior of a prior that is locally Gaussian with variance V, so that
    x + sigma' z has the right marginal at the next level without any weight to tune. In mode "point" x is the mode.
    """
    sample = settings.mode == "sample"
    noise_c = coupling_coefficient(problem.spacing_mm[0], settings.noise_length_mm)
    error_c = coupling_coefficient(problem.spacing_mm[0], settings.error_length_mm)
    sigmas = karras_levels(settings.sigma_max or problem.sigma_init, settings.sigma_min, settings.levels)

    def noisy(x, level):
        white = draws.normal(x.shape, x.dtype, level, "noise").to(x.device)
        return x + sigmas[level] * ar1_draw(white, noise_c)

    if state is None:
        state = State(0, noisy(problem.x_init, 0), problem.x_init, {}, 0)
    for level in range(state.level, len(sigmas)):
        denoised = prior.denoise(state.x, sigmas[level], problem.spacing_mm, noise_c)
        scale = settings.trust * prior.r2_scale(sigmas[level], settings.mode)
        error = ErrorModel((scale * denoised.variance).sqrt(), error_c)
        x = correct(
            problem,
            denoised.mean,
            error,
            settings.cg_iterations,
            settings.cg_tolerance,
            draws if sample else None,
            (level,),
        )
        following = noisy(x, level + 1) if level + 1 < len(sigmas) else x
        state = State(level + 1, following, x, {}, state.network_calls + 1)
        yield state
