# The study is no input: Snakemake would take braces in its path for wildcards. The fingerprint tells of changes.
checkpoint ingest:
    output:
        series=directory("<results>/{cohort}/{study}/ingest"),
    log:
        "<logs>/{cohort}/{study}/ingest.log",
    benchmark:
        "<benchmarks>/{cohort}/{study}/ingest.jsonl"
    conda:
        "../../environment.yml"
    params:
        study=study_folder,
        settings=settings("ingest"),
        fingerprint=study_fingerprint,
    shell:
        "python -m pipeline.ingest --study {params.study:q} --out {output.series:q} --settings {params.settings:q}"
        " 2>&1 | tee {log:q} >&2"
