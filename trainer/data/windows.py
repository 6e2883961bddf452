"""Which part of an image is kept: windows int32 ``[4]``, as top, left, height and width in pixels.

A window is chosen from the size of an image alone, so that it can be chosen before the image is decoded.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from trainer.config.schema import PreprocessConfig
from trainer.data.draw import Draw

WindowChooser = Callable[[tf.Tensor, tf.Tensor, PreprocessConfig, Draw], tf.Tensor]


def random_area_crop(height: tf.Tensor, width: tf.Tensor, config: PreprocessConfig, draw: Draw) -> tf.Tensor:
    """A random part: aspect ratio, then area, then place (arXiv 1409.4842 section 6)."""
    crop = config.random_area_crop
    return random_window(height, width, crop.min_area, 1.0, crop.max_aspect, draw.uniform("random_area_crop", 4))


def central_crop(height: tf.Tensor, width: tf.Tensor, config: PreprocessConfig, draw: Draw) -> tf.Tensor:
    """The middle; margins are rounded down, as in ``tf.image.central_crop``."""
    sides = tf.stack([height, width])
    lengths = tf.cast(sides, tf.float64)
    margins = tf.cast((lengths - lengths * config.central_crop.fraction) / 2.0, tf.int32)
    return tf.concat([margins, sides - 2 * margins], 0)


def random_window(
    height: tf.Tensor, width: tf.Tensor, min_area: float, max_area: float, max_aspect: float, numbers: tf.Tensor
) -> tf.Tensor:
    """A window from four ``numbers``, float32 ``[4]`` in [0, 1).

    Width / height is log-uniform in [1/max_aspect, max_aspect]. The share of the image's area is uniform in
    [min_area, max_area], where that shape fits into the image so large; otherwise the upper bound, and where needed
    the lower one, is the largest that fits. So no draw is rejected, as none is for its size by
    ``tf.image.sample_distorted_bounding_box``, whose heights rather than areas are uniform. The place is uniform.
    """
    image_height, image_width = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    aspect = tf.pow(max_aspect, 2.0 * numbers[1] - 1.0)
    whole = image_height * image_width
    fits = tf.minimum(image_height * aspect / image_width, image_width / (image_height * aspect))
    largest = tf.minimum(max_area, fits)
    smallest = tf.minimum(min_area, largest)
    area = whole * (smallest + numbers[0] * (largest - smallest))

    def side(length: tf.Tensor, wanted: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value(tf.cast(tf.round(wanted), tf.int32), 1, length)

    def start(length: tf.Tensor, kept: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        places = length - kept + 1
        return tf.minimum(tf.cast(number * tf.cast(places, tf.float32), tf.int32), places - 1)

    kept_height, kept_width = side(height, tf.sqrt(area / aspect)), side(width, tf.sqrt(area * aspect))
    top, left = start(height, kept_height, numbers[2]), start(width, kept_width, numbers[3])
    return tf.stack([top, left, kept_height, kept_width])


# transform -> what chooses the part of the image that it keeps
WINDOWS: dict[str, WindowChooser] = {"random_area_crop": random_area_crop, "central_crop": central_crop}
