"""From the bytes of an image file to pixels: uint8 ``[height, width, 3]``, upright.

Two stages. ``encoded_image`` runs in Python where records are read: it looks at the header and hands formats that
TensorFlow's decoders get wrong to Pillow. ``decode_window`` runs in the graph, on many threads, and decodes a window of
the image; of a JPEG it decodes nothing else. The pixels are those of the whole image, bit for bit, except in the
window's first and last column: there libjpeg interpolates the colour of a subsampled JPEG as at the edge of an image.

Where only a smaller image is needed, ``decode_window`` may have libjpeg make it: its transform of 8 x 8 pixels gives
4 x 4, 2 x 2 or 1 of them, their means nearly, at a fraction of the cost.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from PIL import Image

from trainer.config.schema.preprocessing import PreprocessConfig
from trainer.data.images.bmp_palette import palette_kept
from trainer.data.images.headers import Header, ImageFault, read_header
from trainer.data.images.orientation import ORIENTATIONS, UPRIGHT
from trainer.data.images.pillow import PILLOW_FAULTS, opened
from trainer.data.images.pixels import (
    PixelRules,
    composited,
    eight_bits,
    flattened,
    png_needs_rules,
    png_pixels,
    rules_of,
)
from trainer.data.images.tiff import TiffFault, read_directory, sixteen_bit_samples

# libjpeg's exact integer transform, as in Pillow: pixels then equal those of other frameworks
DCT_METHOD = "INTEGER_ACCURATE"
RATIOS = (1, 2, 4, 8)  # at which libjpeg decodes
LAYOUT_FIELDS = 4
# decoders; RULED_PNG: of a PNG with transparency or 16 bits, where the PixelRules change its pixels
OTHER, JPEG, RULED_PNG = range(3)


class EncodedImage(NamedTuple):
    """One image, or a batch of them with one more dimension in front.

    ``data`` string ``[]`` are bytes that TensorFlow decodes. ``layout`` int32 ``[4]`` are height and width of the
    upright image, the orientation of the stored one, 1 to 8 as in EXIF, and which decoder reads it.
    """

    data: tf.Tensor
    layout: tf.Tensor

    @property
    def size(self) -> tf.Tensor:
        """Height and width of the upright image, int32 ``[2]``."""
        return self.layout[:2]

    @property
    def orientation(self) -> tf.Tensor:
        return self.layout[2]

    @property
    def decoder(self) -> tf.Tensor:
        """``JPEG``, ``RULED_PNG`` or ``OTHER``."""
        return self.layout[3]


def readable(data: bytes, config: PreprocessConfig) -> tuple[bytes, tuple[int, int, int, int]]:
    """``data`` and ``layout`` of the EncodedImage for the bytes of an image file.

    Pillow decodes what TensorFlow would get wrong, and passes it on as an uncompressed BMP of 24 bits: GIF (first
    frame), BMP, WebP with alpha or several frames (the first), and TIFF (the first image). What changes here changes in
    ``trainer.data.images.served``, too, which does the same in a graph.

    Raises:
        ImageFault: they are not an image that can be read.
    """
    header = read_header(data, config.orientation)
    if header.format == "BMP":
        data = palette_kept(data)
    height, width = header.height, header.width
    if ORIENTATIONS[header.orientation].transposed:
        height, width = width, height
    decoder, rules = OTHER, rules_of(config)
    if header.format == "JPEG":
        decoder = JPEG
    elif header.format == "PNG" and png_needs_rules(data, rules):
        decoder = RULED_PNG
    return data if header.native else _rewritten(data, header, rules), (height, width, header.orientation, decoder)


def _rewritten(data: bytes, header: Header, rules: PixelRules) -> bytes:
    buffer = io.BytesIO()
    try:
        if header.format == "TIFF" and read_directory(data).bits == 16:
            image = Image.fromarray(_of_sixteen_bits(data, rules))
        else:
            stored, _ = opened(data, header.format)
            with stored:
                image = flattened(stored, rules)
        image.save(buffer, "BMP")
    except (*PILLOW_FAULTS, TiffFault) as error:
        raise ImageFault(str(error)) from error
    return buffer.getvalue()


def _of_sixteen_bits(data: bytes, rules: PixelRules) -> npt.NDArray[np.uint8]:
    """The pixels of a TIFF of 16 bits a channel, uint8 ``[height, width, 3]``."""
    colour, alpha = sixteen_bit_samples(data)
    pixels = np.repeat(eight_bits(colour.astype(np.int32), rules), 3 // colour.shape[-1], -1)
    if alpha is not None and rules.background is not None:
        opacity = alpha.astype(np.int32)[..., np.newaxis] // 256
        pixels = composited(pixels, opacity, np.array(rules.background, np.int32))
    return pixels.astype(np.uint8)


def encoded_image(data: bytes, config: PreprocessConfig) -> EncodedImage:
    """One image for the graph. Raises ``ImageFault``."""
    rewritten, layout = readable(data, config)
    return EncodedImage(tf.constant(rewritten), tf.constant(layout))


def decode(encoded: EncodedImage, config: PreprocessConfig) -> tf.Tensor:
    """The whole image. ``config`` is the one that ``encoded`` was made with."""
    return decode_window(encoded, whole_window(encoded), config)


def whole_window(encoded: EncodedImage) -> tf.Tensor:
    """The window that has the whole image, int32 ``[4]``."""
    return tf.concat([[0, 0], encoded.size], 0)


def decode_window(
    encoded: EncodedImage, window: tf.Tensor, config: PreprocessConfig, least: int | None = None
) -> tf.Tensor:
    """The pixels of ``window``, int32 ``[4]``: top, left, height and width within the upright image. With ``least``, a
    JPEG is decoded at 1/2, 1/4 or 1/8 of its size where both sides keep that many pixels; the edges of the window are
    then rounded to a pixel of the smaller image.
    """
    rules = rules_of(config)
    return tf.cond(
        encoded.orientation <= UPRIGHT,
        lambda: _stored_window(encoded, window, rules, least),
        lambda: _turned_window(encoded, window, rules, least),
    )


def cut(image: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """The pixels of ``window`` (as above) of ``[height, width, 3]``."""
    top, left, height, width = tf.unstack(window)
    return tf.ensure_shape(tf.slice(image, [top, left, 0], [height, width, 3]), [None, None, 3])


def _stored_window(encoded: EncodedImage, window: tf.Tensor, rules: PixelRules, least: int | None) -> tf.Tensor:
    """Decode a window of an image as it is stored."""

    def plain() -> tf.Tensor:
        return cut(tf.io.decode_image(encoded.data, channels=3, expand_animations=False), window)

    def not_jpeg() -> tf.Tensor:
        if rules.change_nothing:
            return plain()
        return tf.cond(encoded.decoder == RULED_PNG, lambda: png_pixels(encoded.data, window, rules), plain)

    def jpeg() -> tf.Tensor:
        if least is None:
            return _jpeg_window(encoded.data, window, 1)
        side = tf.reduce_min(window[2:])
        halvings = tf.add_n([tf.cast(side >= least * ratio, tf.int32) for ratio in RATIOS[1:]])
        return tf.switch_case(
            halvings, [lambda ratio=ratio: _jpeg_window(encoded.data, window, ratio) for ratio in RATIOS]
        )

    return tf.cond(encoded.decoder == JPEG, jpeg, not_jpeg)


def _jpeg_window(data: tf.Tensor, window: tf.Tensor, ratio: int) -> tf.Tensor:
    """A window of a JPEG, of which every ``ratio`` pixels become one."""
    if ratio > 1:
        first, end = window[:2], window[:2] + window[2:]
        first, end = ((edges + ratio // 2) // ratio for edges in (first, end))
        window = tf.concat([first, end - first], 0)
    return tf.image.decode_and_crop_jpeg(data, window, channels=3, ratio=ratio, dct_method=DCT_METHOD)


def _turned_window(encoded: EncodedImage, window: tf.Tensor, rules: PixelRules, least: int | None) -> tf.Tensor:
    """Decode a window of an image that is not stored upright."""
    transposed, rows, columns = tf.unstack(tf.constant(ORIENTATIONS)[encoded.orientation])
    first, kept = window[:2], window[2:]
    first = tf.where(tf.stack([rows, columns]), encoded.size - first - kept, first)
    order = tf.where(transposed, [1, 0], [0, 1])
    image = _stored_window(encoded, tf.concat([tf.gather(first, order), tf.gather(kept, order)], 0), rules, least)
    image = tf.cond(transposed, lambda: _transposed(image), lambda: image)
    image = tf.cond(rows, lambda: tf.reverse(image, [0]), lambda: image)
    return tf.cond(columns, lambda: tf.reverse(image, [1]), lambda: image)


def _transposed(image: tf.Tensor) -> tf.Tensor:
    # by indices: for a Transpose of integers oneDNN logs an error at every start, that this CPU has none
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    places = tf.range(width)[:, None] + tf.range(height)[None] * width
    return tf.gather(tf.reshape(image, [height * width, 3]), places)


def decode_file(data: bytes, config: PreprocessConfig) -> tf.Tensor:
    """The whole image in the bytes of an image file, uint8 ``[height, width, 3]``.

    Raises:
        ImageFault: they cannot be decoded; the message is the end of a sentence.
    """
    try:
        return decode(encoded_image(data, config), config)
    except tf.errors.InvalidArgumentError as error:
        reason = str(error.message).splitlines()[0]
        # without the names of TensorFlow's nodes
        raise ImageFault(reason.rpartition("}} ")[2].partition(" [Op:")[0]) from error


def fault(data: bytes, config: PreprocessConfig) -> str | None:
    """Why the bytes of an image file cannot be decoded, as the end of a sentence; None when they can."""
    try:
        decode_file(data, config)
    except ImageFault as error:
        return str(error)
    return None
