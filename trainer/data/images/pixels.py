"""Pixel values: 16 bits become 8, and transparent pixels lie on a background.

Each rule is integer arithmetic that Python (for what Pillow decodes) and the graph (for PNG) compute alike, so
training, evaluation, ``predict`` and a served network see the same values.
"""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from PIL import Image

from trainer.config.schema.preprocessing import PreprocessConfig
from trainer.data.images.headers import PNG_BEGIN

BACKGROUNDS = {"white": (255, 255, 255), "black": (0, 0, 0)}
LARGEST = 2**16 - 1  # the largest value of 16 bits
ALL_BITS = (0, LARGEST)

PNG_DEPTH, PNG_COLOUR = 24, 25  # where IHDR has bits a channel and the colour type: PNG specification section 11.2.1

Values = TypeVar("Values", npt.NDArray[np.int32], tf.Tensor)


@dataclasses.dataclass(frozen=True)
class PixelRules:
    """``background`` is the colour under transparent pixels, 0 to 255 for red, green and blue; None: alpha is dropped,
    and what is stored under a transparent pixel shows. ``darkest`` and ``lightest`` are the values of 16 bits that
    become 0 and 255.
    """

    background: tuple[int, int, int] | None
    darkest: int
    lightest: int

    @property
    def all_bits(self) -> bool:
        """Whether a value of 16 bits becomes its upper 8 bits."""
        return (self.darkest, self.lightest) == ALL_BITS

    @property
    def change_nothing(self) -> bool:
        """Whether no image is changed: alpha is dropped, and the upper 8 bits are used."""
        return self.background is None and self.all_bits


def rules_of(config: PreprocessConfig) -> PixelRules:
    darkest, lightest = ALL_BITS if config.sixteen_bit_range is None else config.sixteen_bit_range
    if config.background == "none":
        return PixelRules(None, darkest, lightest)
    named = BACKGROUNDS[config.background] if isinstance(config.background, str) else config.background
    red, green, blue = named
    return PixelRules((red, green, blue), darkest, lightest)


def eight_bits(values: Values, rules: PixelRules) -> Values:
    """Values of 16 bits, int32, as 0 to 255, int32: 256 equal steps from ``darkest`` to ``lightest``, or all 255 where
    there are fewer values; what lies outside takes the nearest. With all bits these are the upper 8.
    """
    last = rules.lightest - rules.darkest
    steps = (values - rules.darkest) * (256 if last >= 255 else 255) // (last + 1 if last >= 255 else last)
    if isinstance(values, np.ndarray):
        return np.clip(steps, 0, 255)
    return tf.clip_by_value(steps, 0, 255)


def composited(colour: Values, alpha: Values, background: Values) -> Values:
    """``colour`` ``[…, 3]`` with ``alpha`` ``[…, 1]`` over ``background`` ``[3]``, all int32 in 0..255.

    round((colour x alpha + background x (255 - alpha)) / 255), which is Pillow's ``alpha_composite`` over an opaque
    image for every value. A half cannot occur, because 255 is odd.
    """
    return (2 * (colour * alpha + background * (255 - alpha)) + 255) // 510


def png_needs_rules(data: bytes, rules: PixelRules) -> bool:
    """Whether ``rules`` change the pixels of a PNG from those of TensorFlow's plain decoder."""
    if data[PNG_DEPTH : PNG_DEPTH + 1] == b"\x10" and not rules.all_bits:
        return True
    return rules.background is not None and png_has_alpha(data)


def png_has_alpha(data: bytes) -> bool:
    """Whether a PNG may have transparent pixels: it has a channel for alpha, or a chunk for transparent colours."""
    if data[PNG_COLOUR : PNG_COLOUR + 1] in (b"\x04", b"\x06"):
        return True
    position = len(PNG_BEGIN)
    while position + 8 <= len(data):
        kind = data[position + 4 : position + 8]
        if kind == b"tRNS":
            return True
        if kind == b"IDAT":
            return False
        position += 12 + int.from_bytes(data[position : position + 4], "big")
    return False


def png_pixels(data: tf.Tensor, window: tf.Tensor, rules: PixelRules) -> tf.Tensor:
    """The pixels of ``window``, uint8 ``[height, width, 3]``, of a PNG that has alpha or 16 bits, in the graph.

    ``data`` is string ``[]``; ``window`` int32 ``[4]`` is top, left, height and width. TensorFlow's decoder gives a
    value of 8 bits as 257 times itself, and opaque pixels alpha 65535. (Of a PNG below 8 bits without transparency it
    gives a wrong alpha; ``png_needs_rules`` is false for those.)
    """
    top, left, height, width = tf.unstack(window)
    decoded = tf.io.decode_png(data, channels=4, dtype=tf.uint16)
    values = tf.cast(tf.slice(decoded, [top, left, 0], [height, width, 4]), tf.int32)
    colour = values[..., :3] // 256
    if not rules.all_bits:
        deep = tf.equal(tf.strings.substr(data, PNG_DEPTH, 1), b"\x10")
        colour = tf.cond(deep, lambda: eight_bits(values[..., :3], rules), lambda: colour)
    if rules.background is not None:
        colour = composited(colour, values[..., 3:] // 256, tf.constant(rules.background))
    return tf.ensure_shape(tf.cast(colour, tf.uint8), [None, None, 3])


def png_follows_rules(data: tf.Tensor, rules: PixelRules) -> tf.Tensor:
    """``png_needs_rules`` in the graph, bool ``[]``, of ``data`` string ``[]`` of any format."""
    needed = tf.constant(False)
    if not rules.all_bits:
        needed |= tf.equal(tf.strings.substr(data, PNG_DEPTH, 1), b"\x10")
    if rules.background is not None:
        # of a chunk the four bytes before its name are its length: at most 256 entries of a palette
        needed |= tf.strings.regex_full_match(data, rf"\C{{{PNG_COLOUR}}}[\x04\x06]\C*|\C*\x00\x00[\x00\x01]\CtRNS\C*")
    png = tf.equal(tf.strings.substr(data, 0, len(PNG_BEGIN)), PNG_BEGIN)
    return tf.cond(png, lambda: needed, lambda: tf.constant(False))


def flattened(image: Image.Image, rules: PixelRules) -> Image.Image:
    """An image of Pillow, 8 bits a channel at most, in RGB without alpha."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    # RGBA first in any case: Pillow warns where it converts a palette with transparency to RGB
    shown = image.convert("RGBA")
    if rules.background is not None:
        shown = Image.alpha_composite(Image.new("RGBA", shown.size, (*rules.background, 255)), shown)
    return shown.convert("RGB")
