"""What the pixels of an image are apart from a picture: transparent, on one colour alone, of few of their 16 bits."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.config.schema.preprocessing import PreprocessConfig
from trainer.data.images.headers import Header, read_header
from trainer.data.images.pages import pages
from trainer.data.images.pillow import PILLOW_FAULTS, opened
from trainer.data.images.pixels import PNG_DEPTH, png_has_alpha
from trainer.data.images.tiff import TiffFault, read_directory, sixteen_bit_samples

# A hot pixel of a camera, a lettered margin or a frame says nothing about the range that a picture uses.
ASIDE = 1 / 1000


@dataclasses.dataclass(frozen=True)
class Findings:
    """``transparent``: a pixel at least is not opaque. ``blank``: it is transparent, and one colour on the background
    of the configuration. ``values`` are those of ``sixteen_bit_values``. ``warnings`` are Pillow's. ``pages`` is the
    number of pages or frames in the file, of which the first is read.
    """

    transparent: bool
    blank: bool
    values: tuple[int, int] | None
    warnings: tuple[str, ...]
    pages: int


def examine(data: bytes, pixels: npt.NDArray[np.uint8], config: PreprocessConfig) -> Findings:
    """Look at an image that was decoded to ``pixels``, uint8 ``[height, width, 3]``, as ``config`` says."""
    header = read_header(data, config.orientation)
    if header.format == "JPEG" or (header.format == "WebP" and header.native):
        return Findings(transparent=False, blank=False, values=None, warnings=(), pages=1)
    opacity, warnings = _opacity(data, header)
    transparent = opacity is not None and opacity < 1.0
    blank = transparent and is_blank(pixels)
    return Findings(transparent, blank, sixteen_bit_values(data), tuple(warnings), pages(data))


def is_blank(pixels: npt.NDArray[np.uint8]) -> bool:
    """Whether all pixels of ``[height, width, channels]`` are equal."""
    first = pixels[0, 0]
    return bool((pixels[0] == first).all() and (pixels == first).all())


def sixteen_bit_values(data: bytes) -> tuple[int, int] | None:
    """The smallest and the largest value of an image of 16 bits a channel, without alpha; None for others. ``ASIDE`` of
    the values at either end do not count.

    Raises:
        ImageFault: it has no header that can be read.
        Others: the pixels cannot be decoded.
    """
    header = read_header(data, "all")
    colour: npt.NDArray[np.uint16]
    if header.format == "PNG" and data[PNG_DEPTH] == 16:
        samples = tf.io.decode_png(data, dtype=tf.uint16).numpy()
        colour = samples[..., : samples.shape[-1] // 2 * 2 - 1] if samples.shape[-1] in (2, 4) else samples
    elif header.format == "TIFF" and read_directory(data).bits == 16:
        colour, _ = sixteen_bit_samples(data)
    else:
        return None
    values = colour.ravel()
    last = values.size - 1
    aside = int(ASIDE * values.size)
    ordered = np.partition(values, (aside, last - aside))
    return int(ordered[aside]), int(ordered[last - aside])


def _opacity(data: bytes, header: Header) -> tuple[float | None, list[str]]:
    """Of the most transparent pixel, 0 to 1, None without transparency; and the warnings of what looked at it."""
    if header.format == "PNG":
        if not png_has_alpha(data):
            return None, []
        return float(tf.io.decode_png(data, channels=4, dtype=tf.uint16).numpy()[..., 3].min()) / (2**16 - 1), []
    image, warnings = opened(data, header.format)
    with image:
        if header.format == "TIFF" and read_directory(data).bits == 16:
            _, alpha = sixteen_bit_samples(data)
            return None if alpha is None else float(alpha.min()) / (2**16 - 1), warnings
        if not image.has_transparency_data:
            return None, warnings
        return float(np.asarray(image.convert("RGBA"))[..., 3].min()) / 255, warnings


# what ``sixteen_bit_values`` raises for an image that cannot be decoded
UNDECODABLE = (*PILLOW_FAULTS, TiffFault, tf.errors.InvalidArgumentError)
