"""Which part of an image is kept: windows int32 ``[4]``, as top, left, height and width in pixels.

A window is chosen from the size of an image alone, so that it can be chosen before the image is decoded.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from trainer.config.schema.preprocessing import PreprocessConfig
from trainer.data.images.draw import Draw

# from the size of an image, int32 ``[2]`` as height and width
WindowChooser = Callable[[tf.Tensor, PreprocessConfig, Draw], tf.Tensor]


def random_area_crop(size: tf.Tensor, config: PreprocessConfig, draw: Draw) -> tf.Tensor:
    """A random part: aspect ratio, then area, then place (arXiv 1409.4842 section 6)."""
    crop = config.random_area_crop
    return random_window(size, crop.min_area, 1.0, crop.max_aspect, draw.uniform("random_area_crop", 4))


def central_crop(size: tf.Tensor, config: PreprocessConfig, draw: Draw) -> tf.Tensor:
    """The middle; margins are rounded down, as in ``tf.image.central_crop``."""
    lengths = tf.cast(size, tf.float64)
    margins = tf.cast((lengths - lengths * config.central_crop.fraction) / 2.0, tf.int32)
    return tf.concat([margins, size - 2 * margins], 0)


def random_window(
    size: tf.Tensor, min_area: float, max_area: float, max_aspect: float, numbers: tf.Tensor
) -> tf.Tensor:
    """A window of an image of ``size``, int32 ``[2]``, from four ``numbers``, float32 ``[4]`` in [0, 1).

    Width / height is log-uniform in [1/max_aspect, max_aspect]. The share of the image's area is uniform in
    [min_area, max_area], where that shape fits into the image at that size. Otherwise the upper bound, and where needed
    the lower one, is the largest share that fits. So no draw is rejected. ``tf.image.sample_distorted_bounding_box``
    rejects none for its size either, but there the heights are uniform, not the areas. The place is uniform.
    """
    available = tf.cast(size, tf.float32)
    stretch = tf.pow(max_aspect, (2.0 * numbers[1] - 1.0) * tf.constant([-0.5, 0.5]))
    whole = tf.sqrt(tf.reduce_prod(available)) * stretch  # height and width of this shape with the image's area
    fitting = tf.square(tf.reduce_min(available / whole))
    largest = tf.minimum(max_area, fitting)
    smallest = tf.minimum(min_area, largest)
    share = smallest + numbers[0] * (largest - smallest)
    kept = tf.clip_by_value(tf.cast(tf.round(tf.sqrt(share) * whole), tf.int32), 1, size)
    places = size - kept + 1
    first = tf.minimum(tf.cast(numbers[2:4] * tf.cast(places, tf.float32), tf.int32), places - 1)
    return tf.concat([first, kept], 0)


# transform -> what chooses the part of the image that it keeps
WINDOWS: dict[str, WindowChooser] = {"random_area_crop": random_area_crop, "central_crop": central_crop}
