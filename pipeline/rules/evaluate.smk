rule evaluate:
    input:
        measurement="<results>/{cohort}/{study}/{series}/measurement/measurement.safetensors",
        methods=for_methods,
        checks=lambda wildcards: [
            f"<results>/{wildcards.cohort}/{wildcards.study}/{wildcards.series}/uncertainty/{solver}/checks.json"
            for solver in PLAN.cohorts[wildcards.cohort].solvers
        ],
    output:
        metrics="<results>/{cohort}/{study}/{series}/metrics.tsv",
        curves="<results>/{cohort}/{study}/{series}/uncertainty_curves.json",
    log:
        "<logs>/{cohort}/{study}/{series}/evaluate.log",
    benchmark:
        "<benchmarks>/{cohort}/{study}/{series}/evaluate.jsonl"
    conda:
        "../../environment.yml"
    params:
        folder=subpath(output[0], parent=True),
        settings=settings("evaluate"),
    shell:
        "python -m pipeline.evaluate --series-dir {params.folder:q} --out {output.metrics:q} --cohort {wildcards.cohort}"
        " --study {wildcards.study} --series {wildcards.series} --settings {params.settings:q} 2>&1 | tee {log:q} >&2"


rule study:
    input:
        metrics=partial(for_series, "<results>/{cohort}/{study}/{series}/metrics.tsv"),
        exports=partial(for_series, "<results>/{cohort}/{study}/{series}/export/dataset_description.json"),
        pages=partial(for_series, "<results>/reports/{cohort}_{study}_{series}.html"),
    output:
        summary="<results>/{cohort}/{study}/summary.tsv",
        sums="<results>/{cohort}/{study}/SHA256SUMS",
    log:
        "<logs>/{cohort}/{study}/summary.log",
    conda:
        "../../environment.yml"
    params:
        folder=subpath(output.summary, parent=True),
    shell:
        "(python -m pipeline.summary --out {output.summary:q} {input.metrics:q}"
        " && python -m pipeline.provenance sums {params.folder:q}) 2>&1 | tee {log:q} >&2"
