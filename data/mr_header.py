"""The XML header of ISMRMRD data, as far as reconstruction needs it.

Elements as the schema of Inati et al. (Magn Reson Med 77, 2017, 411) names them; subject and study information is not
looked at. A document type declaration, and with it every entity, is refused before anything is expanded.
"""

from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import h5py
import numpy as np

from data.errors import InputError

MAX_XML_BYTES = 2**24
MAX_MATRIX = 4096


@dataclass(frozen=True)
class Space:
    """matrix: points along (x y z). field_mm: field of view along the same."""

    matrix: tuple[int, int, int]
    field_mm: tuple[float, float, float]


@dataclass(frozen=True)
class MrHeader:
    """Encoded and reconstructed space of the first encoding.

    trajectory: cartesian, epi, radial, spiral, goldenangle or other. centre: the counters of phase encoding 1 and 2
    that are at the centre of k-space. noise_bandwidth: the receiver's share of noise in a noise scan (1: all of it).
    encodings: how many there are.
    """

    encoded: Space
    recon: Space
    trajectory: str
    centre: tuple[int, int]
    noise_bandwidth: float
    encodings: int


def read_header(path: Path, source: h5py.Dataset | None) -> MrHeader:
    """The header in a data set of one text. Raises InputError ("undecodable") that does not repeat what it holds."""
    try:
        if source is None or source.size != 1 or source.dtype.itemsize > MAX_XML_BYTES:
            raise ValueError("not one text")
        text = np.ravel(source[()])[0]
        return parse_header(text.encode() if isinstance(text, str) else bytes(text))
    except (ValueError, OverflowError) as error:
        message = f"{path} has an XML header that cannot be used ({error}): export it again."
        raise InputError(message, "undecodable") from error


def parse_header(text: bytes) -> MrHeader:
    """Raises ValueError, in a few words, for what is no such header."""
    root = safe_xml(text)
    encodings = [node for node in root if _name(node) == "encoding"]
    if not encodings:
        raise ValueError("no encoding")
    encoded, recon = _space(encodings[0], "encodedSpace"), _space(encodings[0], "reconSpace")
    centre = tuple(_centre(encodings[0], f"kspace_encoding_step_{step}", encoded.matrix[step]) for step in (1, 2))
    kind = _text(encodings[0], "trajectory") or "cartesian"
    return MrHeader(encoded, recon, kind.strip().lower(), centre, _bandwidth(root), len(encodings))


def safe_xml(text: bytes) -> Element:
    """The root element. Raises ValueError for what is not XML, too long, or has a document type declaration."""
    if len(text) > MAX_XML_BYTES:
        raise ValueError("longer than a header can be")
    builder = TreeBuilder()
    parser = expat.ParserCreate(namespace_separator="}")
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse
    try:
        parser.Parse(text, True)
        return builder.close()
    except (expat.ExpatError, AssertionError, LookupError) as error:  # LookupError: an encoding that nobody knows
        raise ValueError("not XML") from error


def _refuse(*_: object) -> None:
    raise ValueError("a document type declaration")


def _name(node: Element) -> str:
    return node.tag.rpartition("}")[2]


def _child(node: Element | None, *names: str) -> Element | None:
    for name in names:
        node = None if node is None else next((child for child in node if _name(child) == name), None)
    return node


def _text(node: Element, *names: str) -> str | None:
    found = _child(node, *names)
    return None if found is None else found.text


def _numbers(node: Element | None, kind: type) -> list:
    found = [_child(node, axis) for axis in "xyz"]
    if any(child is None for child in found):
        raise ValueError("a space without matrix or field of view")
    return [_number(child.text, kind) for child in found]


def _number(text: str | None, kind: type) -> float:
    """The text as int or float; the error does not repeat it."""
    try:
        return kind(text or "")
    except ValueError as error:
        raise ValueError("a number that is none") from error


def _space(encoding: Element, name: str) -> Space:
    matrix = tuple(_numbers(_child(encoding, name, "matrixSize"), int))
    field_mm = tuple(_numbers(_child(encoding, name, "fieldOfView_mm"), float))
    if not all(1 <= size <= MAX_MATRIX for size in matrix) or not all(0 < length < 1e5 for length in field_mm):
        raise ValueError("a space whose matrix or field of view cannot be")
    return Space(matrix, field_mm)


def _centre(encoding: Element, step: str, size: int) -> int:
    """The counter at the centre of k-space; the middle of the encoded matrix where the header does not say."""
    text = _text(encoding, "encodingLimits", step, "center")
    centre = size // 2 if text is None else _number(text, int)
    if not 0 <= centre <= MAX_MATRIX:
        raise ValueError("an encoding limit that cannot be")
    return centre


def _bandwidth(root: Element) -> float:
    text = _text(root, "acquisitionSystemInformation", "relativeReceiverNoiseBandwidth")
    value = 1.0 if text is None else _number(text, float)
    if not 0 < value <= 10:
        raise ValueError("a noise bandwidth that cannot be")
    return value
