rule page:
    input:
        metrics="<results>/{cohort}/{study}/{series}/metrics.tsv",
        methods=for_methods,
    output:
        report(
            "<results>/reports/{cohort}_{study}_{series}.html",
            caption="../report_captions/page.rst",
            category="{cohort}",
            labels={"study": "{study}", "series": "{series}"},
        ),
    log:
        "<logs>/{cohort}/{study}/{series}/page.log",
    benchmark:
        "<benchmarks>/{cohort}/{study}/{series}/page.jsonl"
    conda:
        "../../environment.yml"
    params:
        folder=subpath(input.metrics, parent=True),
        settings=settings("report"),
    shell:
        "python -m pipeline.report page --series-dir {params.folder:q} --out {output:q} --cohort {wildcards.cohort}"
        " --study {wildcards.study} --series {wildcards.series} --settings {params.settings:q}"
        " 2>&1 | tee {log:q} >&2"


rule summary:
    input:
        study_summaries,
    output:
        report("<results>/summary.tsv", caption="../report_captions/summary.rst", category="Summary"),
    log:
        "<logs>/summary.log",
    conda:
        "../../environment.yml"
    params:
        results=subpath(output[0], parent=True),
    shell:
        "python -m pipeline.summary --results {params.results:q} --out {output:q} 2>&1 | tee {log:q} >&2"


rule index:
    input:
        "<results>/summary.tsv",
    output:
        "<results>/index.html",
    log:
        "<logs>/index.log",
    conda:
        "../../environment.yml"
    params:
        results=subpath(output[0], parent=True),
    shell:
        "python -m pipeline.report index --results {params.results:q} --out {output:q} 2>&1 | tee {log:q} >&2"
