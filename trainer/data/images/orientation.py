"""How a stored image is to be turned: EXIF's orientation and, where EXIF has none, that of XMP.

The reference is ``PIL.ImageOps.exif_transpose``: the same bytes are read in the same way, so the same image is upright.
Metadata that make no sense turn nothing, and never make an image unreadable.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from typing import NamedTuple

UPRIGHT = 1  # EXIF's orientation of an image that is stored upright
LARGEST = 8


class Orientation(NamedTuple):
    """How a stored image becomes upright, in this order."""

    transposed: bool
    rows_mirrored: bool
    columns_mirrored: bool


# EXIF 2.32 section 4.6.4, from 1 on; the first is that of a record without an image
ORIENTATIONS = (
    Orientation(False, False, False),
    Orientation(False, False, False),
    Orientation(False, False, True),
    Orientation(False, True, True),
    Orientation(False, True, False),
    Orientation(True, False, False),
    Orientation(True, False, True),
    Orientation(True, True, True),
    Orientation(True, True, False),
)

EXIF_BEGIN = b"Exif\0\0"
EXIF_ORIENTATION = 0x0112  # EXIF 2.32 section 4.6.4
XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
# TIFF 6.0 section 2; the last three are wrong, but Pillow reads them
BYTE_ORDERS = {b"MM\0*": ">", b"II*\0": "<", b"MM*\0": ">", b"II\0*": "<", b"MM\0+": ">"}
TIFF_HEADER, ENTRY = 8, 12
# type -> how struct reads one value; TIFF 6.0 section 2, and IFD and LONG8 of its supplements
SHORT = 3
FORMATS = {
    1: "B", 2: "s", SHORT: "H", 4: "I", 5: "II", 6: "b", 7: "B", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d", 13: "I",
    16: "Q",
}  # fmt: skip
SIZES = {kind: struct.calcsize(f"<{letters}") for kind, letters in FORMATS.items()}
BYTES = frozenset((1, 2, 7))  # Pillow keeps bytes and text as they are, and they are no number


def orientation(exif: bytes | None, xmp: bytes | None) -> int:
    """1 to 8, from the contents of an EXIF block (a TIFF header, with ``Exif\\0\\0`` before it or without) and an XMP
    packet; None where the image has none.
    """
    if exif is not None:
        exif = re.sub(b"^(?:Exif\0\0){1,2}", b"", exif)
    if exif:
        try:
            found = _in_exif(exif)
        except struct.error:  # not a TIFF header: Pillow refuses the block, or takes the image as upright
            return UPRIGHT
        if found is not None:
            return sensible(found)
    match = XMP.search(xmp or b"")
    return UPRIGHT if match is None else sensible(int(match[1]))


def sensible(value: float) -> int:
    """``value`` if it is an orientation, otherwise upright."""
    return int(value) if value in range(1, LARGEST + 1) else UPRIGHT


def _in_exif(exif: bytes) -> float | None:
    """The value of the orientation in the first directory, 0 for one that is no number, None where there is none.

    Raises:
        struct.error: the header is none of TIFF.
    """
    order = BYTE_ORDERS.get(exif[:4])
    if order is None:
        raise struct.error(f"{exif[:4]!r} begins no TIFF header")
    (directory,) = struct.unpack_from(f"{order}I", exif, 4)
    try:
        (entries,) = struct.unpack_from(f"{order}H", exif, directory)
        seen: set[int] = set()
        far = 0  # bytes of values outside the directory
        for place in range(directory + 2, directory + 2 + ENTRY * entries, ENTRY):
            tag, kind, count = struct.unpack_from(f"{order}HHI", exif, place)
            value = exif[place + 8 : place + ENTRY]
            if len(value) < 4:
                return None
            if tag in seen or kind not in FORMATS or count == 0:
                continue
            size = count * SIZES[kind]
            if size > 4:
                far += size
                if far > len(exif):  # Pillow leaves such an entry out, and ends at one whose value is cut off
                    continue
                (begin,) = struct.unpack(f"{order}I", value)
                value = exif[begin : begin + size]
                if len(value) < size:
                    return None
            if tag == EXIF_ORIENTATION:
                return _number(kind, order, value)
            seen.add(tag)
    except struct.error:  # the directory is cut off
        return None
    return None


def _number(kind: int, order: str, value: bytes) -> float:
    """The first number of a value, 0 for bytes, text, and a division by 0."""
    if kind in BYTES:
        return 0
    numbers: Sequence[float] = struct.unpack_from(f"{order}{FORMATS[kind]}", value)
    if len(numbers) == 1:
        return numbers[0]
    return numbers[0] / numbers[1] if numbers[1] else 0


def jpeg_exif_orientation(data: bytes, start: int) -> int:
    """What ``preprocess.orientation=jpeg`` reads at a TIFF header that begins at ``start``: a SHORT in the first
    directory; upright when it is missing or makes no sense.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[start : start + 4])
    if order is None:
        return UPRIGHT
    try:
        directory = start + struct.unpack_from(f"{order}I", data, start + 4)[0]
        (entries,) = struct.unpack_from(f"{order}H", data, directory)
        for entry in range(directory + 2, directory + 2 + ENTRY * entries, ENTRY):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", data, entry)
            if tag == EXIF_ORIENTATION:
                return sensible(value)
    except struct.error:  # metadata that point outside the file do not make the pixels wrong
        pass
    return UPRIGHT
