"""Conformal intervals: a cohort with truth fixes how wide m +- lambda s must be, with the patient as exchangeable unit.

    python -m pipeline.conformal fit --results results --cohort NAME --interval 0.9 --out conformal.json

The scale s is the local spread of the posterior samples (see `local_scale`), and L_j(lambda) the share of patient j's
body voxels outside [m - lambda s, m + lambda s], averaged over the patient's series. Two guarantees, alpha = 1 -
interval:

risk     lambda = inf{lambda: (sum_j L_j(lambda) + 1) / (n + 1) <= alpha}, so E[L_new] <= alpha
         (conformal risk control: Angelopoulos et al., ICLR 2024, eq. 4 with B = 1)
patient  lambda = k-th smallest of lambda_j = inf{lambda: L_j(lambda) <= alpha}, k = ceil((n + 1) confidence), so
         P(L_new <= alpha) >= confidence (split conformal prediction of the patient's own lambda: Vovk et al. 2005)

Every folder of studies is one patient. Both need n >= ceil(1 / a) - 1 patients, a = alpha or 1 - confidence.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from data.atomic import write_text
from data.errors import InputError
from data.nifti import read_volume
from pipeline.cli import main_wrapper
from pipeline.conformal_conditions import Conditions, conditions_of, difference
from pipeline.evaluate import patient_mask
from pipeline.measurement import read_tensors
from pipeline.settings import require_choice, require_range

FORMAT = 1
GUARANTEES = ("risk", "patient")
SMOOTH_PIXELS = 1.5
FLOOR_SHARE = 0.01
# Candidates of lambda, 0.2 % apart: the infimum is taken over these, which keeps both guarantees.
FACTORS = np.geomspace(1e-2, 1e4, 6909)
ROUNDING = 1e-9


@dataclass(frozen=True)
class Calibration:
    """lambda of the cohort (`factor`), the guarantee it gives, and what it holds for.

    losses: the patients' shares outside at `factor`, sorted; factors: the patients' own lambda, sorted.
    """

    guarantee: str
    interval: float
    confidence: float | None
    patients: int
    factor: float
    smooth_pixels: float
    floor_share: float
    losses: tuple[float, ...]
    factors: tuple[float, ...]
    conditions: Conditions

    def sentence(self) -> str:
        """The guarantee in one sentence."""
        n, outside = self.patients, f"{100 * (1 - self.interval):g} %"
        whom = f"For a patient exchangeable with these {n} (same scanner, protocol, measurement, prior and solver), "
        if self.guarantee == "risk":
            return (
                f"{whom}at most {outside} of the body's voxels are expected to lie outside their interval, on average "
                "over patients and calibration cohorts; single patients, organs and voxels may do worse."
            )
        return (
            f"{whom}the share of the body's voxels outside their interval is at most {outside} with probability at "
            f"least {100 * self.confidence:g} %, over patients and calibration cohorts; organs may do worse."
        )


def local_scale(std: np.ndarray, smooth_pixels: float = SMOOTH_PIXELS, floor_share: float = FLOOR_SHARE) -> np.ndarray:
    """s (z y x): root of the variance averaged in the slice by a Gaussian, plus a share of the volume's rms spread.

    A variance from few samples is itself uncertain, which gives |x - m| / std heavy tails; neighbours share what they
    know. Any function of the samples alone keeps the guarantee.
    """
    variance = np.asarray(std, dtype=np.float64) ** 2
    floor = floor_share * math.sqrt(variance.mean())
    if smooth_pixels > 0:
        variance = ndimage.gaussian_filter(variance, (0, smooth_pixels, smooth_pixels), mode="nearest")
    return np.sqrt(np.maximum(variance, 0)) + floor


def conformal_bounds(mean: np.ndarray, std: np.ndarray, calibration: Calibration) -> tuple[np.ndarray, np.ndarray]:
    """(lower, upper) (z y x) in the units of mean and std: m -+ lambda s."""
    half = calibration.factor * local_scale(std, calibration.smooth_pixels, calibration.floor_share)
    return mean - half, mean + half


def risk_curve(mean: np.ndarray, scale: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """L(lambda) at FACTORS: share of the mask's voxels with |truth - mean| > lambda s; never increasing."""
    if not mask.any():
        raise ValueError("the mask is empty")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.abs(truth[mask].astype(np.float64) - mean[mask]) / scale[mask]
    ratio = np.where(np.isnan(ratio), 0.0, ratio)
    at_least = np.searchsorted(FACTORS, ratio, side="left")
    inside = np.cumsum(np.bincount(at_least, minlength=FACTORS.size + 1)[: FACTORS.size])
    return 1 - inside / ratio.size


