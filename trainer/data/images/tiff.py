"""TIFF: which files are read, and samples of 16 bits, of which Pillow keeps the upper half where they have colours.

The samples come out of Pillow nevertheless, whatever their compression: the directory is changed to say that the image
is grey and as many times as wide as it has channels, which are the same bytes.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from trainer.data.images.orientation import ORIENTATIONS, orientation, sensible
from trainer.data.images.pillow import opened

# TIFF 6.0 part 1 section 8 and part 2
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, ORIENTATION, CHANNELS = 256, 257, 258, 259, 262, 274, 277
PLANES, PREDICTOR, TILE_WIDTH, EXTRA_CHANNELS, SAMPLE_FORMAT, XMP = 284, 317, 322, 338, 339, 700
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2
PREMULTIPLIED, UNASSOCIATED = 1, 2  # values of EXTRA_CHANNELS
NEIGHBOURS = 2  # the predictor that stores differences to the pixel at the left
WITH_PREDICTOR = frozenset((5, 8, 32946, 34925, 50000))  # LZW, deflate (twice), LZMA, Zstandard
# tags that are looked at -> numbers beside theirs that no tag has
UNUSED = {EXTRA_CHANNELS: 335, XMP: 701}
SHORT, LONG = 3, 4
SIZES = {1: "B", SHORT: "H", LONG: "I"}
FORMATS = {2: "signed integers", 3: "floating-point numbers", 5: "complex integers", 6: "complex numbers"}
DEPTHS = (1, 2, 4, 8, 16)
SHOWN_VALUES = 16  # no tag that is looked at has more
PHOTOMETRICS = {**dict.fromkeys((0, 1, 2, 3, 5, 6), ""), 4: "a mask", 8: "colours in CIELAB", 9: "colours in ICCLab"}


class TiffFault(Exception):
    """Why a TIFF cannot be read, as the end of a sentence that names it."""


@dataclasses.dataclass(frozen=True)
class Directory:
    """The first directory of a TIFF: ``values`` of the tags that are numbers, and where each ``entry`` begins.
    ``order`` is the byte order for ``struct``, ``xmp`` an XMP packet.
    """

    order: str
    xmp: bytes | None
    values: Mapping[int, tuple[int, ...]]
    entries: Mapping[int, int]

    def one(self, tag: int, otherwise: int) -> int:
        return self.values[tag][0] if tag in self.values else otherwise

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels, as stored."""
        return self.one(HEIGHT, 0), self.one(WIDTH, 0)

    @property
    def bits(self) -> int:
        return self.one(BITS, 1)

    @property
    def orientation(self) -> int:
        """1 to 8, as Pillow reads it: from the tag or, where there is none, from the XMP packet."""
        if ORIENTATION in self.values:
            return sensible(self.values[ORIENTATION][0])
        return orientation(None, self.xmp)


def read_directory(data: bytes) -> Directory:
    """
    Raises:
        TiffFault: it ends inside, or has samples that are not read.
        struct.error: it ends inside its header.
    """
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    values: dict[int, tuple[int, ...]] = {}
    entries: dict[int, int] = {}
    xmp = None
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, number = struct.unpack_from(f"{order}HHI", data, entry)
        if kind not in SIZES or number == 0:
            continue
        form = f"{order}{min(number, SHOWN_VALUES)}{SIZES[kind]}"
        inline = struct.calcsize(f"{order}{number}{SIZES[kind]}") <= 4
        place = entry + 8 if inline else struct.unpack_from(f"{order}I", data, entry + 8)[0]
        if place + struct.calcsize(form) <= len(data):
            values[tag], entries[tag] = struct.unpack_from(form, data, place), entry
            if tag == XMP:
                xmp = data[place : place + number]
    directory = Directory(order, xmp, values, entries)
    _check(directory)
    return directory


