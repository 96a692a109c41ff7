"""What a compressed image says about its own size, read from its markers before anything is decoded.

JPEG (ITU-T T.81), JPEG-LS (T.87) and JPEG 2000 (T.800, also with T.814 blocks).
"""

import struct

JPEG_START = b"\xff\xd8"
J2K_START = b"\xff\x4f\xff\x51"
# Start-of-frame markers of JPEG and JPEG-LS; C4, C8 and CC are tables and extensions.
FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
START_OF_SCAN = 0xDA


def coded_matrix(code: bytes) -> tuple[int, int, int] | None:
    """(rows, columns, components) as the codestream says, or None where it is of no known kind."""
    start = code.find(J2K_START, 0, 4096)
    if start >= 0:
        return _jpeg2000(code, start)
    return _jpeg(code) if code[:2] == JPEG_START else None


def _jpeg2000(code: bytes, start: int) -> tuple[int, int, int] | None:
    header = code[start + 8 : start + 42]
    if len(header) < 34:
        return None
    width, height, left, top = struct.unpack(">IIII", header[:16])
    return height - top, width - left, struct.unpack(">H", header[32:34])[0]


def _jpeg(code: bytes) -> tuple[int, int, int] | None:
    at = 2
    while at + 10 <= len(code):
        if code[at] != 0xFF:
            return None
        marker = code[at + 1]
        if marker in FRAME_MARKERS:
            return *struct.unpack(">HH", code[at + 5 : at + 9]), code[at + 9]
        if marker == START_OF_SCAN:
            return None
        at += 1 if marker == 0xFF else 2 + int.from_bytes(code[at + 2 : at + 4], "big")
    return None