def patients_needed(level: float) -> int:
    """Fewest patients for which 1/(n + 1) <= level."""
    return math.ceil(1 / level - ROUNDING) - 1


def risk_factor(curves: np.ndarray, alpha: float) -> float:
    """lambda of conformal risk control for the patients' curves (n, FACTORS); InputError where n is too small."""
    _require_patients(len(curves), alpha, f"an interval of {100 * (1 - alpha):g} %")
    return _first((curves.sum(axis=0) + 1) / (len(curves) + 1) <= alpha + ROUNDING)


def patient_factor(curves: np.ndarray, alpha: float, confidence: float) -> float:
    """lambda that covers 1 - alpha of a new patient's voxels with this confidence; InputError where n is too small."""
    count = len(curves)
    _require_patients(count, 1 - confidence, f"a confidence of {100 * confidence:g} %")
    rank = math.ceil((count + 1) * confidence - ROUNDING)
    return sorted(own_factors(curves, alpha))[rank - 1]


def own_factors(curves: np.ndarray, alpha: float) -> list[float]:
    """lambda_j = inf{lambda: L_j(lambda) <= alpha} of every patient."""
    return [_first(curve <= alpha + ROUNDING) for curve in curves]


def calibrate(
    curves: np.ndarray, conditions: Conditions, interval: float, guarantee: str, confidence: float
) -> Calibration:
    """The calibration of the patients' curves (n, FACTORS)."""
    alpha = 1 - interval
    by_risk = guarantee == "risk"
    factor = risk_factor(curves, alpha) if by_risk else patient_factor(curves, alpha, confidence)
    return Calibration(
        guarantee=guarantee,
        interval=interval,
        confidence=None if by_risk else confidence,
        patients=len(curves),
        factor=factor,
        smooth_pixels=SMOOTH_PIXELS,
        floor_share=FLOOR_SHARE,
        losses=tuple(sorted(float(curve[np.searchsorted(FACTORS, factor)]) for curve in curves)),
        factors=tuple(sorted(own_factors(curves, alpha))),
        conditions=conditions,
    )


def patient_curves(cohort: Path, solver: str | None) -> tuple[np.ndarray, Conditions]:
    """(curves (n, FACTORS) of the studies of a finished cohort, their common conditions).

    InputError: nothing finished, several solvers and none named, series measured or reconstructed unlike the others.
    """
    patients: dict[str, list[np.ndarray]] = {}
    conditions: Conditions | None = None
    for path in finished(cohort, solver):
        here = conditions_of(path)
        conditions = conditions or here
        if found := difference(conditions, here):
            raise InputError(
                f"{cohort}: its series differ in {found}; calibrate on series measured and reconstructed alike."
            )
        patients.setdefault(path.parents[2].name, []).append(series_curve(path, here.modality))
    if conditions is None:
        raise InputError(f"{cohort}: no reconstructed series with a truth in it; run the pipeline on the cohort first.")
    return np.stack([np.mean(curves, axis=0) for curves in patients.values()]), conditions


def finished(cohort: Path, solver: str | None) -> list[Path]:
    """reconstruct/<solver> folders of the cohort whose series have a truth, in the order of their names."""
    found = sorted(path.parent for path in cohort.glob(f"*/*/reconstruct/{solver or '*'}/run.json"))
    found = [path for path in found if (path.parents[1] / "measurement" / "truth.nii.gz").is_file()]
    names = sorted({path.name for path in found})
    if len(names) > 1:
        raise InputError(f"{cohort}: holds several solvers; choose one with --solver: {', '.join(names)}.")
    return found


