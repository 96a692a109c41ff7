"""How the source was acquired: numbers and defined terms that may go into a derived series, each looked at first.

Terms that the standard does not define are left behind: a scanner's free text could name anyone. Enhanced multiframe
sources keep these attributes in functional groups, where some have other names.
"""

from collections.abc import Iterator
from pathlib import Path

from pydicom.dataset import Dataset

from data.dicom_frames import quiet, read_dataset

UNPAIRED = (
    "ABDOMEN", "ABDOMENPELVIS", "BRAIN", "CHEST", "CHESTABDOMEN", "CHESTABDPELVIS", "CSPINE", "HEAD", "HEADNECK",
    "HEART", "LIVER", "LSPINE", "NECK", "PELVIS", "PROSTATE", "SKULL", "SPINE", "TSPINE", "WHOLEBODY",
)  # fmt: skip
PAIRED = ("ANKLE", "BREAST", "ELBOW", "FOOT", "HAND", "HIP", "KNEE", "SHOULDER", "WRIST")
NUMBERS = {
    "ct": {"KVP": ("KVP",)},
    "mr": {
        "RepetitionTime": ("RepetitionTime",),
        "EchoTime": ("EchoTime", "EffectiveEchoTime"),
        "InversionTime": ("InversionTime",),
        "FlipAngle": ("FlipAngle",),
        "MagneticFieldStrength": ("MagneticFieldStrength",),
    },
}
TERMS = {
    "ct": {},
    "mr": {
        "ScanningSequence": ("SE", "IR", "GR", "EP", "RM"),
        "SequenceVariant": ("SK", "MTC", "SS", "TRSS", "SP", "MP", "OSP", "NONE"),
        "ScanOptions": ("PER", "RG", "CG", "PPG", "FC", "PFF", "PFP", "SP", "FS"),
        "MRAcquisitionType": ("2D", "3D"),
    },
}
POSITIONS = ("HFP", "HFS", "HFDR", "HFDL", "FFDR", "FFDL", "FFP", "FFS", "LFP", "LFS", "RFP", "RFS")
LOSSY = {
    "1.2.840.10008.1.2.4.50": "ISO_10918_1",
    "1.2.840.10008.1.2.4.51": "ISO_10918_1",
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
    "1.2.840.10008.1.2.4.91": "ISO_15444_1",
}


def body_part(header: Dataset) -> str | None:
    """The body part examined where it is a defined term, else None."""
    value = _find(header, "BodyPartExamined")
    return value if value in UNPAIRED + PAIRED else None


def describe_technique(dataset: Dataset, header: Dataset, modality: str) -> None:
    """Put position, body part and technique of the source into a derived CT or MR image."""
    position = _find(header, "PatientPosition")
    dataset.PatientPosition = position if position in POSITIONS else ""
    part = body_part(header)
    if part is not None:
        dataset.BodyPartExamined = part
    if part not in UNPAIRED:
        side = _find(header, "Laterality")
        dataset.Laterality = side if side in ("L", "R") else ""
    for keyword, names in NUMBERS[modality].items():
        value = _find(header, *names)
        if isinstance(value, int | float):
            setattr(dataset, keyword, decimal(value))
    for keyword, terms in TERMS[modality].items():
        value = _find(header, keyword)
        parts = [value] if isinstance(value, str) else list(value or ())
        if parts and all(part in terms for part in parts):
            setattr(dataset, keyword, parts)
    _required(dataset, modality)


def describe_loss(dataset: Dataset, header: Dataset, path: Path) -> None:
    """Say that the source had been compressed with loss, in its header or its transfer syntax, how and how much."""
    syntax = str(getattr(header, "file_meta", Dataset()).get("TransferSyntaxUID", ""))
    if header.get("LossyImageCompression") != "01" and syntax not in LOSSY:
        return
    methods = header.get("LossyImageCompressionMethod")
    methods = [methods] if isinstance(methods, str) else list(methods or ())
    ratios = header.get("LossyImageCompressionRatio")
    ratios = [ratios] if isinstance(ratios, int | float) else list(ratios or ())
    if not ratios and syntax in LOSSY:
        ratios, methods = [_ratio(path)], [LOSSY[syntax]]
    dataset.LossyImageCompression = "01"
    if ratios:
        dataset.LossyImageCompressionRatio = [decimal(value) for value in ratios]
    if methods and all(method in LOSSY.values() for method in methods):
        dataset.LossyImageCompressionMethod = methods


def decimal(value: float) -> str:
    """A DICOM decimal string: at most 16 characters."""
    for digits in range(15, 5, -1):
        text = f"{float(value):.{digits}g}"
        if len(text) <= 16:
            return "0" if float(text) == 0 else text
    raise ValueError(f"{value} does not fit a decimal string")


def _required(dataset: Dataset, modality: str) -> None:
    """Attributes that the image must have though the source did not say: empty, or the term for no such thing."""
    if modality == "ct":
        dataset.KVP = dataset.get("KVP", None)
        return
    dataset.ScanningSequence = dataset.get("ScanningSequence", "RM")
    dataset.SequenceVariant = dataset.get("SequenceVariant", "NONE")
    for keyword in ("ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTime", "EchoTrainLength"):
        if keyword not in dataset:
            setattr(dataset, keyword, None)


def _find(header: Dataset, *keywords: str):
    """The first value there is: at the top, in the shared functional groups, in those of the first frame."""
    for level in _levels(header):
        for keyword in keywords:
            value = level.get(keyword)
            if value is not None and value != "":
                return value
    return None


def _levels(header: Dataset) -> Iterator[Dataset]:
    yield header
    for keyword in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        groups = header.get(keyword)
        for element in groups[0] if groups else ():
            if element.VR == "SQ" and not element.tag.is_private and len(element.value) == 1:
                yield element.value[0]


def _ratio(path: Path) -> float:
    """Uncompressed over compressed bytes of a file's pixels."""
    dataset = read_dataset(path, pixels=True)
    with quiet():
        voxels = int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("NumberOfFrames", 1) or 1)
        return round(voxels * int(dataset.BitsAllocated) / 8 / max(len(dataset.PixelData), 1), 3)
