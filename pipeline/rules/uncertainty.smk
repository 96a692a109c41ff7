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
