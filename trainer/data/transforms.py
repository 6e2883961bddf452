"""Transforms from an encoded image to the network's input, each a pure function of (image, config, draw).

After ``decode`` an image is ``[height, width, 3]``, uint8 or float32 in 0..1. Random transforms take their numbers
from ``draw``, so the result is decided by (seed, example number, transform) alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import tensorflow as tf

from trainer.config.schema import PreprocessConfig
from trainer.randomness import derive_seed


@dataclasses.dataclass(frozen=True)
class Draw:
    """Uniform random numbers for one example. ``example`` is its global number, int64 ``[]``."""

    seed: int
    example: tf.Tensor

    def uniform(self, purpose: str, count: int) -> tf.Tensor:
        """float32 ``[count]`` in [0, 1). Philox, whose values do not depend on the device."""
        seed = tf.stack([tf.constant(derive_seed(self.seed, purpose), tf.int64), self.example])
        return tf.random.stateless_uniform([count], seed, alg="philox")


Transform = Callable[[tf.Tensor, PreprocessConfig, Draw], tf.Tensor]


def apply_transforms(image: tf.Tensor, names: Sequence[str], config: PreprocessConfig, draw: Draw) -> tf.Tensor:
    """Run the named transforms in order; the result is float32 ``[image_size, image_size, 3]``."""
    for name in names:
        image = TRANSFORMS[name](image, config, draw)
    return tf.ensure_shape(_as_float(image), [config.image_size, config.image_size, 3])


def _as_float(image: tf.Tensor) -> tf.Tensor:
    return tf.image.convert_image_dtype(image, tf.float32)


def decode(encoded: tf.Tensor, config: PreprocessConfig, draw: Draw) -> tf.Tensor:
    """JPEG, PNG, GIF (first frame) or BMP bytes to uint8 ``[height, width, 3]``."""
    return tf.io.decode_image(encoded, channels=3, expand_animations=False)


def random_area_crop(image: tf.Tensor, config: PreprocessConfig, draw: Draw) -> tf.Tensor:
    """Keep a random part: area from [min_area, 1] of the image, log-uniform aspect ratio, any place."""
    numbers = draw.uniform("random_area_crop", 4)
    crop = config.random_area_crop
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    area = crop.min_area + numbers[0] * (1.0 - crop.min_area)
    aspect = tf.pow(crop.max_aspect, 2.0 * numbers[1] - 1.0)

    def side(length: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
        wanted = tf.cast(tf.round(tf.cast(length, tf.float32) * tf.sqrt(area * factor)), tf.int32)
        return tf.clip_by_value(wanted, 1, length)

    def start(length: tf.Tensor, kept: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        places = tf.cast(length - kept + 1, tf.float32)
        return tf.minimum(tf.cast(number * places, tf.int32), length - kept)

    kept_height, kept_width = side(height, 1.0 / aspect), side(width, aspect)
    top, left = start(height, kept_height, numbers[2]), start(width, kept_width, numbers[3])
    return tf.slice(image, [top, left, 0], [kept_height, kept_width, 3])


def central_crop(image: tf.Tensor, config: PreprocessConfig, draw: Draw) -> tf.Tensor:
    return tf.image.central_crop(image, config.central_crop.fraction)


def resize(image: tf.Tensor, config: PreprocessConfig, draw: Draw) -> tf.Tensor:
    size = [config.image_size, config.image_size]
    return tf.image.resize(_as_float(image), size, config.resize.method, antialias=config.resize.antialias)


def horizontal_flip(image: tf.Tensor, config: PreprocessConfig, draw: Draw) -> tf.Tensor:
    """Mirror every other image."""
    mirrored = draw.uniform("horizontal_flip", 1)[0] < 0.5
    return tf.cond(mirrored, lambda: tf.reverse(image, [1]), lambda: image)


def color_jitter(image: tf.Tensor, config: PreprocessConfig, draw: Draw) -> tf.Tensor:
    """Shift the brightness and stretch the contrast around the channel means; clipped to 0..1."""
    numbers = 2.0 * draw.uniform("color_jitter", 2) - 1.0
    image = _as_float(image) + numbers[0] * config.color_jitter.brightness
    mean = tf.reduce_mean(image, [0, 1], keepdims=True)
    image = (image - mean) * (1.0 + numbers[1] * config.color_jitter.contrast) + mean
    return tf.clip_by_value(image, 0.0, 1.0)


def normalize(image: tf.Tensor, config: PreprocessConfig, draw: Draw) -> tf.Tensor:
    return (_as_float(image) - tf.constant(config.normalize.mean)) / tf.constant(config.normalize.std)


TRANSFORMS: dict[str, Transform] = {
    "decode": decode,
    "random_area_crop": random_area_crop,
    "central_crop": central_crop,
    "resize": resize,
    "horizontal_flip": horizontal_flip,
    "color_jitter": color_jitter,
    "normalize": normalize,
}
