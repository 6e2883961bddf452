"""Image files that Pillow does not write: TIFF of 16 bits in any layout, PNG of 16 bits with alpha, BMP with alpha."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Samples = npt.NDArray[Any]

DEFLATE = 8


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.copy().save(buffer, kind, **options)  # Pillow keeps settings of the encoder in the image
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(samples: Samples, *, key: tuple[int, ...] | None = None) -> bytes:
    """A PNG of ``samples``, uint8 or uint16 ``[height, width, 1 to 4]``; the colour ``key`` is transparent."""
    height, width, channels = samples.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, samples.dtype.itemsize * 8, colour, 0, 0, 0)
    lines = samples.astype(samples.dtype.newbyteorder(">")).reshape(height, -1)
    pixels = b"".join(b"\0" + line.tobytes() for line in lines)
    transparency = b"" if key is None else chunk(b"tRNS", struct.pack(f">{len(key)}H", *key))
    parts = chunk(b"IHDR", header) + transparency + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def tiff(
    samples: Samples,
    *,
    order: str = "<",
    photometric: int | None = None,
    predictor: int = 1,
    deflated: bool = False,
    tile: int | None = None,
    extra: int | None = None,
    tags: dict[int, int] | None = None,
    xmp: bytes | None = None,
) -> bytes:
    """A TIFF of ``samples``, uint8 or uint16 ``[height, width, channels]``, in strips or in tiles of a width that
    divides it.
    """
    height, width, channels = samples.shape
    bits, wide = samples.dtype.itemsize * 8, tile or width
    parts = []
    for left in range(0, width, wide):
        part = samples[:, left : left + wide]
        if predictor == 2:
            part = np.diff(part.astype(np.int64), axis=1, prepend=0).astype(samples.dtype)
        content = part.astype(samples.dtype.newbyteorder(order)).tobytes()
        parts.append(zlib.compress(content) if deflated else content)
    entries: dict[int, tuple[str, list[int]]] = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [bits] * channels),
        259: ("H", [DEFLATE if deflated else 1]),
        262: ("H", [(2 if channels > 2 else 1) if photometric is None else photometric]),
        277: ("H", [channels]),
        **({317: ("H", [predictor])} if predictor != 1 else {}),
        **({338: ("H", [extra])} if extra is not None else {}),
        **({700: ("B", list(xmp))} if xmp is not None else {}),
        **{tag: ("H", [value]) for tag, value in (tags or {}).items()},
    }
    places, sizes = (273, 279) if tile is None else (324, 325)
    if tile is None:
        entries[278] = ("I", [height])
    else:
        entries[322], entries[323] = ("I", [tile]), ("I", [height])
    entries[sizes], entries[places] = ("I", [len(part) for part in parts]), ("I", [0] * len(parts))
    end = 8 + 2 + 12 * len(entries) + 4
    beside = sum(len(_packed(order, *entry)) for entry in entries.values() if len(_packed(order, *entry)) > 4)
    starts = np.cumsum([end + beside, *(len(part) for part in parts[:-1])]).tolist()
    entries[places] = ("I", starts)
    directory, content = struct.pack(f"{order}H", len(entries)), b""
    for tag, (kind, values) in sorted(entries.items()):
        packed = _packed(order, kind, values)
        directory += struct.pack(f"{order}HHI", tag, {"B": 1, "H": 3, "I": 4}[kind], len(values))
        if len(packed) <= 4:
            directory += packed.ljust(4, b"\0")
        else:
            directory += struct.pack(f"{order}I", end + len(content))
            content += packed
    begin = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8)
    return begin + directory + struct.pack(f"{order}I", 0) + content + b"".join(parts)


def _packed(order: str, kind: str, values: list[int]) -> bytes:
    return struct.pack(f"{order}{len(values)}{kind}", *values)


def bmp_with_alpha(image: Image.Image) -> bytes:
    """A BMP of 32 bits with a mask for alpha, which Pillow reads and does not write."""
    pixels = np.asarray(image.convert("RGBA"))[::-1][..., [2, 1, 0, 3]].tobytes()
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, image.width, image.height, 1, 32, 3, len(pixels), 2835, 2835, 0, 0)
    header += masks + b"BGRs" + bytes(48)
    start = 14 + len(header)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + header + pixels