def series_curve(reconstruction: Path, modality: str) -> np.ndarray:
    """risk_curve of one series within its body mask."""
    samples = read_tensors(reconstruction / "samples.safetensors")[0]["samples"]
    if len(samples) < 2:
        raise InputError(f"{reconstruction}: one sample has no spread; set reconstruct.samples to 2 or more.")
    truth = read_volume(reconstruction.parents[1] / "measurement" / "truth.nii.gz").array_zyx
    mean = samples.mean(axis=0, dtype=np.float64)
    std = samples.std(axis=0, ddof=1, dtype=np.float64)
    return risk_curve(mean, local_scale(std), truth, patient_mask(truth, modality))


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write as JSON; no names of patients go into it."""
    record = {"format": FORMAT, "guarantee_sentence": calibration.sentence()} | asdict(calibration)
    record["measure_sha256"] = calibration.conditions.measure_sha256
    write_text(path, json.dumps(record, indent=1) + "\n")


def read_calibration(path: Path) -> Calibration:
    """The calibration that `fit` wrote; InputError where the file is none or was changed."""
    advice = "name a file that `python -m pipeline.conformal fit` wrote."
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        version, digest = record.pop("format"), record.pop("measure_sha256")
        record.pop("guarantee_sentence")
        conditions = Conditions(**record.pop("conditions"))
        calibration = Calibration(conditions=conditions, **record)
        calibration = replace(calibration, losses=tuple(calibration.losses), factors=tuple(calibration.factors))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: missing or no conformal calibration; {advice}") from error
    if version != FORMAT or digest != conditions.measure_sha256 or not calibration.factor > 0:
        raise InputError(f"{path}: is of another version or was edited; {advice}")
    return calibration


def calibration_for(path: Path, reconstruction: Path, interval: float) -> Calibration:
    """The calibration of a file, checked against a reconstruction and the interval asked for; InputError if unfit."""
    calibration = read_calibration(path)
    if abs(calibration.interval - interval) > ROUNDING:
        raise InputError(
            f"{path}: holds intervals of {100 * calibration.interval:g} %, uncertainty.interval asks for "
            f"{100 * interval:g} %; change one of them."
        )
    if found := difference(calibration.conditions, conditions_of(reconstruction)):
        raise InputError(
            f"{path}: the calibration and this study differ in {found}; calibrate on a cohort made the same way, or "
            "take `conformal` out of the config."
        )
    return calibration


def _first(reached: np.ndarray) -> float:
    if not reached[-1]:
        raise InputError(
            "conformal: the samples have no spread where they are wrong, no width covers; check the cohort."
        )
    return float(FACTORS[int(np.argmax(reached))])


def _require_patients(count: int, level: float, what: str) -> None:
    if (count + 1) * level < 1 - ROUNDING:
        raise InputError(
            f"conformal: {what} needs at least {patients_needed(level)} patients, the cohort has {count}; "
            "add patients or ask for less."
        )


@main_wrapper
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.conformal", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    fit = parser.add_subparsers(dest="command", required=True).add_parser("fit", help="calibrate on a finished cohort")
    fit.add_argument("--results", type=Path, required=True, help="the pipeline's results folder")
    fit.add_argument("--cohort", required=True, help="a finished cohort with a truth; one study folder a patient")
    fit.add_argument("--solver", help="where the cohort has several")
    fit.add_argument("--interval", type=float, default=0.9)
    fit.add_argument("--guarantee", default="risk", help="risk: on average over patients; patient: for most patients")
    fit.add_argument("--confidence", type=float, default=0.9, help="of the guarantee `patient`")
    fit.add_argument("--out", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args(argv)
    require_range(arguments.interval, 0.5, 0.999, "--interval")
    require_range(arguments.confidence, 0.5, 0.999, "--confidence")
    require_choice(arguments.guarantee, GUARANTEES, "--guarantee")
    curves, conditions = patient_curves(arguments.results / arguments.cohort, arguments.solver)
    calibration = calibrate(curves, conditions, arguments.interval, arguments.guarantee, arguments.confidence)
    write_calibration(arguments.out, calibration)
    print(calibration.sentence())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
