"""The stages. Each is a module with main(argv) -> exit status, callable without Snakemake."""
