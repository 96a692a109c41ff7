"""Opening DICOM files: what is one, how much of it is read, and nothing from it printed."""

import logging
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from data.errors import InputError

# A deflated data set unpacks to at most this.
MAX_INFLATED_BYTES = 2**30
CHUNK_BYTES = 2**20


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom from printing values of attributes, which may name the patient."""
    logger = logging.getLogger("pydicom")
    level, logger_disabled = logger.level, logger.disabled
    mode = pydicom.config.settings.reading_validation_mode
    logger.disabled = True
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        logger.disabled = logger_disabled
        pydicom.config.settings.reading_validation_mode = mode


def looks_like_dicom(path: Path) -> bool:
    """True for a DICM preamble, or for a data set that starts with group 0002 or 0008 without one.

    Raises InputError "unreadable" where the file cannot be opened.
    """
    try:
        with path.open("rb") as handle:
            head = handle.read(132)
    except OSError as error:
        raise InputError(f"{path} cannot be opened: check its permissions.", "unreadable") from error
    return head[128:132] == b"DICM" or _starts_like_a_data_set(head)


def _starts_like_a_data_set(head: bytes) -> bool:
    if head[:2] in (b"\x00\x02", b"\x00\x08"):
        return head[2:3] == b"\x00" and head[4:6] in (b"UI", b"UL", b"CS", b"OB")
    known = head[:2] in (b"\x02\x00", b"\x08\x00") and head[3:4] == b"\x00"
    explicit = head[4:6] in (b"UI", b"UL", b"CS", b"DA", b"TM", b"OB", b"SH", b"LO", b"PN")
    implicit = len(head) > 12 and int.from_bytes(head[4:8], "little") <= 1024
    return known and (explicit or implicit)


def read_dataset(path: Path, pixels: bool, tags: tuple[int, ...] | None = None) -> Dataset:
    """The data set, its pixels still encoded; of TAGS alone where given, everything else being skipped in the file.

    Raises InputError "unreadable", "undecodable", "truncated" or "too-large".
    """
    try:
        with quiet(), path.open("rb") as handle:
            deflated = _check_inflated_size(path, handle)
            handle.seek(0)
            specific = None if tags is None or deflated else list(tags)
            return pydicom.dcmread(handle, stop_before_pixels=not pixels, force=True, specific_tags=specific)
    except InputError:
        raise
    except MemoryError as error:
        if path.stat().st_size > MAX_INFLATED_BYTES // 4:
            raise
        raise InputError(f"{path} claims more than it holds: copy it again from its source.", "truncated") from error
    except EOFError as error:
        raise InputError(f"{path} ends too early: copy it again from its source.", "truncated") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: check its permissions and its disk.", "unreadable") from error
    except Exception as error:
        raise InputError(f"{path} cannot be read as DICOM: copy it again or remove it.", "undecodable") from error


def _check_inflated_size(path: Path, handle) -> bool:
    """Whether the data set is deflated; InputError where it inflates to too much."""
    if handle.read(132)[128:] != b"DICM":
        return False
    syntax = _transfer_syntax(handle.read(1024))
    if syntax != DeflatedExplicitVRLittleEndian:
        return False
    handle.seek(0)
    meta = pydicom.filereader.read_file_meta_info(path)
    handle.seek(132 + 12 + int(meta.FileMetaInformationGroupLength))
    inflate, left = zlib.decompressobj(-zlib.MAX_WBITS), MAX_INFLATED_BYTES
    while left > 0 and not inflate.eof:
        chunk = inflate.unconsumed_tail or handle.read(CHUNK_BYTES)
        if not chunk:
            return True
        left -= len(inflate.decompress(chunk, 4 * CHUNK_BYTES))
    if left <= 0:
        raise InputError(f"{path} inflates to more than {MAX_INFLATED_BYTES} bytes: check its source.", "too-large")
    return True


def _transfer_syntax(meta: bytes) -> str:
    """The value of (0002,0010) in the bytes of the file meta group, "" where it is not there."""
    at = meta.find(b"\x02\x00\x10\x00UI")
    if at < 0:
        return ""
    length = int.from_bytes(meta[at + 6 : at + 8], "little")
    return meta[at + 8 : at + 8 + length].rstrip(b"\0 ").decode("ascii", "replace")
