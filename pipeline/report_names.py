"""What methods and maps are called on the page."""

METHOD_NAMES = {
    "fbp": "FBP", "fdk": "FDK", "cgls": "CGLS", "sirt": "SIRT", "tv": "TV", "zero_filled": "Zero-filled",
    "cg_sense": "CG-SENSE", "wavelet": "L1-wavelet", "pam": "PaM", "dds": "DDS", "diffusion_mbir": "DiffusionMBIR",
    "dreamsampler": "DreamSampler", "truth": "Truth",
}  # fmt: skip
KIND_NAMES = {
    "mean": "posterior mean", "point": "point estimate", "sample": "one sample", "std": "std",
    "share": "detail from the prior", "flag": "detail in doubt", "epistemic": "std between priors",
}  # fmt: skip


def method_name(method: str) -> str:
    """ "pam_mean" as "PaM posterior mean"; a method that is not known as it stands."""
    if method in METHOD_NAMES:
        return METHOD_NAMES[method]
    solver, _, kind = method.rpartition("_")
    if kind in KIND_NAMES and solver:
        return f"{METHOD_NAMES.get(solver, solver)} {KIND_NAMES[kind]}"
    return method
