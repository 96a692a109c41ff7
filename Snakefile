# sliceweave: from folders of studies to volumes, uncertainty maps and pages to look at.
#
#   snakemake --cores all --configfile configs/cohorts/ct_sparse_view.yaml --config studies=/path/to/folder
#
# Configs are code to Snakemake: run only those you trust. Nothing inside a study folder is ever read as config.
from snakemake.utils import min_version

min_version("9.21")


pathvars:
    logs="<results>/logs",
    benchmarks="<results>/benchmarks",


include: "pipeline/rules/common.smk"


wildcard_constraints:
    cohort=one_of(PLAN.cohorts),
    study="[A-Za-z0-9]+",
    series="[A-Za-z0-9]+",
    method="[a-z0-9_]+",
    solver="[a-z0-9_]+",


include: "pipeline/rules/ingest.smk"
include: "pipeline/rules/measure.smk"
include: "pipeline/rules/baseline.smk"
include: "pipeline/rules/reconstruct.smk"
include: "pipeline/rules/uncertainty.smk"
include: "pipeline/rules/alarm.smk"
include: "pipeline/rules/evaluate.smk"
include: "pipeline/rules/export.smk"
include: "pipeline/rules/report.smk"
include: "pipeline/rules/train.smk"


report: "pipeline/report_captions/workflow.rst"


rule all:
    default_target: True
    input:
        targets,


onstart:
    failures.clear(results_folder())


onsuccess:
    say_where(log)


onerror:
    index_what_exists(log)
