"""What the first bytes of an image file say: format, size, orientation. Decides by content, never by a name.

Nothing is decoded here, so a header that promises more pixels than memory holds costs nothing.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable, Iterator
from typing import Literal

Format = Literal["JPEG", "PNG", "GIF", "BMP", "WebP"]

# Pillow refuses larger images, too: twice its MAX_IMAGE_PIXELS (PIL/Image.py); 0.5 GB decoded
MAX_PIXELS = 2 * (1024**3 // 4 // 3)
UPRIGHT = 1  # EXIF's orientation of an image that is stored upright

JPEG_APP1 = 0xE1
JPEG_SCAN, JPEG_END = 0xDA, 0xD9
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # ITU T.81 table B.1: SOF0 to SOF15
JPEG_BARE = frozenset((0x01, *range(0xD0, 0xD8)))  # markers without a segment: TEM, RST0 to RST7
EXIF_BEGIN = b"Exif\0\0"
EXIF_ORIENTATION = 0x0112  # EXIF 2.32 section 4.6.4
WEBP_ALPHA, WEBP_ANIMATION = 0x10, 0x02  # flags of the VP8X chunk, RFC 9649 section 2.7.1


class ImageFault(Exception):
    """Why an image cannot be read, as the end of a sentence that names it."""


@dataclasses.dataclass(frozen=True)
class Header:
    """``height`` and ``width`` in pixels, as stored: before ``orientation`` (EXIF, 1 to 8) is applied.

    ``native`` says whether TensorFlow decodes it right. Its GIF reader unpacks every frame to return one, and makes
    transparent pixels black. Its BMP reader ignores the palette (and takes indices for grey), its WebP reader ignores
    alpha.
    """

    format: Format
    height: int
    width: int
    orientation: int = UPRIGHT
    native: bool = True


def read_header(data: bytes) -> Header:
    """The header of an encoded image.

    Raises:
        ImageFault: the bytes are not an image, end inside the header, or promise no pixel or more than ``MAX_PIXELS``.
    """
    if not data:
        raise ImageFault("it is empty (0 bytes)")
    for begins, read in SIGNATURES.items():
        if data.startswith(begins) and (read is not _webp or data[8:12] == b"WEBP"):
            try:
                header = read(data)
            except (struct.error, IndexError):
                raise ImageFault(f"it ends inside its header, after {len(data)} bytes") from None
            break
    else:
        raise ImageFault(f"it is not a JPEG, PNG, GIF, BMP or WebP image: it begins with {data[:8]!r}")
    if header.height <= 0 or header.width <= 0:
        raise ImageFault(f"its header says {header.width} x {header.height} pixels")
    if header.height * header.width > MAX_PIXELS:
        raise ImageFault(f"its header says {header.width} x {header.height} pixels, but at most {MAX_PIXELS} are read")
    return header


def _jpeg(data: bytes) -> Header:
    orientation = UPRIGHT
    for marker, start in _segments(data):
        if marker == JPEG_APP1 and data.startswith(EXIF_BEGIN, start) and orientation == UPRIGHT:
            orientation = _exif_orientation(data, start + len(EXIF_BEGIN))
        elif marker in JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, start + 1)
            return Header("JPEG", height, width, orientation)
    raise ImageFault("it is a JPEG without an image in it")


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Marker and first byte of the content of every segment before the pixels."""
    position = 2
    while True:
        marker = data[position + 1]
        if data[position] != 0xFF:
            raise ImageFault(f"its JPEG marker at byte {position} is damaged")
        if marker == 0xFF:  # fill
            position += 1
        elif marker in JPEG_BARE:
            position += 2
        elif marker in (JPEG_SCAN, JPEG_END):
            return
        else:
            yield marker, position + 4
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")


def _exif_orientation(data: bytes, start: int) -> int:
    """The orientation in the first directory of a TIFF header; upright when it is missing or makes no sense."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[start : start + 4])
    if order is None:
        return UPRIGHT
    try:
        directory = start + struct.unpack_from(f"{order}I", data, start + 4)[0]
        (entries,) = struct.unpack_from(f"{order}H", data, directory)
        for entry in range(directory + 2, directory + 2 + 12 * entries, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", data, entry)
            if tag == EXIF_ORIENTATION:
                return value if 1 <= value <= 8 else UPRIGHT
    except struct.error:  # metadata that point outside the file do not make the pixels wrong
        pass
    return UPRIGHT


def _png(data: bytes) -> Header:
    width, height = struct.unpack_from(">II", data, 16)
    return Header("PNG", height, width)


def _gif(data: bytes) -> Header:
    width, height = struct.unpack_from("<HH", data, 6)
    return Header("GIF", height, width, native=False)


def _bmp(data: bytes) -> Header:
    old = struct.unpack_from("<I", data, 14)[0] == 12  # OS/2's header has sizes of 16 bits
    width, height = struct.unpack_from("<HH" if old else "<ii", data, 18)
    return Header("BMP", abs(height), width, native=False)  # a negative height: rows from top to bottom


def _webp(data: bytes) -> Header:
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return Header("WebP", height & 0x3FFF, width & 0x3FFF)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return Header("WebP", (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1, native=not bits >> 28 & 1)
    if kind == b"VP8X":
        flags, width, height = data[20], data[24:27], data[27:30]
        if len(height) < 3:
            raise IndexError
        native = not flags & (WEBP_ALPHA | WEBP_ANIMATION)
        return Header("WebP", int.from_bytes(height, "little") + 1, int.from_bytes(width, "little") + 1, native=native)
    raise ImageFault(f"its WebP chunk {kind!r} is unknown")


# how a file of each format begins -> what reads its header
SIGNATURES: dict[bytes, Callable[[bytes], Header]] = {
    b"\xff\xd8\xff": _jpeg,
    b"\x89PNG\r\n\x1a\n": _png,
    b"RIFF": _webp,
    b"GIF87a": _gif,
    b"GIF89a": _gif,
    b"BM": _bmp,
}
