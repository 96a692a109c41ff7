"""What each correction of measured CT projections is worth: raw counts with known faults, with and without it.

    python -m benchmarks.measured_ct write --out FOLDER      the raw data as .npy, .h5, TIFF stack and .mat
    python -m benchmarks.measured_ct picture                 docs/images/ct_projections.png and the numbers under it

The scan is simulated from the demo's chest CT on its native grid, three rays a bin: a fan beam whose axis of rotation
projects 2.3 bins beside the detector's middle, photon noise, dark current, a lamp that fades by 3 %, gains that drift
after the flat field was taken (rings), and dead, stuck and hot bins.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import h5py
import matplotlib.pyplot as plt
import numpy as np
import scipy.io
import tifffile
import torch

from data.dicom_pixels import read_pixels
from data.dicom_series import arrange
from data.projections import Projections, read_projections
from data.study import find_series
from operators.ct_geometry import FanBeam, ImageGrid, view_angles
from operators.ct_projector import CtProjector
from pipeline.ct_preparation import join_bins, prepare
from pipeline.measure_ct_measured import bins_in_a_pixel, image_grid, measured_settings, reference_volume

REPOSITORY = Path(__file__).parent.parent
DEMO = REPOSITORY / "data" / "demo" / "ct" / "lidc0314"
PICTURE = REPOSITORY / "docs" / "images" / "ct_projections.png"
MU_WATER = 0.0192
SHIFT_BINS, PHOTONS, DARK, FADES = 2.3, 4e4, 400.0, 0.03
SLICES = (20, 21)
VIEWS, BINS, BIN_MM = 180, 560, 1.3
RAYS_A_BIN = 2
DEAD, STUCK, HOT = (97, 98), (401,), (260,)
FORMS = ("npy", "h5", "tiff", "mat")


def native_slab(first: int, last: int) -> tuple[np.ndarray, float]:
    """(HU (z y x), pixel in mm) of slices of the demo's chest CT."""
    finding = next(found for found in find_series(DEMO) if found.kind == "dicom" and found.error is None)
    frames, affine = arrange(finding.frames)
    hu, pixel_mm = read_pixels(frames[first:last]), float(np.hypot(*affine[:2, 0]))
    places = np.arange(hu.shape[-1]) - (hu.shape[-1] - 1) / 2
    return np.where(np.hypot(places[:, None], places[None]) < hu.shape[-1] / 2, hu, -1000), pixel_mm


def scanner(shift_bins: float = SHIFT_BINS, views: int = VIEWS) -> FanBeam:
    """The fan beam whose axis projects `shift_bins` to the right of the detector's middle."""
    return FanBeam(view_angles(views, 360), BINS, BIN_MM, 595.0, 490.6, -shift_bins * BIN_MM)


def open_shares(hu: np.ndarray, pixel_mm: float, beam: FanBeam) -> np.ndarray:
    """Share of the photons that each bin still gets, (z views bins), the mean over the rays in a bin."""
    fine = replace(beam, bins=beam.bins * RAYS_A_BIN, bin_mm=beam.bin_mm / RAYS_A_BIN)
    projector = CtProjector(ImageGrid(hu.shape[1], hu.shape[2], pixel_mm), fine, "line")
    p = MU_WATER * projector(torch.from_numpy(1 + np.maximum(hu, -1000).astype(np.float32) / 1000)).numpy()
    return np.exp(-p).reshape(*p.shape[:2], beam.bins, RAYS_A_BIN).mean(-1)


