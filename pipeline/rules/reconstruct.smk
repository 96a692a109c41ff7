# Only these outputs are declared: Snakemake removes declared outputs before a job, and the states beside them are what
# a killed job resumes from.
rule reconstruct:
    input:
        measurement="<results>/{cohort}/{study}/{series}/measurement/measurement.safetensors",
        prior=prior_card,
    output:
        samples="<results>/{cohort}/{study}/{series}/reconstruct/{solver}/samples.safetensors",
        run="<results>/{cohort}/{study}/{series}/reconstruct/{solver}/run.json",
    log:
        "<logs>/{cohort}/{study}/{series}/reconstruct_{solver}.log",
    benchmark:
        "<benchmarks>/{cohort}/{study}/{series}/reconstruct_{solver}.jsonl"
    conda:
        "../../environment.yml"
    threads: all_cores
    resources:
        gpu=gpus,
    params:
        measurement=subpath(input.measurement, parent=True),
        out=subpath(output.run, parent=True),
        settings=settings("reconstruct"),
    shell:
        "python -m pipeline.reconstruct --measurement {params.measurement:q} --solver {wildcards.solver}"
        " --out {params.out:q} --settings {params.settings:q} 2>&1 | tee {log:q} >&2"
