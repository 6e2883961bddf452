"""From the bytes of an image file to pixels: uint8 ``[height, width, 3]``, upright.

Two stages. ``encoded_image`` runs in Python where records are read: it looks at the header and hands formats that
TensorFlow's decoders get wrong to Pillow. ``decode_window`` runs in the graph, on many threads, and decodes a window
of the image; of a JPEG it decodes nothing else. Decoding a window and cutting it out of the whole are bitwise equal.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import tensorflow as tf
from PIL import Image

from trainer.data.headers import UPRIGHT, ImageFault, read_header

# libjpeg's exact integer transform, as in Pillow: pixels then equal those of other frameworks
DCT_METHOD = "INTEGER_ACCURATE"
# libjpeg interpolates colour between neighbouring columns, and takes a window's edge for the image's: two more at
# each side are decoded and dropped
SPARE_COLUMNS = 2
LAYOUT_FIELDS = 4
# orientation -> (transposed, rows mirrored, columns mirrored), in this order from the stored image to the upright one;
# EXIF 2.32 section 4.6.4, the first entry stands for none
ORIENTATIONS = (
    (False, False, False),
    (False, False, False),
    (False, False, True),
    (False, True, True),
    (False, True, False),
    (True, False, False),
    (True, False, True),
    (True, True, True),
    (True, True, False),
)


class EncodedImage(NamedTuple):
    """One image, or a batch of them with one more dimension in front.

    ``data`` string ``[]`` are bytes that TensorFlow decodes. ``layout`` int32 ``[4]`` are: whether they are a JPEG,
    height and width as stored, and EXIF's orientation.
    """

    data: tf.Tensor
    layout: tf.Tensor

    @property
    def height(self) -> tf.Tensor:
        """Of the upright image, int32 ``[]``."""
        return tf.where(self._transposed, self.layout[2], self.layout[1])

    @property
    def width(self) -> tf.Tensor:
        """Of the upright image, int32 ``[]``."""
        return tf.where(self._transposed, self.layout[1], self.layout[2])

    @property
    def _transposed(self) -> tf.Tensor:
        return tf.constant([entry[0] for entry in ORIENTATIONS])[self.layout[3]]


def readable(data: bytes) -> tuple[bytes, tuple[int, int, int, int]]:
    """``data`` and ``layout`` of the EncodedImage for the bytes of an image file.

    What TensorFlow would get wrong is decoded by Pillow and goes on as an uncompressed BMP of 24 bits: GIF (first
    frame), BMP, and WebP with alpha (dropped) or several frames (the first).

    Raises:
        ImageFault: they are no image that can be read.
    """
    header = read_header(data)
    if not header.native:
        data = _rewritten(data)
    return data, (int(header.format == "JPEG"), header.height, header.width, header.orientation)


def _rewritten(data: bytes) -> bytes:
    buffer = io.BytesIO()
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.convert("RGB").save(buffer, "BMP")
    except (OSError, ValueError, SyntaxError, EOFError, IndexError) as error:  # what Pillow's readers raise
        raise ImageFault(str(error)) from error
    return buffer.getvalue()


def encoded_image(data: bytes) -> EncodedImage:
    """One image for the graph. Raises ``ImageFault``."""
    rewritten, layout = readable(data)
    return EncodedImage(tf.constant(rewritten), tf.constant(layout))


def decode(encoded: EncodedImage) -> tf.Tensor:
    """The whole image."""
    return decode_window(encoded, tf.stack([0, 0, encoded.height, encoded.width]))


def decode_window(encoded: EncodedImage, window: tf.Tensor) -> tf.Tensor:
    """The pixels of ``window``, int32 ``[4]``: top, left, height and width within the upright image."""
    return tf.cond(
        encoded.layout[0] == 1,
        lambda: _jpeg_window(encoded, window),
        lambda: cut(tf.io.decode_image(encoded.data, channels=3, expand_animations=False), window),
    )


def cut(image: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """The pixels of ``window`` (as above) of ``[height, width, 3]``."""
    top, left, height, width = tf.unstack(window)
    return tf.ensure_shape(tf.slice(image, [top, left, 0], [height, width, 3]), [None, None, 3])


def _jpeg_window(encoded: EncodedImage, window: tf.Tensor) -> tf.Tensor:
    orientation = encoded.layout[3]
    return tf.cond(
        orientation == UPRIGHT,
        lambda: _stored_window(encoded, window),
        lambda: _upright(_stored_window(encoded, _within_stored(encoded, window)), orientation),
    )


def _stored_window(encoded: EncodedImage, window: tf.Tensor) -> tf.Tensor:
    """Decode a window of a JPEG as it is stored."""
    top, left, height, width = tf.unstack(window)
    first = tf.maximum(left - SPARE_COLUMNS, 0)
    last = tf.minimum(left + width + SPARE_COLUMNS, encoded.layout[2])
    decoded = tf.image.decode_and_crop_jpeg(
        encoded.data, tf.stack([top, first, height, last - first]), channels=3, dct_method=DCT_METHOD
    )
    return tf.slice(decoded, [0, left - first, 0], [height, width, 3])


def _within_stored(encoded: EncodedImage, window: tf.Tensor) -> tf.Tensor:
    """Where the pixels of ``window`` lie in the image as it is stored."""
    top, left, height, width = tf.unstack(window)
    transposed, rows, columns = tf.unstack(tf.constant(ORIENTATIONS)[encoded.layout[3]])
    top = tf.where(rows, encoded.height - top - height, top)
    left = tf.where(columns, encoded.width - left - width, left)
    return tf.where(transposed, tf.stack([left, top, width, height]), tf.stack([top, left, height, width]))


def _upright(stored: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    transposed, rows, columns = tf.unstack(tf.constant(ORIENTATIONS)[orientation])
    image = tf.cond(transposed, lambda: tf.transpose(stored, [1, 0, 2]), lambda: stored)
    image = tf.cond(rows, lambda: tf.reverse(image, [0]), lambda: image)
    return tf.cond(columns, lambda: tf.reverse(image, [1]), lambda: image)


def fault(data: bytes) -> str | None:
    """Why the bytes of an image file cannot be decoded, as the end of a sentence; None when they can."""
    try:
        decode(encoded_image(data))
    except ImageFault as error:
        return str(error)
    except tf.errors.InvalidArgumentError as error:
        reason = str(error.message).splitlines()[0]
        return reason.rpartition("}} ")[2].partition(" [Op:")[0]  # without the names of TensorFlow's nodes
    return None
