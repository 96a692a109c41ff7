"""Fuzz targets, one for each reader: how bytes become files of a study, what to start from, and the contract.

The contract of every reader: it returns, or it raises InputError with one line that names a file; nothing else, in
bounded time and memory. A target's input is one file, or several joined by `join`.
"""

import gzip
import json
import shutil
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.errors import InputError
from data.study import find_series
from pipeline.ingest import TAKERS
from pipeline.ingest_shared import ingest_settings

MAX_VOLUME_GB = 0.05


@dataclass(frozen=True)
class Target:
    """files: names that the input's parts are written under. seeds: inputs that are read without complaint.

    modality: of the cohort that reads them. beside: writes further files into the study first. read: reads the one
    file, where that is not part of a study.
    """

    files: tuple[str, ...]
    seeds: Callable[[], list[bytes]]
    modality: str = "ct"
    beside: Callable[[Path], None] = lambda study: None
    read: Callable[[Path], None] | None = None


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


def run(target: Target, data: bytes, home: Path) -> str:
    """Read the input as a study in a new folder below HOME. "taken", "left out" or "refused"; raises for a finding."""
    folder = Path(tempfile.mkdtemp(dir=home))
    try:
        study = folder / "study"
        study.mkdir()
        target.beside(study)
        for name, part in zip(target.files, split(data, len(target.files)), strict=True):
            (study / name).write_bytes(part)
        if target.read is None:
            return _ingest(study, folder, target.modality)
        return _alone(target.read, study / target.files[0])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _ingest(study: Path, out: Path, modality: str) -> str:
    settings = ingest_settings({"modality": modality, "max_volume_gb": MAX_VOLUME_GB})
    ends = {"left out"}
    for number, finding in enumerate(find_series(study, settings.policies)):
        try:
            if finding.error is not None:
                raise finding.error
            if finding.modality in ("", modality):
                json.dumps(TAKERS[finding.kind](finding, out / str(number), settings))
                ends.add("taken")
        except InputError as error:
            if not str(error).strip():
                raise AssertionError("an InputError without a sentence") from error
            ends.add("refused")
    return next(end for end in ("taken", "refused", "left out") if end in ends)


def _alone(read: Callable[[Path], None], path: Path) -> str:
    try:
        read(path)
    except InputError:
        return "refused"
    return "taken"


