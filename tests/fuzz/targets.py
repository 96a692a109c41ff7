"""Fuzz targets, one for each reader: how bytes become files of a study, what to start from, and the contract.

The contract of every reader: it returns, or it raises InputError with one line that names a file; nothing else, in
bounded time and memory. A target's input is one file, or several joined by `seeds.join`.
"""

import gzip
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.errors import InputError
from data.study import find_series
from pipeline.ingest import TAKERS
from pipeline.ingest_shared import ingest_settings
from tests.fuzz import seeds

MAX_VOLUME_GB = 0.05


@dataclass(frozen=True)
class Target:
    """files: names that the input's parts are written under. seeds: inputs that are read without complaint.

    modality: of the cohort that reads them. beside: writes further files into the study first. read: reads the one
    file, where that is not part of a study. words: what the fuzzer may write into an input at once. isolated: whether
    use has the files read by data.isolated's child.
    """

    files: tuple[str, ...]
    seeds: Callable[[], list[bytes]]
    modality: str = "ct"
    beside: Callable[[Path], None] = lambda study: None
    read: Callable[[Path], None] | None = None
    words: Callable[[], list[str]] = list
    isolated: bool = False


def run(target: Target, data: bytes, home: Path) -> str:
    """Read the input as a study in a new folder below HOME. "taken", "left out" or "refused"; raises for a finding."""
    folder = Path(tempfile.mkdtemp(dir=home))
    try:
        study = folder / "study"
        study.mkdir()
        target.beside(study)
        for name, part in zip(target.files, seeds.split(data, len(target.files)), strict=True):
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
            _one_sentence(error)
            ends.add("refused")
    return next(end for end in ("taken", "refused", "left out") if end in ends)


def _alone(read: Callable[[Path], None], path: Path) -> str:
    try:
        read(path)
    except InputError as error:
        _one_sentence(error)
        return "refused"
    return "taken"


def _one_sentence(error: InputError) -> None:
    if not str(error).strip():
        raise AssertionError("an InputError without a sentence") from error


def _read_xml(path: Path) -> None:
    from data.mr_header import parse_header

    try:
        parse_header(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def _read_tensors(path: Path) -> None:
    from pipeline.measurement import read_tensors

    read_tensors(path)


def _read_config(path: Path) -> None:
    import yaml

    from pipeline import config

    try:
        values = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, ValueError, RecursionError):
        return  # Snakemake says that it is no YAML
    if isinstance(values, dict):
        config.load(values, seeds.ROOT, str(path))


def _read_codestream(path: Path) -> None:
    from pydicom.encaps import encapsulate

    from data.dicom_frames import read_frames
    from data.dicom_pixels import read_pixels

    code = path.read_bytes()
    syntaxes = seeds.code_syntaxes()
    (dataset,) = seeds.ct(1)
    dataset.file_meta.TransferSyntaxUID = syntaxes[code[0] % len(syntaxes) if code else 0]
    dataset.PixelData = encapsulate([code[1:] or bytes(2)])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path, enforce_file_format=True)
    read_pixels(tuple(read_frames(path)))


TARGETS: dict[str, Target] = {
    "dicom": Target(("fuzzed",), seeds.dicom_seeds, beside=seeds.dicom_slices),
    "codestream": Target(("fuzzed",), seeds.codestream_seeds, read=_read_codestream),
    "nifti": Target(
        ("x.nii",),
        lambda: [seeds.nifti(), seeds.nifti(dtype=np.float32), seeds.nifti(second=True)],
    ),
    "nifti_gz": Target(("x.nii.gz",), lambda: [gzip.compress(seeds.nifti(), mtime=0)]),
    "nrrd": Target(("x.nrrd",), seeds.nrrd_seeds),
    "metaimage": Target(("x.mha",), seeds.meta_seeds),
    "npy": Target(("x.json", "y.npy", "x.npy"), seeds.npy_seeds, "mr", words=seeds.notes_words),
    "hdf5": Target(("x.json", "x.h5"), seeds.h5_seeds, "mr", words=seeds.notes_words, isolated=True),
    "ismrmrd": Target(("x.h5",), seeds.ismrmrd_seeds, "mr", isolated=True),
    "fastmri": Target(("x.h5",), seeds.fastmri_seeds, "mr", isolated=True),
    "bart": Target(("x.hdr", "x.json", "x.cfl"), seeds.bart_seeds, "mr", words=seeds.notes_words),
    "geometry": Target(("geometry.json", "x.npy"), seeds.geometry_seeds, words=seeds.geometry_words),
    "tiff": Target(("geometry.json", "x.tif"), seeds.tiff_seeds),
    "mat": Target(("x.mat",), seeds.mat_seeds, isolated=True),
    "xml": Target(("x.xml",), seeds.xml_seeds, read=_read_xml),
    "safetensors": Target(("x.safetensors",), seeds.tensor_seeds, read=_read_tensors),
    "config": Target(
        ("x.yaml",),
        seeds.config_seeds,
        read=_read_config,
        words=seeds.config_words,
    ),
}
