rule export:
    input:
        ingest="<results>/{cohort}/{study}/ingest",
        measurement="<results>/{cohort}/{study}/{series}/measurement/measurement.safetensors",
        methods=for_methods,
        checks=lambda wildcards: [
            f"<results>/{wildcards.cohort}/{wildcards.study}/{wildcards.series}/uncertainty/{solver}/checks.json"
            for solver in PLAN.cohorts[wildcards.cohort].solvers
        ],
    output:
        "<results>/{cohort}/{study}/{series}/export/dataset_description.json",
    log:
        "<logs>/{cohort}/{study}/{series}/export.log",
    benchmark:
        "<benchmarks>/{cohort}/{study}/{series}/export.jsonl"
    conda:
        "../../environment.yml"
    params:
        folder=subpath(output[0], ancestor=2),
        out=subpath(output[0], parent=True),
        benchmarks=benchmarks_folder,
        settings=settings("export"),
    shell:
        "python -m pipeline.export --series-dir {params.folder:q} --ingest {input.ingest:q}/{wildcards.series}"
        " --out {params.out:q} --benchmarks {params.benchmarks:q} --settings {params.settings:q} 2>&1 | tee {log:q} >&2"
