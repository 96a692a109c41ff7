rule baseline:
    input:
        "<results>/{cohort}/{study}/{series}/measurement/measurement.safetensors",
    output:
        volume="<results>/{cohort}/{study}/{series}/baseline/{method}.nii.gz",
        run="<results>/{cohort}/{study}/{series}/baseline/{method}.json",
    log:
        "<logs>/{cohort}/{study}/{series}/baseline_{method}.log",
    benchmark:
        "<benchmarks>/{cohort}/{study}/{series}/baseline_{method}.jsonl"
    conda:
        "../../environment.yml"
    params:
        measurement=subpath(input[0], parent=True),
        settings=settings("baseline"),
    shell:
        "python -m pipeline.baseline --measurement {params.measurement:q} --method {wildcards.method}"
        " --out {output.volume:q} --settings {params.settings:q} 2>&1 | tee {log:q} >&2"
