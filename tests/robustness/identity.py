"""A planted patient, and a search for what is planted in everything a run has written."""

import base64
import binascii
import io
import re
import zipfile
import zlib
from pathlib import Path

import pydicom

PLANTED = {
    "PatientName": "Plantedname^Zebulon",
    "PatientID": "PLANTEDID4711",
    "PatientBirthDate": "19530207",
    "OtherPatientNames": "Plantedother^Name",
    "PatientAddress": "7 Plantedstreet, Plantedtown",
    "PatientComments": "plantedcomment",
    "ReferringPhysicianName": "Plantedphysician^Ada",
    "PerformingPhysicianName": "Plantedperformer^Ada",
    "OperatorsName": "Plantedoperator^Bo",
    "InstitutionName": "Plantedinstitution",
    "InstitutionAddress": "Plantedinstitutionaddress",
    "StationName": "PLANTEDSTATION",
    "AccessionNumber": "PLANTEDACC99",
    "StudyID": "PLANTEDSTUDYID",
    "StudyDescription": "plantedstudydescription",
    "SeriesDescription": "plantedseriesdescription",
    "ProtocolName": "plantedprotocol",
    "ImageComments": "plantedimagecomment",
    "RequestedProcedureDescription": "plantedrequest",
    "DeviceSerialNumber": "PLANTEDSERIAL",
    "StudyDate": "20190314",
    "SeriesDate": "20190315",
    "AcquisitionDate": "20190316",
    "StudyTime": "113355.123456",
}
PRIVATE = "plantedprivatetext"
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
MAX_DEPTH = 4
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{40,}={0,2}")


def plant(paths: list[Path]) -> set[bytes]:
    """Write the patient into DICOM files; what must not be found anywhere, their UIDs too."""
    words = {word for value in PLANTED.values() for word in re.split(r"[\^, ]", value) if len(word) > 5}
    for path in paths:
        dataset = pydicom.dcmread(path)
        for keyword, value in PLANTED.items():
            setattr(dataset, keyword, value)
        block = dataset.private_block(0x0029, "PLANTED CREATOR", create=True)
        block.add_new(0x01, "LO", PRIVATE)
        dataset.save_as(path)
        words |= {str(dataset[keyword].value) for keyword in UIDS}
    return {word.encode() for word in words | {PRIVATE}}


def found_in(folder: Path, words: set[bytes]) -> list[str]:
    """"file: word" for each planted word in a name or in the content of a file, packed content included."""
    hits = []
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder)).encode()
        parts = [name, *unpacked(path.read_bytes())] if path.is_file() and not path.is_symlink() else [name]
        hits += [f"{path}: {word.decode()}" for word in words if any(holds(part, word) for part in parts)]
    return hits


def holds(content: bytes, word: bytes) -> bool:
    """As text of 8 or 16 bits, whatever its case."""
    lower = content.lower()
    return word.lower() in lower or word.lower().decode().encode("utf-16-le") in lower


def unpacked(content: bytes, depth: int = 0) -> list[bytes]:
    """The content, and what it holds in gzip, zlib, zip or base64, whatever lies in that, and so on."""
    layers = [content]
    if depth < MAX_DEPTH:
        for inner in (*_streams(content), *_base64(content)):
            layers += unpacked(inner, depth + 1)
    return layers


def _streams(content: bytes) -> list[bytes]:
    try:
        if content[:2] == b"\x1f\x8b":
            return [zlib.decompressobj(31).decompress(content)]
        if content[:4] == b"PK\x03\x04":
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                return [archive.read(name) for name in archive.namelist()]
        if content[:1] == b"\x78":
            return [zlib.decompressobj().decompress(content)]
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile):
        pass
    return []


def _base64(content: bytes) -> list[bytes]:
    found = []
    for match in _BASE64.finditer(content):
        text = match.group().rstrip(b"=")
        try:
            found.append(base64.b64decode(text + b"=" * (-len(text) % 4)))
        except binascii.Error:
            continue
    return found
