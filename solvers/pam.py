"""PaM: perturb-and-MAP along a short noise schedule, the default sampler and point estimate."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from models.denoised import LARGEST_CORRELATION
from models.prior import SlicePrior
from solvers.correction import ErrorModel, correct, error_correlation
from solvers.draws import Draws
from solvers.measured_error import measured_trust
from solvers.problem import Problem
from solvers.schedule import karras_levels
from solvers.settings import require
from solvers.slice_coupling import ar1_draw, coupling_coefficient
from solvers.state import State

# At the first level the start's own error would be measured.
MEASURED_LEVEL = 1
SIGMA_MIN = {"point": 0.015, "sample": 0.03}


@dataclass(frozen=True)
class PamSettings:
    """How PaM anneals; nothing here depends on views, coils or noise.

    mode                "sample" draws from the posterior, "point" takes every correction's mode
    levels              noise levels, one network call each
    paths               point only: descents from noise of their own whose results are averaged, `levels` calls each
    sigma_max           first level; null starts at the problem's own
    sigma_min           last level; null is 0.015 for point estimates and 0.03 for samples
    trust               factor on the predicted error variance on top of the prior's own calibration; null: measured
                        once, from the residual of the second level, where the prior's card says how (samples: at
                        least 1)
    residual_share      point only: share of the last correction's error variance that is told to the network as noise
    noise_length_mm     sample only: correlation length of the re-noise along z (0: independent slices)
    reflect             denoise in a reflected frame, another one at every level: the network's errors differ from frame
                        to frame and then do not add up from level to level
    error_length_mm     correlation length of the denoiser's error along z; 0: white, null: the prior's card
    error_pixels        correlation length of the denoiser's error in the slice; 0: white, null: the prior's card
    broad_share         sample only: share of the error's variance that reaches further, as far as the prior's card
                        says; null: the card's share. Wants more iterations of conjugate gradients
    cg_iterations, cg_tolerance   of every correction
    """

    mode: str = "sample"
    levels: int = 10
    paths: int = 2
    sigma_max: float | None = None
    sigma_min: float | None = None
    trust: float | None = None
    residual_share: float = 1.0
    noise_length_mm: float = 12.0
    reflect: bool = True
    error_length_mm: float | None = None
    error_pixels: float | None = None
    broad_share: float | None = None
    cg_iterations: int = 30
    cg_tolerance: float = 1e-2

    def __post_init__(self) -> None:
        require(self.paths >= 1, "paths must be at least 1.")

    @property
    def steps(self) -> int:
        """Network calls of a run."""
        return self.levels * (self.paths if self.mode == "point" else 1)


def reflections(draws: Draws) -> list[list[int]]:
    """The eight sets of reflected axes (z y x) in random order."""
    order = torch.randperm(8, generator=draws.generator("reflect")).tolist()
    return [[axis for axis in range(3) if code >> axis & 1] for code in order]


def pam(
    problem: Problem, prior: SlicePrior, settings: PamSettings, draws: Draws, state: State | None = None
) -> Iterator[State]:
    """Yields a State after every noise level sigma: h, V = D(x_sigma); x ~ N(mode, cov) of `correct`; x' = x + sigma'
    z.

    A draw has the covariance of the exact posterior of a prior that is locally Gaussian with variance V, so x +
    sigma' z has the right marginal at the next level without any weight to tune. In mode "point" x is the mode, which
    still lacks an error of variance r^2 = scale * V: the network is told sigma^2 + residual_share * mean(r^2) as its
    noise variance; the estimate is the mean over the paths so far.
    """
    sample = settings.mode == "sample"
    noise_c = coupling_coefficient(problem.spacing_mm[0], settings.noise_length_mm) if sample else 0.0
    noise_c = min(noise_c, LARGEST_CORRELATION)
    share = settings.broad_share if sample else None
    lengths = settings.error_length_mm, settings.error_pixels
    error_c = error_correlation(problem, prior.card, settings.mode, *lengths, share)
    sigmas = karras_levels(
        settings.sigma_max or problem.sigma_init, settings.sigma_min or SIGMA_MIN[settings.mode], settings.levels
    )

    per_scale = prior.card.get("measured", {}).get(settings.mode) if settings.trust is None else None
    frames = reflections(draws) if settings.reflect else [[]]
    effort = settings.cg_iterations, settings.cg_tolerance
    first = {"missing": torch.zeros(1), "trust": torch.tensor([settings.trust or 1.0])}

    def noisy(x, step):
        white = draws.normal(x.shape, x.dtype, step, "noise").to(x.device)
        return x + sigmas[step % len(sigmas)] * ar1_draw(white, noise_c)

    if state is None:
        state = State(0, noisy(problem.x_init, 0), problem.x_init, first, 0)
    for step in range(state.level, settings.steps):
        path, level = divmod(step, len(sigmas))
        sigma = (sigmas[level] ** 2 + float(state.extra["missing"])) ** 0.5
        axes = frames[step % len(frames)]
        h, variance = (v.flip(axes) for v in prior.denoise(state.x.flip(axes), sigma, problem.spacing_mm, noise_c))
        variance = prior.r2_scale(sigma, settings.mode) * variance
        trust = float(state.extra["trust"])
        if level == MEASURED_LEVEL and per_scale:
            error = ErrorModel(variance.sqrt(), *error_c)
            trust = measured_trust(problem, h, error, per_scale, settings.mode, draws)
        variance = trust * variance
        error = ErrorModel(variance.sqrt(), *error_c)
        x = correct(problem, h, error, *effort, draws if sample else None, (step,))
        estimate = x + (state.extra["before"] - x) * (path / (path + 1)) if path else x
        if level + 1 < len(sigmas):
            missing = torch.zeros(1) if sample else settings.residual_share * variance.mean().reshape(1).cpu()
            following = noisy(x, step + 1)
            extra = state.extra | {"missing": missing, "trust": torch.tensor([trust])}
        elif step + 1 < settings.steps:
            following, extra = noisy(problem.x_init, step + 1), first | {"before": estimate}
        else:
            following, extra = estimate, {}
        state = State(step + 1, following, estimate, extra, state.network_calls + 1)
        yield state
