"""Inputs that the fuzz targets start from, which their readers take without complaint.

Builders that need packages of the tests are imported where they are used.
"""

import json
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]


def join(*parts: bytes) -> bytes:
    """Parts with their lengths before them, but for the last."""
    return b"".join(struct.pack("<I", len(part)) + part for part in parts[:-1]) + parts[-1]


def split(data: bytes, count: int) -> list[bytes]:
    """The inverse of `join` for any bytes at all."""
    parts = []
    for _ in range(count - 1):
        size = int.from_bytes(data[:4], "little")
        parts.append(data[4 : 4 + size])
        data = data[4 + size :]
    return [*parts, data]


def contents(write: Callable[[Path], object], *names: str) -> bytes:
    """What WRITE(folder) puts into the named files, joined."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        return join(*((Path(folder) / name).read_bytes() for name in names))


def dicom_slices(study: Path) -> None:
    """Four slices of a series, of which the fuzzed file may become the fifth."""
    for z, dataset in enumerate(ct(5)):
        if z != 2:
            dataset.save_as(study / f"good{z}", enforce_file_format=True)


def ct(slices: int) -> list:
    from tests.data.dicom_builder import Series, dataset

    series = Series(slices=slices, rows=32, columns=32)
    datasets = [dataset(series, z, {"study": "1.2.1", "series": "1.2.2", "frame": "1.2.3"}) for z in range(slices)]
    for z, made in enumerate(datasets):
        made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = f"1.2.9.{z}"
    return datasets


def dicom_seeds() -> list[bytes]:
    from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless

    from tests.data.dicom_builder import Series, write_enhanced

    def plain(folder: Path, syntax: str | None = None) -> None:
        made = ct(5)[2]
        if syntax in (RLELossless, JPEG2000Lossless):
            made.compress(syntax, generate_instance_uid=False)
        elif syntax is not None:
            made.file_meta.TransferSyntaxUID = syntax
        made.save_as(folder / "x", enforce_file_format=True)

    syntaxes = (None, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEG2000Lossless)
    seeds = [contents(lambda folder, syntax=syntax: plain(folder, syntax), "x") for syntax in syntaxes]
    seeds.append(contents(lambda folder: write_enhanced(Series("CT", slices=4, rows=6, columns=6), folder / "x"), "x"))
    return seeds


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape)


def nifti(name: str = "x.nii", dtype=np.int16, second: bool = False) -> bytes:
    import nibabel

    kind = nibabel.Nifti2Image if second else nibabel.Nifti1Image
    image = kind((100 * normal(6, 5, 4)).astype(dtype), np.diag([2.0, 2, 3, 1]))
    image.set_qform(image.affine, 1)
    return contents(lambda folder: nibabel.save(image, folder / name), name)


def nrrd_seeds() -> list[bytes]:
    import SimpleITK

    image = SimpleITK.GetImageFromArray((100 * normal(4, 5, 6)).astype(np.int16))

    def write(folder: Path, packed: bool) -> None:
        SimpleITK.WriteImage(image, str(folder / "x.nrrd"), packed)

    return [contents(lambda folder, packed=packed: write(folder, packed), "x.nrrd") for packed in (False, True)]


def meta_seeds() -> list[bytes]:
    import SimpleITK

    image = SimpleITK.GetImageFromArray((100 * normal(4, 5, 6)).astype(np.float32))

    def write(folder: Path, packed: bool) -> None:
        SimpleITK.WriteImage(image, str(folder / "x.mha"), packed)

    return [contents(lambda folder, packed=packed: write(folder, packed), "x.mha") for packed in (False, True)]


def complex_normal(*shape: int) -> np.ndarray:
    return (normal(*shape) + 1j * normal(*shape)).astype(np.complex64)


def npy_seeds() -> list[bytes]:
    plain = {"axes": "coils y x", "spacing_mm": [4, 2, 2]}
    radial = {"axes": "coils readouts samples", "spacing_mm": [4, 2, 2], "matrix": [8, 8], "trajectory": "y.npy"}
    made = []
    corner = plain | {"dc": "corner"}
    scans = ((plain, complex_normal(2, 8, 8)), (radial, complex_normal(2, 6, 8)), (corner, complex_normal(1, 8, 9)))
    for notes, array in scans:

        def write(folder: Path, notes: dict = notes, array: np.ndarray = array) -> None:
            np.save(folder / "x.npy", array)
            np.save(folder / "y.npy", normal(6, 8, 2).astype(np.float32))
            (folder / "x.json").write_text(json.dumps(notes))

        made.append(contents(write, "x.json", "y.npy", "x.npy"))
    return made


def h5_seeds() -> list[bytes]:
    import h5py

    def write(folder: Path) -> None:
        (folder / "x.json").write_text(json.dumps({"axes": "z coils y x", "spacing_mm": [4, 2, 2], "noise": "n"}))
        with h5py.File(folder / "x.h5", "w") as handle:
            handle["kspace"], handle["n"] = complex_normal(2, 2, 8, 8), complex_normal(2, 16)

    return [contents(write, "x.json", "x.h5")]


def ismrmrd_seeds() -> list[bytes]:
    from tests.data.raw_builder import Scan, write_cartesian

    scan = Scan((8, 8, 1), (16.0, 16.0, 4.0))
    return [contents(lambda folder: write_cartesian(folder / "x.h5", complex_normal(2, 2, 8, 8), scan), "x.h5")]


def fastmri_seeds() -> list[bytes]:
    from tests.data.raw_builder import Scan, write_fastmri

    scan = Scan((8, 8, 1), (16.0, 16.0, 4.0))

    def write(folder: Path) -> None:
        write_fastmri(folder / "x.h5", complex_normal(2, 2, 8, 8), scan, mask=np.ones(8, np.float32))

    return [contents(write, "x.h5")]


def xml_seeds() -> list[bytes]:
    from tests.data.raw_builder import Scan, header_xml

    field_mm = (16.0, 16.0, 4.0)
    return [header_xml(Scan((8, 8, 1), field_mm)), header_xml(Scan((8, 8, 4), field_mm, bandwidth=0.8))]


def bart_seeds() -> list[bytes]:
    header, values = b"# Dimensions\n8 8 1 2 1 1 1 1 1 1 1 1 1 1 1 1\n", complex_normal(2, 8, 8).tobytes()
    notes = json.dumps({"spacing_mm": [4, 2, 2]}).encode()
    return [join(header, notes, values), join(header.replace(b"8 8 1 2", b"8 8 2 1"), b"{}", values)]


def geometry_seeds() -> list[bytes]:
    angles = list(range(0, 180, 30))
    shared = {"values": "log", "axes": "views bins", "detector_pixel_mm": 1.5, "angles_deg": angles}
    shared |= {"projections": "x.npy"}
    kinds = (
        {"type": "parallel"},
        {"type": "fanflat", "source_axis_mm": 400.0, "axis_detector_mm": 150.0, "mu_water_per_mm": 0.02},
        {"type": "parallel", "values": "counts", "flat": 1000.0, "dark": 3.0},
    )
    buffer = contents(lambda folder: np.save(folder / "x.npy", np.abs(normal(6, 12)).astype(np.float32)), "x.npy")
    return [join(json.dumps(shared | kind).encode(), buffer) for kind in kinds]


def tiff_seeds() -> list[bytes]:
    import tifffile

    notes = json.dumps({"type": "parallel", "values": "log", "axes": "views bins", "detector_pixel_mm": 1.5,
                        "angles_deg": list(range(6)), "projections": "x.tif"}).encode()  # fmt: skip

    def write(folder: Path, compression: str | None) -> None:
        tifffile.imwrite(folder / "x.tif", np.abs(normal(6, 12)).astype(np.float32), compression=compression)

    return [join(notes, contents(lambda folder, how=how: write(folder, how), "x.tif")) for how in (None, "zlib")]


def mat_seeds() -> list[bytes]:
    import scipy.io

    parameters = {"distanceSourceOrigin": 410.66, "distanceSourceDetector": 553.74, "pixelSizePost": 0.2,
                  "angles": np.arange(0, 360, 60.0), "numDetectorsPost": 12}  # fmt: skip
    scan = {"CtDataFull": {"type": "2D", "sinogram": np.abs(normal(6, 12)), "parameters": parameters}}

    def write(folder: Path, packed: bool) -> None:
        scipy.io.savemat(folder / "x.mat", scan, do_compression=packed)

    return [contents(lambda folder, packed=packed: write(folder, packed), "x.mat") for packed in (False, True)]


def tensor_seeds() -> list[bytes]:
    from pipeline.measurement import write_tensors

    tensors = {"samples": normal(2, 3, 4).astype(np.float32), "mask": np.ones((3, 4), bool)}
    metadata = {"modality": "ct", "affine": np.eye(4).tolist(), "spacing_mm": [1, 1, 1], "shape_zyx": [3, 4, 4]}
    return [contents(lambda folder: write_tensors(folder / "x.safetensors", tensors, metadata), "x.safetensors")]


def config_seeds() -> list[bytes]:
    studies = f"\nstudies: {ROOT / 'data' / 'demo' / 'ct'}\n".encode()
    paths = [*sorted(ROOT.glob("configs/cohorts/*.yaml")), ROOT / "configs" / "demo.yaml"]
    return [path.read_bytes() + studies for path in paths]


def code_syntaxes() -> list[str]:
    from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

    return [JPEG2000Lossless, JPEGLSLossless, RLELossless]


def codestream_seeds() -> list[bytes]:
    """The number of a syntax, then one codestream of 32 x 32 pixels."""
    from pydicom.encaps import generate_frames

    made = []
    for number, syntax in enumerate(code_syntaxes()):
        (dataset,) = ct(1)
        dataset.compress(syntax, generate_instance_uid=False)
        made.append(bytes([number]) + next(generate_frames(dataset.PixelData, number_of_frames=1)))
    return made


def config_words() -> list[str]:
    """Every key and every named value of the config's schema."""
    import yaml

    def walk(node: object) -> set[str]:
        if isinstance(node, list):
            return set().union(*map(walk, node))
        if not isinstance(node, dict):
            return {node} if isinstance(node, str) and len(node) < 30 else set()
        return set(node.get("properties", {})).union(*map(walk, node.values()))

    return sorted(walk(yaml.safe_load((ROOT / "configs" / "schema.yaml").read_text(encoding="utf-8"))))


def geometry_words() -> list[str]:
    """The words of geometry.json, and numbers that are hard to take."""
    words = ["parallel", "fanflat", "cone", "fanflat_vec", "cone_vec", "parallel_vec", "parallel3d", "log", "counts"]
    words += ["vectors", "detector_columns", "angles_deg", "views rows bins", "flat", "dark", "image", "matrix"]
    return [*words, "1e999", "NaN", "-Infinity", "1e-320", "null", "true", "[[", "]]", "{", "}"]


def notes_words() -> list[str]:
    """The words of the JSON file beside an array of k-space."""
    words = ["axes", "spacing_mm", "affine", "mask", "noise", "sensitivities", "trajectory", "matrix", "dc", "corner"]
    return [*words, "coils y x", "z coils y x", "1e999", "NaN", "null", "[[", "]]", "{", "}"]
