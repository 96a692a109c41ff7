rule train:
    output:
        Path(training_out(), "prior.json"),
    log:
        Path(training_out()).parent / "train.log",
    benchmark:
        Path(training_out()).parent / "train.jsonl"
    conda:
        "../../environment.yml"
    threads: all_cores
    resources:
        gpu=training_gpus,
    params:
        volumes=training_volumes,
        out=subpath(output[0], parent=True),
        state=Path(training_out()).parent / "state",
        settings=training_settings,
        license=training_license,
    shell:
        "python -m pipeline.train --volumes {params.volumes:q} --out {params.out:q} --state {params.state:q}"
        " --settings {params.settings:q} --license {params.license:q} 2>&1 | tee {log:q} >&2"
