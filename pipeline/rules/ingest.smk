checkpoint ingest:
    input:
        study=ancient(study_folder),
    output:
        series=directory("<results>/{cohort}/{study}/ingest"),
    log:
        "<logs>/{cohort}/{study}/ingest.log",
    benchmark:
        "<benchmarks>/{cohort}/{study}/ingest.jsonl"
    conda:
        "../../environment.yml"
    params:
        settings=settings("ingest"),
        fingerprint=study_fingerprint,
    shell:
        "python -m pipeline.ingest --study {input.study:q} --out {output.series:q} --settings {params.settings:q}"
        " 2>&1 | tee {log:q} >&2"
