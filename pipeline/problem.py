"""From a measurement file to the inverse problem that solvers and baselines work on, in normalised units.

CT: u = HU/1000 and p = mu R(1 + u), so with A = R/|R| the data y = (p/mu - R 1)/|R| are linear in u, and
var(y) = var(p)/(mu |R|)^2. MR: u = image/scale with scale the 99.5th percentile of the CG-SENSE start's magnitude;
A = (mask F S)/|A|, y = k-space/(scale |A|). Weights are inverse variances of y, per real component.
"""

from dataclasses import replace
from pathlib import Path

from operators.cone_geometry import CONE_TYPES
from pipeline.measurement import Measurement, read_measurement
from pipeline.problem_cone import cone_problem
from pipeline.problem_ct import ct_problem
from pipeline.problem_mr import mr_problem
from pipeline.units import Units
from solvers.problem import Problem


def load_problem(directory: Path, device: str = "cpu") -> tuple[Problem, Units]:
    """Problem and units of DIR/measurement.safetensors, on a device; InputError for a damaged or too large one."""
    measurement = read_measurement(Path(directory))
    problem, units = make_problem(measurement)
    if device == "cpu":
        return problem, units
    return problem.to(device), replace(units, heldout=units.heldout and units.heldout.to(device))


def make_problem(measurement: Measurement) -> tuple[Problem, Units]:
    """Problem and units of a measurement by its modality and, for CT, its beam; on the CPU."""
    if measurement.modality == "mr":
        return mr_problem(measurement)
    cone = measurement.metadata["beam"]["type"] in CONE_TYPES
    return cone_problem(measurement) if cone else ct_problem(measurement)


def with_start(measurement: Measurement) -> Measurement:
    """The measurement with what takes time to find: |A|, the classical start and its noise level, so that it is found
    once."""
    problem, units = make_problem(measurement)
    factor = units.scale if measurement.modality == "mr" else 1.0
    found = {"operator_norm": problem.A.factor, "sigma_init": problem.sigma_init}
    tensors = measurement.tensors | {"start": (problem.x_init * factor).numpy()}
    return Measurement(tensors, measurement.metadata | found)
