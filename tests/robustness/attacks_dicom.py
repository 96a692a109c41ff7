"""Hostile DICOM: each function writes what it is called after into a study folder."""

import struct
from collections.abc import Callable
from pathlib import Path

import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless

from tests.data.dicom_builder import dataset as ct_slice
from tests.data.dicom_builder import edit
from tests.robustness.hostile import attack, zeros_deflated
from tests.robustness.stages import TINY, write_study


def tiny_slices() -> list[Dataset]:
    uids = {"study": "1.2.3.1", "series": "1.2.3.2", "frame": "1.2.3.3"}
    return [ct_slice(TINY, z, uids) for z in range(TINY.slices)]


def save(dataset: Dataset, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


@attack("deflate bomb in a DICOM data set", "inflates to more than")
def dicom_deflate_bomb(study: Path) -> None:
    dataset = tiny_slices()[0]
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    save(dataset, study / "IM0")
    content = (study / "IM0").read_bytes()
    meta = 132 + 12 + int(pydicom.filereader.read_file_meta_info(study / "IM0").FileMetaInformationGroupLength)
    (study / "IM0").write_bytes(content[:meta] + zeros_deflated(1500))


def _nested(keyword: str) -> Callable[[Path], None]:
    """In place of a sequence, itself 10,000 deep."""

    def write(study: Path) -> None:
        dataset = tiny_slices()[0]
        setattr(dataset, keyword, Sequence([Dataset()]))
        save(dataset, study / "IM0")
        content = (study / "IM0").read_bytes()
        tag = struct.pack("<HH", *divmod(tag_for_keyword(keyword), 2**16))
        at = content.index(tag)
        nested = (tag + b"SQ\0\0" + b"\xff" * 4 + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)) * 10_000
        (study / "IM0").write_bytes(content[:at] + nested + content[at:])

    return write


attack("sequences nested 10,000 deep in a DICOM file", "cannot be read as DICOM")(_nested("RequestAttributesSequence"))
attack("functional groups of a multiframe DICOM nested 10,000 deep", "cannot be read as DICOM")(
    _nested("SharedFunctionalGroupsSequence")
)


@attack("DICOM that claims 65535 x 65535 pixels", "larger than is read")
def dicom_huge_matrix(study: Path) -> None:
    for path in write_study(study):
        edit(path, {"Rows": 65535, "Columns": 65535})


@attack("DICOM that claims more pixels than it has", "ends before its pixels do")
def dicom_short_pixels(study: Path) -> None:
    for path in write_study(study):
        edit(path, {"Rows": 64, "Columns": 64})


@attack("DICOM that claims 2,147,483,647 frames", "frames")
def dicom_many_frames(study: Path) -> None:
    for path in write_study(study):
        edit(path, {"NumberOfFrames": 2**31 - 1})


@attack("JPEG 2000 codestream of 60000 x 60000 in a small DICOM slice", "holds another matrix")
def dicom_codestream_bomb(study: Path) -> None:
    code = b"\xff\x4f\xff\x51" + struct.pack(">HHIIIIIIIIH", 41, 0, 60000, 60000, 0, 0, 60000, 60000, 0, 0, 1)
    code += bytes([15, 1, 1]) + b"\xff\xd9"
    for number, dataset in enumerate(tiny_slices()):
        dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
        dataset.PixelData = pydicom.encaps.encapsulate([code])
        dataset["PixelData"].is_undefined_length = True
        save(dataset, study / f"IM{number}")


@attack("DICOM element that claims 4 GB", "")
def dicom_element_length(study: Path) -> None:
    (path, *_) = write_study(study)
    content = path.read_bytes()
    at = content.index(struct.pack("<HH", 0x7FE0, 0x0010))
    path.write_bytes(content[: at + 8] + struct.pack("<I", 0xFFFFFFF0) + content[at + 12 :])


def _odd_numbers(keyword: str, value: object) -> Callable[[Path], None]:
    def write(study: Path) -> None:
        for path in write_study(study):
            dataset = pydicom.dcmread(path)
            with pydicom.config.disable_value_validation():
                setattr(dataset, keyword, value)
                dataset.save_as(path)

    return write


for _keyword, _value in (
    ("ImagePositionPatient", ["nan", "0", "0"]), ("ImagePositionPatient", ["inf", "0", "0"]),
    ("ImageOrientationPatient", ["nan"] * 6), ("ImageOrientationPatient", ["0"] * 6),
    ("PixelSpacing", ["inf", "1"]), ("PixelSpacing", ["1e-320", "1"]), ("PixelSpacing", ["-1", "1"]),
    ("RescaleSlope", "nan"), ("RescaleSlope", "1e308"), ("RescaleIntercept", "-inf"), ("RescaleSlope", "1e-310"),
):  # fmt: skip
    _shown = _value if isinstance(_value, str) else "\\".join(_value[:2])
    attack(f"DICOM with {_keyword} {_shown}")(_odd_numbers(_keyword, _value))


@attack("DICOM whose ids and names are paths and shell commands", "taken")
def dicom_shell(study: Path) -> None:
    evil = "../../../../../../tmp/x;touch trapped;$(touch trapped)`touch trapped`\n|&<>'\""
    for path in write_study(study):
        dataset = pydicom.dcmread(path)
        with pydicom.config.disable_value_validation():
            for keyword in ("SeriesDescription", "PatientID", "PatientName", "StudyID", "ProtocolName", "Manufacturer"):
                setattr(dataset, keyword, evil)
            dataset.SeriesInstanceUID = "../../../../tmp/$(touch trapped)"
            dataset.StudyInstanceUID = dataset.FrameOfReferenceUID = "/etc/passwd"
            dataset.save_as(path)


@attack("0-byte DICOM file", "empty or not DICOM")
def dicom_empty(study: Path) -> None:
    study.mkdir()
    (study / "IM0.dcm").touch()
