# Helpers of the rules; everything with logic in it lives in importable modules.
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, workflow.basedir)

from data.errors import InputError
from pipeline import config as plan_of, failures

plan_of.stages_find_python(workflow.basedir)

try:
    PLAN = plan_of.load(config, Path(workflow.basedir), ", ".join(map(str, workflow.configfiles)) or "config")
except InputError as error:
    sys.exit(f"Error: {error.user_message}")


def one_of(names):
    """A wildcard constraint that allows these names alone."""
    return "|".join(names) or "none"


def all_cores(wildcards):
    """Every core the run was given; on a cluster, where that is unset, what the profile's set-threads says."""
    try:
        return workflow.cores
    except WorkflowError:
        return 8


def settings(stage):
    """A params function: the stage's settings as JSON, so that a change re-runs what depends on it and no more."""
    return partial(_settings, stage)


def _settings(stage, wildcards):
    method = wildcards.get("method") or wildcards.get("solver")
    labels = {key: wildcards[key] for key in ("study", "series") if key in wildcards.keys()}
    return PLAN.settings(stage, wildcards.cohort, method, **labels)


def study_folder(wildcards):
    return str(PLAN.cohorts[wildcards.cohort].studies[wildcards.study])


def study_fingerprint(wildcards):
    return plan_of.fingerprint(PLAN.cohorts[wildcards.cohort].studies[wildcards.study])


def prior_card(wildcards):
    return str(Path(PLAN.cohorts[wildcards.cohort].sections["reconstruct"]["prior"]) / "prior.json")


def gpus(wildcards):
    return int(plan_of.wants_gpu(PLAN.cohorts[wildcards.cohort].sections["reconstruct"]["device"]))


def for_methods(wildcards):
    """Every baseline, every solver's reconstruction and uncertainty, and the shown solver's alarm, of one series."""
    cohort = PLAN.cohorts[wildcards.cohort]
    here = f"<results>/{wildcards.cohort}/{wildcards.study}/{wildcards.series}"
    return [
        *(f"{here}/baseline/{method}.json" for method in cohort.baselines),
        *(f"{here}/reconstruct/{solver}/run.json" for solver in cohort.solvers),
        *(f"{here}/uncertainty/{solver}/uncertainty.json" for solver in cohort.solvers),
        f"{here}/alarm/{cohort.solvers[0]}/alarm.json",
    ]


def benchmarks_folder(wildcards):
    """Where Snakemake keeps the times and peak memory of a series' stages."""
    return workflow.pathvars.apply(f"<benchmarks>/{wildcards.cohort}/{wildcards.study}/{wildcards.series}")


def series_of(wildcards):
    """Labels of the series that ingest accepted; asks the checkpoint."""
    folder = checkpoints.ingest.get(cohort=wildcards.cohort, study=wildcards.study).output.series
    return plan_of.accepted_series(Path(folder))


def for_series(template, wildcards):
    """A params or input function: the template filled for each accepted series of the study."""
    return [template.format(**wildcards, series=series) for series in series_of(wildcards)]


def targets(wildcards):
    if not PLAN.studies and PLAN.training is None:
        sys.exit(
            "Error: the config names no cohort; give --configfile configs/cohorts/ct_sparse_view.yaml, or your own."
        )
    studies = [f"<results>/{cohort}/{study}/summary.tsv" for cohort, study in PLAN.studies]
    index = ["<results>/summary.tsv", "<results>/index.html"] if PLAN.studies else []
    prior = [str(PLAN.training.out / "prior.json")] if PLAN.training else []
    return studies + index + prior


def study_summaries(wildcards):
    return [f"<results>/{cohort}/{study}/summary.tsv" for cohort, study in PLAN.studies]


def training_out():
    return str(PLAN.training.out) if PLAN.training else "runs/train/none"


def training_volumes(wildcards):
    return str(PLAN.training.volumes)


def training_settings(wildcards):
    return PLAN.training.settings_json()


def training_license(wildcards):
    return PLAN.training.license


def training_gpus(wildcards):
    return int(plan_of.wants_gpu("auto"))


def results_folder():
    return Path(workflow.pathvars.apply("<results>"))


def say_where(log):
    index = results_folder() / "index.html"
    if PLAN.studies and index.exists():
        print(f"Done. Open {index}", file=sys.stderr)
    if PLAN.training:
        print(f"Done. The prior is in {PLAN.training.out}", file=sys.stderr)


def index_what_exists(log):
    """After a failure: say each failed stage's sentence again, and list what exists."""
    failures.report(log, results_folder(), Path(workflow.pathvars.apply("<logs>")))
    if PLAN.studies:
        failures.rebuild_index(results_folder())
