"""What the first bytes of an image file say: format, size, orientation. Decides by content, never by a name.

Nothing is decoded here, so a header that promises more pixels than memory holds costs nothing.
"""

from __future__ import annotations

import dataclasses
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Literal

from trainer.config.schema.preprocessing import OrientationRule
from trainer.data.images.orientation import EXIF_BEGIN, ORIENTATIONS, UPRIGHT, jpeg_exif_orientation, orientation
from trainer.data.images.other_formats import BEGIN, by_content
from trainer.data.images.tiff import TiffFault, read_directory

Format = Literal["JPEG", "PNG", "GIF", "BMP", "WebP", "TIFF"]
READ = "JPEG, PNG, GIF, BMP, WebP or TIFF"

# Pillow refuses larger images, too: twice its MAX_IMAGE_PIXELS (PIL/Image.py); 0.5 GB decoded
MAX_PIXELS = 2 * (1024**3 // 4 // 3)
# how a file of each format begins; of RIFF files, a WebP has its mark at byte 8
JPEG_BEGIN, PNG_BEGIN, BMP_BEGIN = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM"
RIFF_BEGIN, WEBP_MARK = b"RIFF", b"WEBP"
GIF_BEGINS, TIFF_BEGINS = (b"GIF87a", b"GIF89a"), (b"II*\0", b"MM\0*")
JPEG_APP1 = 0xE1
JPEG_SCAN, JPEG_END = 0xDA, 0xD9
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # ITU T.81 table B.1: SOF0 to SOF15
JPEG_BARE = frozenset((0x01, *range(0xD0, 0xD8)))  # markers without a segment: TEM, RST0 to RST7
PNG_TEXTS = frozenset((b"tEXt", b"zTXt", b"iTXt"))
PNG_XMP, PNG_PROFILE = b"XML:com.adobe.xmp", b"Raw profile type exif"
MAX_TEXT = 1 << 26  # bytes of a text that is unpacked
JPEG_XMP_BEGIN = b"http://ns.adobe.com/xap/1.0/\0"
WEBP_ALPHA, WEBP_EXIF, WEBP_XMP, WEBP_ANIMATION = 0x10, 0x08, 0x04, 0x02  # of the VP8X chunk, RFC 9649 section 2.7.1


class ImageFault(Exception):
    """Why an image cannot be read, as the end of a sentence that names it."""


@dataclasses.dataclass(frozen=True)
class Header:
    """``height`` and ``width`` in pixels, as stored: before ``orientation`` (EXIF, 1 to 8) is applied.

    ``native`` says whether TensorFlow decodes it right. Its GIF reader unpacks every frame to return one, and makes
    transparent pixels black. Its BMP reader ignores the palette (and takes indices for grey), its WebP reader ignores
    alpha, and it has no reader for TIFF.
    """

    format: Format
    height: int
    width: int
    orientation: int = UPRIGHT
    native: bool = True


def read_header(data: bytes, applied: OrientationRule) -> Header:
    """The header of an encoded image. ``applied`` is ``preprocess.orientation``.

    Raises:
        ImageFault: the bytes are not an image, end inside the header, or promise no pixel or more than ``MAX_PIXELS``.
    """
    if not data:
        raise ImageFault("it is empty (0 bytes)")
    read = _reader(data)
    if read is None:
        other = by_content(data[:BEGIN])
        if other is not None:
            raise ImageFault(f"it is not a {READ} image, but {other}, which is not read")
        raise ImageFault(f"it is not a {READ} image: it begins with {data[:8]!r}")
    try:
        header = read(data, applied)
    except (struct.error, IndexError):
        raise ImageFault(f"it ends inside its header, after {len(data)} bytes") from None
    if header.height <= 0 or header.width <= 0:
        raise ImageFault(f"its header says {header.width} x {header.height} pixels")
    if header.height * header.width > MAX_PIXELS:
        raise ImageFault(f"its header says {header.width} x {header.height} pixels, but at most {MAX_PIXELS} are read")
    return header


def known_format(begin: bytes) -> Format | None:
    """The format of a file that begins with these bytes (12 at least), of those that are read."""
    read = _reader(begin)
    return None if read is None else FORMATS[read]


def _reader(begin: bytes) -> Callable[[bytes, OrientationRule], Header] | None:
    for begins, read in SIGNATURES.items():
        if begin.startswith(begins) and (read is not _webp or begin[8:12] == WEBP_MARK):
            return read
    return None


def _jpeg(data: bytes, applied: OrientationRule) -> Header:
    frame, exif, xmp, earlier = 0, b"", None, UPRIGHT
    try:
        for marker, start, end in _segments(data):
            if marker in JPEG_FRAMES:
                frame = frame or start
            elif marker == JPEG_APP1 and data.startswith(EXIF_BEGIN, start):
                if earlier == UPRIGHT and not frame:
                    earlier = jpeg_exif_orientation(data, start + len(EXIF_BEGIN))
                exif += data[start + len(EXIF_BEGIN) : end]  # too long for one segment, a block goes on in the next
            elif marker == JPEG_APP1 and data.startswith(JPEG_XMP_BEGIN, start):
                xmp = data[start:end]
    except (ImageFault, struct.error, IndexError):
        if not frame:  # libjpeg judges what follows the frame
            raise
    if not frame:
        raise ImageFault("it is a JPEG without an image in it")
    height, width = struct.unpack_from(">HH", data, frame + 1)
    return Header("JPEG", height, width, orientation(exif, xmp) if applied == "all" else earlier)


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, first byte of the content and the byte after it, of every segment before the pixels."""
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
            (length,) = struct.unpack_from(">H", data, position + 2)
            yield marker, position + 4, position + 2 + length
            position += 2 + length


def _png(data: bytes, applied: OrientationRule) -> Header:
    width, height = struct.unpack_from(">II", data, 16)
    return Header("PNG", height, width, _png_orientation(data) if applied == "all" else UPRIGHT)


def _png_orientation(data: bytes) -> int:
    """From the last eXIf chunk, before the pixels or behind them; where there is none, from a text with its bytes in
    hexadecimal digits, as ImageMagick writes it.
    """
    exif = profile = xmp = None
    for kind, begin, end in png_chunks(data):
        if kind == b"eXIf":
            exif = data[begin:end]
        elif kind in PNG_TEXTS:
            name, _, rest = data[begin:end].partition(b"\0")
            if name == PNG_XMP:
                xmp = _png_text(kind, rest) or xmp
            elif name == PNG_PROFILE:
                profile = _png_text(kind, rest) or profile
    if exif is None and profile is not None:
        try:
            exif = bytes.fromhex(b"".join(profile.split(b"\n")[3:]).decode("latin-1"))
        except ValueError:
            return UPRIGHT
    return orientation(exif, xmp)


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, first byte of the content and the byte after it, of every whole chunk of a PNG."""
    position = 8
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        kind, end = data[position + 4 : position + 8], position + 8 + length
        if kind == b"IEND" or end > len(data):
            return
        yield kind, position + 8, end
        position = end + 4  # the checksum


def _png_text(kind: bytes, text: bytes) -> bytes:
    """What follows the name of a text chunk, unpacked; empty where that fails. PNG section 11.3.3."""
    packed = kind == b"zTXt" or (kind == b"iTXt" and text[:1] not in (b"", b"\0"))
    if kind == b"zTXt":
        text = text[1:]
    elif kind == b"iTXt":  # flag and method, language, translated name
        text = [*text[2:].split(b"\0", 2), b"", b"", b""][2]
    if not packed:
        return text
    try:
        return zlib.decompressobj().decompress(text, MAX_TEXT)
    except zlib.error:
        return b""


def _gif(data: bytes, applied: OrientationRule) -> Header:
    width, height = struct.unpack_from("<HH", data, 6)
    return Header("GIF", height, width, native=False)


def _bmp(data: bytes, applied: OrientationRule) -> Header:
    old = struct.unpack_from("<I", data, 14)[0] == 12  # OS/2's header has sizes of 16 bits
    width, height = struct.unpack_from("<HH" if old else "<ii", data, 18)
    return Header("BMP", abs(height), width, native=False)  # a negative height: rows from top to bottom


def _webp(data: bytes, applied: OrientationRule) -> Header:
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
        turned = _webp_orientation(data, flags) if applied == "all" else UPRIGHT
        return Header(
            "WebP", int.from_bytes(height, "little") + 1, int.from_bytes(width, "little") + 1, turned, native=native
        )
    raise ImageFault(f"its WebP chunk {kind!r} is unknown")


def _webp_orientation(data: bytes, flags: int) -> int:
    """From the first chunk of each kind that the flags announce."""
    found: dict[bytes, bytes] = {}
    wanted = {b"EXIF": flags & WEBP_EXIF, b"XMP ": flags & WEBP_XMP}
    position = 12
    while position + 8 <= len(data):
        kind, (length,) = data[position : position + 4], struct.unpack_from("<I", data, position + 4)
        if position + 8 + length > len(data):
            break
        if wanted.get(kind) and length:
            found.setdefault(kind, data[position + 8 : position + 8 + length])
        position += 8 + length + length % 2
    return orientation(found.get(b"EXIF"), found.get(b"XMP "))


def _tiff(data: bytes, applied: OrientationRule) -> Header:
    try:
        directory = read_directory(data)
    except TiffFault as error:
        raise ImageFault(str(error)) from error
    height, width = directory.size
    # Pillow turns a TIFF when it reads it, and no stored run has one
    if ORIENTATIONS[directory.orientation].transposed:
        height, width = width, height
    return Header("TIFF", height, width, native=False)


FORMATS: dict[Callable[[bytes, OrientationRule], Header], Format] = {
    _jpeg: "JPEG",
    _png: "PNG",
    _webp: "WebP",
    _gif: "GIF",
    _bmp: "BMP",
    _tiff: "TIFF",
}
# how a file of each format begins -> what reads its header
SIGNATURES: dict[bytes, Callable[[bytes, OrientationRule], Header]] = {
    JPEG_BEGIN: _jpeg,
    PNG_BEGIN: _png,
    RIFF_BEGIN: _webp,
    **dict.fromkeys(GIF_BEGINS, _gif),
    BMP_BEGIN: _bmp,
    **dict.fromkeys(TIFF_BEGINS, _tiff),
}
