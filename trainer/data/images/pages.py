"""Files with several pictures, of which one is read: TIFF with pages, GIF, PNG and WebP with frames.

The first page or frame is read. A photo in JPEG may hold further pictures, too (MPO: a preview, a depth map, a second
view). They belong to the photo and do not count here.
"""

from __future__ import annotations

import struct

from trainer.data.images.headers import WEBP_ANIMATION, known_format, png_chunks
from trainer.data.images.pillow import PILLOW_FAULTS, opened

# TIFF 6.0 sections 3 and 8
NEW_SUBFILE, OLD_SUBFILE = 254, 255
REDUCED, MASK = 1, 4  # bits of NEW_SUBFILE
OLD_REDUCED = 2  # value of OLD_SUBFILE
MOST = 1 << 16  # directories that are followed
PNG_FRAMES = b"acTL"  # PNG 3, section 11.3.6.1
WEBP_FLAGS = 20  # place in the file, with a VP8X chunk
HEADER = 12


def pages(data: bytes) -> int:
    """How many pages or frames an image file has; 1 where it does not say, or where its rest is damaged. A smaller copy
    of a page of a TIFF is no page, and neither is a mask.
    """
    form = known_format(data[:HEADER])
    try:
        if form == "TIFF":
            return _tiff(data)
        if form == "PNG":
            return _png(data)
        if form == "GIF" or (form == "WebP" and data[12:16] == b"VP8X" and data[WEBP_FLAGS] & WEBP_ANIMATION):
            image, _ = opened(data, form)
            with image:
                return int(getattr(image, "n_frames", 1))
    except (struct.error, *PILLOW_FAULTS):
        pass
    return 1


def _png(data: bytes) -> int:
    counts = [struct.unpack_from(">I", data, begin)[0] for kind, begin, _ in png_chunks(data) if kind == PNG_FRAMES]
    return max([1, *counts])


def _tiff(data: bytes) -> int:
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    (place,) = struct.unpack_from(f"{order}I", data, 4)
    seen: set[int] = set()
    count = 0
    while place and place not in seen and len(seen) < MOST:
        try:
            (entries,) = struct.unpack_from(f"{order}H", data, place)
            kinds = dict(_numbers(data, order, place + 2, entries))
            (following,) = struct.unpack_from(f"{order}I", data, place + 2 + 12 * entries)
        except struct.error:
            break
        beside = kinds.get(NEW_SUBFILE, 0) & (REDUCED | MASK) or kinds.get(OLD_SUBFILE) == OLD_REDUCED
        count += 1 if not seen or not beside else 0  # the first is the one that is read, whatever it is
        seen.add(place)
        place = following
    return max(1, count)


def _numbers(data: bytes, order: str, begin: int, entries: int) -> list[tuple[int, int]]:
    """``(tag, value)`` of the entries of a directory that hold one number."""
    found = []
    for entry in range(begin, begin + 12 * entries, 12):
        tag, kind = struct.unpack_from(f"{order}HH", data, entry)
        if tag in (NEW_SUBFILE, OLD_SUBFILE):
            found.append((tag, struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", data, entry + 8)[0]))
    return found
