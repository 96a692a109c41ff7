"""What the benchmark compares and over which settings each method is searched on training patients."""

from typing import Any

LEVELS = 10

# Every method's own knobs; the best row of each is used unchanged on the benchmark patient.
SEARCH: dict[str, dict[str, list[dict[str, Any]]]] = {
    "ct": {
        "fbp": [{"filter": "ramlak"}, {"filter": "hann"}, {"filter": "hann", "cutoff": 0.5}],
        "cgls": [{"iterations": i} for i in (10, 20, 40, 80)],
        "tv": [{"weight": w, **solve} for w in (1.0, 2.0, 4.0) for solve in ({}, {"step": 0.02, "cg_iterations": 6})],
        "dds": [{"gamma": g, "levels": LEVELS} for g in (10.0, 30.0, 100.0, 300.0, 1000.0)],
        "dds_tv": [
            {"gamma": g, "tv": True, "threshold": t, "levels": LEVELS}
            for g in (30.0, 100.0, 300.0)
            for t in (0.005, 0.02)
        ],
        "diffusion_mbir": [
            {"gamma": g, "threshold": t, "levels": LEVELS} for g in (30.0, 100.0, 300.0) for t in (0.004, 0.02)
        ],
        "dreamsampler": [{"data_weight": w, "levels": LEVELS} for w in (100.0, 300.0, 1000.0, 3000.0)],
    },
    "mr": {
        "zero_filled": [{}],
        "cg_sense": [{"weight": w} for w in (1e-4, 1e-3, 1e-2, 1e-1)],
        "wavelet": [{"weight": w} for w in (10.0, 30.0, 100.0, 300.0)],
        "tv": [{"weight": w} for w in (5.0, 10.0, 20.0, 40.0)],
        "dds": [{"gamma": g, "levels": LEVELS} for g in (1.0, 10.0, 100.0)],
        "dds_tv": [
            {"gamma": g, "tv": True, "threshold": t, "levels": LEVELS} for g in (1.0, 10.0) for t in (0.002, 0.01)
        ],
        "diffusion_mbir": [{"gamma": g, "threshold": t, "levels": LEVELS} for g in (1.0, 10.0) for t in (0.002, 0.01)],
        "dreamsampler": [{"data_weight": w, "levels": LEVELS} for w in (3.0, 10.0, 100.0)],
    },
}

# PaM with one default changed at a time: shown beside the search, never used for the benchmark.
ABLATION: list[dict[str, Any]] = [
    {"mode": "point"},
    {"mode": "point", "residual_share": 0.0},
    {"mode": "point", "error_pixels": 0.0},
    {"mode": "point", "error_length_mm": 0.0},
    {"mode": "point", "trust": 0.1},
    {"mode": "point", "trust": 10.0},
    {"mode": "point", "levels": 20},
    {"mode": "point", "sigma_min": 0.03},
]

MEASURE: dict[str, dict[str, Any]] = {
    "ct": {"views": 30, "noise_of_largest_ray": 0.01, "working_matrix": None},
    "mr": {
        "coils": 8,
        "acceleration": 4,
        "mask": "random_1d",
        "calibration_fraction": 0.08,
        "noise_fraction": 0.01,
        "working_spacing_mm": 0.86,
    },
}


def solver_of(method: str) -> str:
    """Registered solver behind a benchmark row: `dds_tv` is `dds` with its slice term."""
    return method.removesuffix("_tv") if method == "dds_tv" else method
