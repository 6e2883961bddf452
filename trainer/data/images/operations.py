"""The image operations that augmentation policies choose from: AutoAugment's (arXiv 1805.09501 table 6) and identity.

Each takes uint8 ``[height, width, 3]`` and a ``strength`` float32 ``[]``, whose unit its docstring states, and returns
uint8 of the same shape. They do what Pillow's ImageOps, ImageEnhance and Image.transform do, on which the papers' code
was built. What geometry moves into view is filled with grey, as in the TensorFlow versions of the papers.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

ImageOperation = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

FILL = 128.0
LEVELS = 256
# ITU-R BT.601 in 16 bits after the point, as Pillow's convert("L")
LUMA, LUMA_BITS = (19595, 38470, 7471), 16
# Pillow's ImageFilter.SMOOTH
SMOOTH = ((1.0, 1.0, 1.0), (1.0, 5.0, 1.0), (1.0, 1.0, 1.0))


def identity(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """The image itself; the strength has no meaning."""
    return image


def auto_contrast(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Stretch each channel to 0..255; the strength has no meaning."""
    pixels = _rows(image)
    low, high = (tf.cast(extreme, tf.float64) for extreme in (tf.reduce_min(pixels, 0), tf.reduce_max(pixels, 0)))
    scale = tf.where(high > low, 255.0 / (high - low), 1.0)
    offset = tf.where(high > low, -low * scale, tf.zeros_like(low))
    table = tf.range(LEVELS, dtype=tf.float64)[:, tf.newaxis] * scale + offset
    return _looked_up(image, tf.clip_by_value(table, 0.0, 255.0))


def equalize(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Flatten the histogram of each channel; the strength has no meaning."""
    pixels = tf.cast(_rows(image), tf.int32)
    counts = tf.reshape(tf.math.bincount(pixels + LEVELS * tf.range(3), minlength=3 * LEVELS), [3, LEVELS])
    highest = tf.reduce_max(pixels, 0)
    step = (tf.reduce_sum(counts, 1) - tf.gather(counts, highest, batch_dims=1)) // (LEVELS - 1)
    below = tf.cumsum(counts, axis=1, exclusive=True)
    flat = tf.minimum((step[:, tf.newaxis] // 2 + below) // tf.maximum(step[:, tf.newaxis], 1), LEVELS - 1)
    table = tf.where(step[:, tf.newaxis] > 0, flat, tf.range(LEVELS))
    return _looked_up(image, tf.transpose(table))


def rotate(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Turn around the centre; in degrees, counter-clockwise when positive."""
    angle = strength * (3.141592653589793 / 180.0)
    cosine, sine = tf.cos(angle), tf.sin(angle)
    centre = tf.cast(tf.shape(image)[:2], tf.float32) / 2.0
    x, y = centre[1], centre[0]
    return _projected(image, [cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y])


def shear_x(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Shift every row by its number times the strength."""
    return _projected(image, [1.0, strength, 0.0, 0.0, 1.0, 0.0])


def shear_y(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Shift every column by its number times the strength."""
    return _projected(image, [1.0, 0.0, 0.0, strength, 1.0, 0.0])


def translate_x(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Shift to the left by a share of the width, rounded to pixels."""
    return _projected(image, [1.0, 0.0, tf.round(strength * tf.cast(tf.shape(image)[1], tf.float32)), 0.0, 1.0, 0.0])


def translate_y(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Shift upwards by a share of the height, rounded to pixels."""
    return _projected(image, [1.0, 0.0, 0.0, 0.0, 1.0, tf.round(strength * tf.cast(tf.shape(image)[0], tf.float32))])


def brightness(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Scale the distance from black by 1 + strength."""
    return _as_uint8(tf.cast(image, tf.float32) * (1.0 + strength))


def color(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Scale the distance from grey by 1 + strength."""
    return _extrapolated(_luma(image), image, strength)


def contrast(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Scale the distance from the mean grey by 1 + strength."""
    return _extrapolated(tf.floor(tf.reduce_mean(_luma(image)) + 0.5), image, strength)


def sharpness(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Scale the distance from the smoothed image by 1 + strength; the outermost pixels have no such distance."""
    kernel = tf.constant(SMOOTH) / sum(map(sum, SMOOTH))
    kernel = tf.tile(kernel[:, :, tf.newaxis, tf.newaxis], [1, 1, 3, 1])
    exact = tf.cast(image, tf.float32)
    inner = tf.round(tf.nn.depthwise_conv2d(exact[tf.newaxis], kernel, [1, 1, 1, 1], "VALID"))[0]
    inner = tf.pad(inner - exact[1:-1, 1:-1], [[1, 1], [1, 1], [0, 0]])
    return _extrapolated(exact + inner, image, strength)


def posterize(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Keep the highest bits of every value; in bits dropped, rounded."""
    step = tf.bitwise.left_shift(1, tf.cast(tf.round(strength), tf.int32))
    return tf.bitwise.bitwise_and(image, tf.cast(LEVELS - step, tf.uint8))


def solarize(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Invert what is above a threshold; in levels that are inverted, from the brightest down."""
    return tf.where(tf.cast(image, tf.float32) >= LEVELS - strength, 255 - image, image)


def _rows(image: tf.Tensor) -> tf.Tensor:
    return tf.reshape(image, [-1, 3])


def _looked_up(image: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
    """Every value replaced by that of its channel's column in ``table`` ``[256, 3]``, rounded down."""
    entries = tf.reshape(tf.cast(table, tf.uint8), [-1])
    return tf.gather(entries, tf.cast(image, tf.int32) * 3 + tf.range(3))


def _projected(image: tf.Tensor, rows: list[tf.Tensor | float]) -> tf.Tensor:
    """Take the pixel at (x, y) from (a x + b y + c, d x + e y + f), nearest; ``rows`` is [a, b, c, d, e, f].

    As in Pillow, a pixel's place is its centre: 0.5 for the first. For TensorFlow's operation that is 0.
    """
    a, b, c, d, e, f = map(tf.convert_to_tensor, rows)
    whole_numbers = tf.stack([a, b, c + (a + b - 1.0) / 2.0, d, e, f + (d + e - 1.0) / 2.0, 0.0, 0.0])
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[tf.newaxis],
        transforms=whole_numbers[tf.newaxis],
        output_shape=tf.shape(image)[:2],
        fill_value=FILL,
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )
    return tf.ensure_shape(moved[0], image.shape)


def _luma(image: tf.Tensor) -> tf.Tensor:
    """float32 ``[height, width, 1]``, whole numbers."""
    weighted = tf.reduce_sum(tf.cast(image, tf.int32) * tf.constant(LUMA), -1, keepdims=True)
    return tf.cast(tf.bitwise.right_shift(weighted + 2 ** (LUMA_BITS - 1), LUMA_BITS), tf.float32)


def _extrapolated(origin: tf.Tensor, image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Pillow's ``Image.blend(origin, image, 1 + strength)``."""
    return _as_uint8(origin + (1.0 + strength) * (tf.cast(image, tf.float32) - origin))


def _as_uint8(image: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.clip_by_value(image, 0.0, 255.0), tf.uint8)
