rule measure:
    input:
        series="<results>/{cohort}/{study}/ingest",
    output:
        "<results>/{cohort}/{study}/{series}/measurement/measurement.safetensors",
    log:
        "<logs>/{cohort}/{study}/{series}/measure.log",
    benchmark:
        "<benchmarks>/{cohort}/{study}/{series}/measure.jsonl"
    conda:
        "../../environment.yml"
    params:
        out=subpath(output[0], parent=True),
        settings=settings("measure"),
    shell:
        "python -m pipeline.measure --input {input.series:q}/{wildcards.series} --out {params.out:q}"
        " --settings {params.settings:q} 2>&1 | tee {log:q} >&2"