def raw_counts(shares: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """counts (z views bins), flat, flat_after and dark (z frames bins), all uint16, from `open_shares`."""
    rng, (slices, views, bins) = np.random.default_rng(seed), shares.shape
    gain = 1 + 0.1 * np.sin(np.arange(bins) / 9) + rng.normal(0, 0.05, bins)
    drifted = gain * (1 + rng.normal(0, 0.02, bins))
    fading = 1 - FADES * np.linspace(0, 1, views)
    dark_level = DARK + rng.normal(0, 30, bins)

    def detected(photons: np.ndarray, response: np.ndarray) -> np.ndarray:
        return rng.poisson(photons * response) + rng.normal(dark_level, 4.0, photons.shape)

    shape = (slices, 20, bins)
    frames = {
        "counts": detected(PHOTONS * shares * fading[:, None], drifted),
        "flat": detected(np.full(shape, PHOTONS), gain),
        "flat_after": detected(np.full(shape, PHOTONS * (1 - FADES)), gain),
        "dark": detected(np.zeros(shape), gain),
    }
    for array in frames.values():
        array[..., list(DEAD)] = 0
        array[..., list(STUCK)] = 900
    counts = frames["counts"]
    counts[..., list(HOT)] *= rng.uniform(1, 4, (slices, views, len(HOT)))
    return {name: np.clip(np.rint(array), 0, 65535).astype(np.uint16) for name, array in frames.items()}


def write_form(folder: Path, form: str, frames: dict[str, np.ndarray], beam: FanBeam) -> Path:
    """FOLDER with the raw data in one of FORMS and its geometry.json, which knows nothing of the shift. Its path."""
    folder.mkdir(parents=True)
    notes = {
        "type": "fanflat",
        "axes": "z views bins",
        "values": "counts",
        "angles_deg": {"first": 0, "step": 360 / beam.views},
        "detector_pixel_mm": [1.5, beam.bin_mm],
        "source_axis_mm": beam.source_axis_mm,
        "source_detector_mm": beam.source_axis_mm + beam.axis_detector_mm,
        "mu_water_per_mm": MU_WATER,
    }
    keys = {name: "projections" if name == "counts" else name for name in frames}
    if form == "npy":
        for name, array in frames.items():
            np.save(folder / f"{name}.npy", array)
        notes |= {key: f"{name}.npy" for name, key in keys.items()}
    elif form == "h5":
        with h5py.File(folder / "scan.h5", "w") as handle:
            for name, array in frames.items():
                handle.create_dataset(f"exchange/{name}", data=array, compression="gzip")
        notes |= {key: {"file": "scan.h5", "dataset": f"exchange/{name}"} for name, key in keys.items()}
    elif form == "tiff":
        for name, array in frames.items():
            (folder / name).mkdir()
            for number, page in enumerate(array.transpose(1, 0, 2)):
                tifffile.imwrite(folder / name / f"{name}{number}.tif", page)
        notes |= {key: name for name, key in keys.items()} | {"axes": "views rows columns"}
    else:
        scipy.io.savemat(folder / "scan.mat", {"scan": frames}, do_compression=True)
        notes |= {key: {"file": "scan.mat", "dataset": f"scan.{name}"} for name, key in keys.items()}
    (folder / "geometry.json").write_text(json.dumps(notes, indent=1) + "\n", encoding="utf-8")
    return folder / "geometry.json"


def reconstruct(projections: Projections, settings: dict) -> np.ndarray:
    """HU (z y x) by filtered backprojection on 256 x 256 pixels."""
    chosen = measured_settings({"working_matrix": 256} | settings)
    prepared = prepare(projections, chosen)
    grid = image_grid(projections, prepared, chosen)
    return reference_volume(join_bins(prepared, bins_in_a_pixel(grid, prepared.beam)), grid, MU_WATER)


BASE = {"rings": "sort"}
VARIANTS = (
    ("all corrections", BASE),
    ("axis of rotation not looked for", BASE | {"centre_of_rotation": "none"}),
    ("rings kept", {"rings": "none"}),
    ("bad bins kept", BASE | {"bad_pixels": False}),
)


def picture(out: Path) -> list[tuple[str, float]]:
    """Write the picture; of each variant (name, root mean square difference in HU from a scan without faults or noise,
    by the same method, within the body)."""
    hu, pixel_mm = native_slab(*SLICES)
    shares = open_shares(hu, pixel_mm, scanner())
    faultless = as_projections({"counts": shares * PHOTONS, "flat": np.full((len(hu), 20, BINS), PHOTONS)})
    ideal = reconstruct(faultless, {"centre_of_rotation": SHIFT_BINS * BIN_MM, "bad_pixels": False})
    projections = as_projections(raw_counts(shares))
    images = [(name, reconstruct(projections, settings)) for name, settings in VARIANTS]
    images.append(("dark current kept", reconstruct(replace(projections, dark=None), BASE)))
    body = ideal > -300
    rows = [(name, float(np.sqrt(np.mean((image - ideal)[body] ** 2)))) for name, image in images]
    figure, axes = plt.subplots(2, 3, figsize=(9.6, 6.7), facecolor="black")
    shown = [("no fault, no noise", ideal, "")]
    shown += [(n, i, f"{error:.0f} HU off") for (n, i), (_, error) in zip(images, rows, strict=True)]
    for axis, (name, image, error) in zip(axes.flat, shown, strict=True):
        axis.imshow(image[0], cmap="gray", vmin=-1000, vmax=500)
        axis.set_title(f"{name}\n{error}" if error else f"{name}\n", color="white", fontsize=9)
        axis.axis("off")
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.92, 0.02, 0.14)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=100, facecolor="black")
    plt.close(figure)
    return rows


def as_projections(frames: dict[str, np.ndarray]) -> Projections:
    """The raw data as the reader gives them."""
    with tempfile.TemporaryDirectory() as folder:
        return read_projections(write_form(Path(folder) / "scan", "npy", frames, scanner(0.0)))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.measured_ct", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    writing = commands.add_parser("write", help="write the raw data in four forms, one study folder each")
    writing.add_argument("--out", type=Path, required=True)
    painting = commands.add_parser("picture", help="the picture of the documentation, and its numbers")
    painting.add_argument("--out", type=Path, default=PICTURE)
    arguments = parser.parse_args(argv)
    if arguments.command == "write":
        hu, pixel_mm = native_slab(*SLICES)
        frames = raw_counts(open_shares(hu, pixel_mm, scanner()))
        for form in FORMS:
            print(write_form(arguments.out / form, form, frames, scanner(0.0)))
        return 0
    for name, error in picture(arguments.out):
        print(f"{name}: {error:.0f} HU")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
