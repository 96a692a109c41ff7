rule uncertainty:
    input:
        "<results>/{cohort}/{study}/{series}/reconstruct/{solver}/samples.safetensors",
    output:
        mean="<results>/{cohort}/{study}/{series}/uncertainty/{solver}/mean.nii.gz",
        std="<results>/{cohort}/{study}/{series}/uncertainty/{solver}/std.nii.gz",
        summary="<results>/{cohort}/{study}/{series}/uncertainty/{solver}/uncertainty.json",
    log:
        "<logs>/{cohort}/{study}/{series}/uncertainty_{solver}.log",
    benchmark:
        "<benchmarks>/{cohort}/{study}/{series}/uncertainty_{solver}.jsonl"
    conda:
        "../../environment.yml"
    params:
        reconstruction=subpath(input[0], parent=True),
        out=subpath(output.summary, parent=True),
        settings=settings("uncertainty"),
    shell:
        "python -m pipeline.uncertainty --reconstruction {params.reconstruction:q} --out {params.out:q}"
        " --settings {params.settings:q} 2>&1 | tee {log:q} >&2"


rule support:
    input:
        measurement="<results>/{cohort}/{study}/{series}/measurement/measurement.safetensors",
        samples="<results>/{cohort}/{study}/{series}/reconstruct/{solver}/samples.safetensors",
    output:
        support="<results>/{cohort}/{study}/{series}/uncertainty/{solver}/support.nii.gz",
        flag="<results>/{cohort}/{study}/{series}/uncertainty/{solver}/flag.nii.gz",
        checks="<results>/{cohort}/{study}/{series}/uncertainty/{solver}/checks.json",
    log:
        "<logs>/{cohort}/{study}/{series}/support_{solver}.log",
    benchmark:
        "<benchmarks>/{cohort}/{study}/{series}/support_{solver}.jsonl"
    conda:
        "../../environment.yml"
    threads: all_cores
    resources:
        gpu=gpus,
    params:
        measurement=subpath(input.measurement, parent=True),
        reconstruction=subpath(input.samples, parent=True),
        out=subpath(output.checks, parent=True),
        settings=settings("uncertainty"),
    shell:
        "python -m pipeline.support --measurement {params.measurement:q} --reconstruction {params.reconstruction:q}"
        " --out {params.out:q} --settings {params.settings:q} 2>&1 | tee {log:q} >&2"
