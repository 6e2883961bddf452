"""The palettes of BMP that Pillow mistakes for greys."""

from __future__ import annotations

import struct

CORE = 12  # bytes of OS/2's first header, which has no number of colours
FILE_HEADER = 14


def palette_kept(data: bytes) -> bytes:
    """A BMP that Pillow reads with its palette.

    Where the colours are black and white, or the first levels of grey, Pillow reads a BMP as if it had 1 bit or 8 bits
    a pixel (``BmpImagePlugin._bitmap``). Of another depth it then gives other pixels, or none. One more black in the
    palette, which no pixel uses, makes it an ordinary one.
    """
    try:
        (offset, size), (bits,) = struct.unpack_from("<II", data, 10), struct.unpack_from("<H", data, 28)
        if size == CORE or bits > 8:
            return data
        colors = struct.unpack_from("<I", data, 46)[0] or 1 << bits
    except struct.error:  # it ends inside its header
        return data
    end = FILE_HEADER + size + 4 * colors
    levels = (0, 255) if colors == 2 else range(min(colors, 256))
    palette = data[FILE_HEADER + size : end]
    grey = all(palette[4 * place : 4 * place + 3] == bytes([level] * 3) for place, level in enumerate(levels))
    if not grey or (bits, colors) in ((1, 2), (8, 256)) or colors > 256 or offset < end:
        return data
    return b"".join(
        (
            data[:10],
            struct.pack("<I", offset + 4),
            data[14:46],
            struct.pack("<I", colors + 1),
            data[50:end],
            bytes(4),
            data[end:],
        )
    )