def _check(directory: Directory) -> None:
    values = directory.values
    wrong = [FORMATS[each] for each in (values[SAMPLE_FORMAT] if SAMPLE_FORMAT in values else ()) if each in FORMATS]
    if wrong:
        raise TiffFault(f"it is a TIFF of {wrong[0]}; unsigned integers of 8 or 16 bits are read")
    depths = set(values[BITS]) if BITS in values else {1}
    if len(depths) > 1 or not depths <= set(DEPTHS):
        found = ", ".join(map(str, sorted(depths)))
        raise TiffFault(f"it is a TIFF of {found} bits a channel; 8 or 16 are read")
    if PHOTOMETRIC not in values:
        raise TiffFault("it is a TIFF that does not say what its values mean: it has no photometric interpretation")
    photometric = directory.one(PHOTOMETRIC, BLACK_IS_ZERO)
    if photometric not in PHOTOMETRICS or PHOTOMETRICS[photometric]:
        named = PHOTOMETRICS[photometric] if photometric in PHOTOMETRICS else f"colours of kind {photometric}"
        raise TiffFault(f"it is a TIFF with {named}; grey, RGB, CMYK, YCbCr and palettes are read")
    if directory.bits == 16 and (
        photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB) or directory.one(PLANES, 1) != 1
    ):
        raise TiffFault("it is a TIFF of 16 bits a channel that is neither grey nor RGB, or has its channels apart")


def sixteen_bit_samples(data: bytes) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint16] | None]:
    """Colours ``[height, width, 1 or 3]`` and alpha ``[height, width]``, or None, of the first image of a TIFF of 16
    bits a channel; upright.

    Raises:
        TiffFault, struct.error: as ``read_directory``.
        OSError and others: what Pillow's readers raise.
    """
    directory = read_directory(data)
    height, width = directory.size
    colours = 3 if directory.one(PHOTOMETRIC, BLACK_IS_ZERO) == RGB else 1
    channels = directory.one(CHANNELS, 1)
    predictor = directory.one(PREDICTOR, 1) if directory.one(COMPRESSION, 1) in WITH_PREDICTOR else 1
    if channels < colours or predictor not in (1, NEIGHBOURS):
        raise TiffFault(f"it is a TIFF of 16 bits a channel with {channels} channels and predictor {predictor}")
    tile = directory.one(TILE_WIDTH, width)
    image, _ = opened(_as_grey(data, directory, channels, width, tile), "TIFF")
    with image:
        samples = np.array(image).astype(np.uint16).reshape(height, width, channels)
    if predictor == NEIGHBOURS:
        for left in range(0, width, tile):
            part = samples[:, left : left + tile]
            samples[:, left : left + tile] = np.cumsum(part, 1, dtype=np.uint16)  # differences modulo 2**16
    samples = _upright(samples, directory.orientation)
    colour, extra = samples[..., :colours], samples[..., colours:]
    if directory.one(PHOTOMETRIC, BLACK_IS_ZERO) == WHITE_IS_ZERO:
        colour = np.uint16(2**16 - 1) - colour
    kind = directory.one(EXTRA_CHANNELS, UNASSOCIATED)
    if not extra.shape[-1] or kind not in (PREMULTIPLIED, UNASSOCIATED):
        return colour, None
    alpha = extra[..., 0]
    if kind == PREMULTIPLIED:
        whole = np.maximum(alpha, 1).astype(np.int64)[..., np.newaxis]
        colour = np.minimum(colour.astype(np.int64) * (2**16 - 1) // whole, 2**16 - 1).astype(np.uint16)
    return colour, alpha


def _as_grey(data: bytes, directory: Directory, channels: int, width: int, tile: int) -> bytes:
    """The same file with a directory that says: grey, ``channels`` times as wide, upright, no differences."""
    changed = bytearray(data)
    wanted = {
        WIDTH: width * channels,
        TILE_WIDTH: tile * channels,
        BITS: 16,
        PHOTOMETRIC: BLACK_IS_ZERO,
        CHANNELS: 1,
        ORIENTATION: 1,
        PREDICTOR: 1,
        SAMPLE_FORMAT: 1,
    }
    for tag, value in wanted.items():
        if tag in directory.entries:
            struct.pack_into(f"{directory.order}HHII", changed, directory.entries[tag], tag, LONG, 1, value)
    for tag, unused in UNUSED.items():
        if tag in directory.entries:
            struct.pack_into(f"{directory.order}HHII", changed, directory.entries[tag], unused, LONG, 1, 0)
    return bytes(changed)


def _upright(samples: npt.NDArray[np.uint16], turned: int) -> npt.NDArray[np.uint16]:
    """``samples`` ``[height, width, channels]`` turned as TIFF 6.0's orientation says, which is EXIF's."""
    transposed, rows, columns = ORIENTATIONS[turned]
    samples = samples.swapaxes(0, 1) if transposed else samples
    samples = samples[::-1] if rows else samples
    return samples[:, ::-1] if columns else samples
