rule alarm:
    input:
        samples="<results>/{cohort}/{study}/{series}/reconstruct/{solver}/samples.safetensors",
        run="<results>/{cohort}/{study}/{series}/reconstruct/{solver}/run.json",
        prior=prior_card,
    output:
        "<results>/{cohort}/{study}/{series}/alarm/{solver}/alarm.json",
    log:
        "<logs>/{cohort}/{study}/{series}/alarm_{solver}.log",
    benchmark:
        "<benchmarks>/{cohort}/{study}/{series}/alarm_{solver}.jsonl"
    conda:
        "../../environment.yml"
    threads: all_cores
    resources:
        gpu=gpus,
    params:
        reconstruction=subpath(input.run, parent=True),
        settings=settings("reconstruct"),
    shell:
        "python -m pipeline.alarm check --reconstruction {params.reconstruction:q} --out {output:q}"
        " --settings {params.settings:q} 2>&1 | tee {log:q} >&2"