def contents(write: Callable[[Path], object], *names: str) -> bytes:
    """What WRITE(folder) puts into the named files, joined."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        return join(*((Path(folder) / name).read_bytes() for name in names))


# Seeds. Builders that need packages of the tests are imported where they are used.


def _dicom_slices(study: Path) -> None:
    """Four slices of a series, of which the fuzzed file may become the fifth."""
    for z, dataset in enumerate(_ct(5)):
        if z != 2:
            dataset.save_as(study / f"good{z}", enforce_file_format=True)


def _ct(slices: int) -> list:
    from tests.data.dicom_builder import Series, dataset

    series = Series(slices=slices, rows=32, columns=32)
    datasets = [dataset(series, z, {"study": "1.2.1", "series": "1.2.2", "frame": "1.2.3"}) for z in range(slices)]
    for z, made in enumerate(datasets):
        made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = f"1.2.9.{z}"
    return datasets


def _dicom_seeds() -> list[bytes]:
    from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless

    from tests.data.dicom_builder import Series, write_enhanced

    def plain(folder: Path, syntax: str | None = None) -> None:
        made = _ct(5)[2]
        if syntax in (RLELossless, JPEG2000Lossless):
            made.compress(syntax, generate_instance_uid=False)
        elif syntax is not None:
            made.file_meta.TransferSyntaxUID = syntax
        made.save_as(folder / "x", enforce_file_format=True)

    syntaxes = (None, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEG2000Lossless)
    seeds = [contents(lambda folder, syntax=syntax: plain(folder, syntax), "x") for syntax in syntaxes]
    seeds.append(contents(lambda folder: write_enhanced(Series("CT", slices=4, rows=6, columns=6), folder / "x"), "x"))
    return seeds


def _array(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape)


def _nifti(name: str = "x.nii", dtype=np.int16, second: bool = False) -> bytes:
    import nibabel

    kind = nibabel.Nifti2Image if second else nibabel.Nifti1Image
    image = kind((100 * _array(6, 5, 4)).astype(dtype), np.diag([2.0, 2, 3, 1]))
    image.set_qform(image.affine, 1)
    return contents(lambda folder: nibabel.save(image, folder / name), name)


def _nrrd_seeds() -> list[bytes]:
    import SimpleITK

    image = SimpleITK.GetImageFromArray((100 * _array(4, 5, 6)).astype(np.int16))

    def write(folder: Path, packed: bool) -> None:
        SimpleITK.WriteImage(image, str(folder / "x.nrrd"), packed)

    return [contents(lambda folder, packed=packed: write(folder, packed), "x.nrrd") for packed in (False, True)]


def _meta_seeds() -> list[bytes]:
    import SimpleITK

    image = SimpleITK.GetImageFromArray((100 * _array(4, 5, 6)).astype(np.float32))

    def write(folder: Path, packed: bool) -> None:
        SimpleITK.WriteImage(image, str(folder / "x.mha"), packed)

    return [contents(lambda folder, packed=packed: write(folder, packed), "x.mha") for packed in (False, True)]


def _complex(*shape: int) -> np.ndarray:
    return (_array(*shape) + 1j * _array(*shape)).astype(np.complex64)


def _npy_seeds() -> list[bytes]:
    plain = {"axes": "coils y x", "spacing_mm": [4, 2, 2]}
    radial = {"axes": "coils readouts samples", "spacing_mm": [4, 2, 2], "matrix": [8, 8], "trajectory": "y.npy"}
    made = []
    corner = plain | {"dc": "corner"}
    for notes, array in ((plain, _complex(2, 8, 8)), (radial, _complex(2, 6, 8)), (corner, _complex(1, 8, 9))):

        def write(folder: Path, notes: dict = notes, array: np.ndarray = array) -> None:
            np.save(folder / "x.npy", array)
            np.save(folder / "y.npy", _array(6, 8, 2).astype(np.float32))
            (folder / "x.json").write_text(json.dumps(notes))

        made.append(contents(write, "x.json", "y.npy", "x.npy"))
    return made


def _h5_seeds() -> list[bytes]:
    import h5py

    def write(folder: Path) -> None:
        (folder / "x.json").write_text(json.dumps({"axes": "z coils y x", "spacing_mm": [4, 2, 2], "noise": "n"}))
        with h5py.File(folder / "x.h5", "w") as handle:
            handle["kspace"], handle["n"] = _complex(2, 2, 8, 8), _complex(2, 16)

    return [contents(write, "x.json", "x.h5")]


def _ismrmrd_seeds() -> list[bytes]:
    from tests.data.raw_builder import Scan, write_cartesian

    scan = Scan((8, 8, 1), (16.0, 16.0, 4.0))
    return [contents(lambda folder: write_cartesian(folder / "x.h5", _complex(2, 2, 8, 8), scan), "x.h5")]


def _fastmri_seeds() -> list[bytes]:
    from tests.data.raw_builder import Scan, write_fastmri

    scan = Scan((8, 8, 1), (16.0, 16.0, 4.0))

    def write(folder: Path) -> None:
        write_fastmri(folder / "x.h5", _complex(2, 2, 8, 8), scan, mask=np.ones(8, np.float32))

    return [contents(write, "x.h5")]


def _xml_seeds() -> list[bytes]:
    from tests.data.raw_builder import Scan, header_xml

    field_mm = (16.0, 16.0, 4.0)
    return [header_xml(Scan((8, 8, 1), field_mm)), header_xml(Scan((8, 8, 4), field_mm, bandwidth=0.8))]


def _bart_seeds() -> list[bytes]:
    header, values = b"# Dimensions\n8 8 1 2 1 1 1 1 1 1 1 1 1 1 1 1\n", _complex(2, 8, 8).tobytes()
    notes = json.dumps({"spacing_mm": [4, 2, 2]}).encode()
    return [join(header, notes, values), join(header.replace(b"8 8 1 2", b"8 8 2 1"), b"{}", values)]


def _geometry_seeds() -> list[bytes]:
    angles = list(range(0, 180, 30))
    shared = {"values": "log", "axes": "views bins", "detector_pixel_mm": 1.5, "angles_deg": angles}
    shared |= {"projections": "x.npy"}
    kinds = (
        {"type": "parallel"},
        {"type": "fanflat", "source_axis_mm": 400.0, "axis_detector_mm": 150.0, "mu_water_per_mm": 0.02},
        {"type": "parallel", "values": "counts", "flat": 1000.0, "dark": 3.0},
    )
    buffer = contents(lambda folder: np.save(folder / "x.npy", np.abs(_array(6, 12)).astype(np.float32)), "x.npy")
    return [join(json.dumps(shared | kind).encode(), buffer) for kind in kinds]


def _tiff_seeds() -> list[bytes]:
    import tifffile

    notes = json.dumps({"type": "parallel", "values": "log", "axes": "views bins", "detector_pixel_mm": 1.5,
                        "angles_deg": list(range(6)), "projections": "x.tif"}).encode()  # fmt: skip

    def write(folder: Path, compression: str | None) -> None:
        tifffile.imwrite(folder / "x.tif", np.abs(_array(6, 12)).astype(np.float32), compression=compression)

    return [join(notes, contents(lambda folder, how=how: write(folder, how), "x.tif")) for how in (None, "zlib")]


def _mat_seeds() -> list[bytes]:
    import scipy.io

    parameters = {"distanceSourceOrigin": 410.66, "distanceSourceDetector": 553.74, "pixelSizePost": 0.2,
                  "angles": np.arange(0, 360, 60.0), "numDetectorsPost": 12}  # fmt: skip
    scan = {"CtDataFull": {"type": "2D", "sinogram": np.abs(_array(6, 12)), "parameters": parameters}}

    def write(folder: Path, packed: bool) -> None:
        scipy.io.savemat(folder / "x.mat", scan, do_compression=packed)

    return [contents(lambda folder, packed=packed: write(folder, packed), "x.mat") for packed in (False, True)]


def _read_xml(path: Path) -> None:
    from data.mr_header import parse_header

    try:
        parse_header(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def _tensor_seeds() -> list[bytes]:
    from pipeline.measurement import write_tensors

    tensors = {"samples": _array(2, 3, 4).astype(np.float32), "mask": np.ones((3, 4), bool)}
    metadata = {"modality": "ct", "affine": np.eye(4).tolist(), "spacing_mm": [1, 1, 1], "shape_zyx": [3, 4, 4]}
    return [contents(lambda folder: write_tensors(folder / "x.safetensors", tensors, metadata), "x.safetensors")]


def _read_tensors(path: Path) -> None:
    from pipeline.measurement import read_tensors

    read_tensors(path)


def _config_seeds() -> list[bytes]:
    root = Path(__file__).parents[2]
    studies = f"\nstudies: {root / 'data' / 'demo' / 'ct'}\n".encode()
    paths = [*sorted(root.glob("configs/cohorts/*.yaml")), root / "configs" / "demo.yaml"]
    return [path.read_bytes() + studies for path in paths]


def _read_config(path: Path) -> None:
    import yaml

    from pipeline import config

    try:
        values = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, ValueError, RecursionError):
        return  # Snakemake says that it is no YAML
    if isinstance(values, dict):
        config.load(values, Path(__file__).parents[2], str(path))


TARGETS: dict[str, Target] = {
    "dicom": Target(("fuzzed",), _dicom_seeds, beside=_dicom_slices),
    "nifti": Target(("x.nii",), lambda: [_nifti(), _nifti(dtype=np.float32), _nifti(second=True)]),
    "nifti_gz": Target(("x.nii.gz",), lambda: [gzip.compress(_nifti(), mtime=0)]),
    "nrrd": Target(("x.nrrd",), _nrrd_seeds),
    "metaimage": Target(("x.mha",), _meta_seeds),
    "npy": Target(("x.json", "y.npy", "x.npy"), _npy_seeds, "mr"),
    "hdf5": Target(("x.json", "x.h5"), _h5_seeds, "mr"),
    "ismrmrd": Target(("x.h5",), _ismrmrd_seeds, "mr"),
    "fastmri": Target(("x.h5",), _fastmri_seeds, "mr"),
    "bart": Target(("x.hdr", "x.json", "x.cfl"), _bart_seeds, "mr"),
    "geometry": Target(("geometry.json", "x.npy"), _geometry_seeds),
    "tiff": Target(("geometry.json", "x.tif"), _tiff_seeds),
    "mat": Target(("x.mat",), _mat_seeds),
    "xml": Target(("x.xml",), _xml_seeds, read=_read_xml),
    "safetensors": Target(("x.safetensors",), _tensor_seeds, read=_read_tensors),
    "config": Target(("x.yaml",), _config_seeds, read=_read_config),
}
