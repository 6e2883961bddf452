"""Augmentation policies: which image operation is applied to an example, and how strongly.

A strength range bounds an operation, in the operation's own unit. RandAugment uses AutoAugment's (arXiv 1805.09501
table 6), with the enhancements as in its later implementations: ever further from the image, in either direction.
TrivialAugment uses its "wide" ones (arXiv 2103.10158 table 6).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from trainer.config.schema.preprocessing import PreprocessConfig
from trainer.data.images import operations
from trainer.data.images.draw import Draw
from trainer.data.images.operations import ImageOperation

RAND_AUGMENT_MAGNITUDES = 10.0  # the scale of the paper, arXiv 1909.13719 section 3
TRIVIAL_AUGMENT_STRENGTHS = 31  # evenly spaced, arXiv 2103.10158 section 3


@dataclasses.dataclass(frozen=True)
class Choice:
    """An operation, its largest strength for each policy, and whether its sign is drawn."""

    operation: ImageOperation
    rand_augment: float
    trivial_augment: float
    signed: bool


# in the order of the RandAugment paper, which the draws refer to
CHOICES = (
    Choice(operations.identity, 0.0, 0.0, False),
    Choice(operations.auto_contrast, 0.0, 0.0, False),
    Choice(operations.equalize, 0.0, 0.0, False),
    Choice(operations.rotate, 30.0, 135.0, True),
    Choice(operations.solarize, 256.0, 256.0, False),
    Choice(operations.color, 0.9, 0.99, True),
    Choice(operations.posterize, 4.0, 6.0, False),
    Choice(operations.contrast, 0.9, 0.99, True),
    Choice(operations.brightness, 0.9, 0.99, True),
    Choice(operations.sharpness, 0.9, 0.99, True),
    Choice(operations.shear_x, 0.3, 0.99, True),
    Choice(operations.shear_y, 0.3, 0.99, True),
    Choice(operations.translate_x, 150 / 331, 32 / 224, True),
    Choice(operations.translate_y, 150 / 331, 32 / 224, True),
)


def rand_augment(image: tf.Tensor, config: PreprocessConfig, draw: Draw) -> tf.Tensor:
    """``num_layers`` operations drawn with replacement, all of one magnitude (arXiv 1909.13719)."""
    policy = config.rand_augment
    largest = [choice.rand_augment * policy.magnitude / RAND_AUGMENT_MAGNITUDES for choice in CHOICES]
    numbers = draw.uniform("rand_augment", 2 * policy.num_layers)
    image = _as_uint8(image)
    for layer in range(policy.num_layers):
        image = _applied(image, largest, numbers[2 * layer], numbers[2 * layer + 1], tf.constant(1.0))
    return image


def trivial_augment(image: tf.Tensor, config: PreprocessConfig, draw: Draw) -> tf.Tensor:
    """One operation, of a strength drawn from 31 steps (arXiv 2103.10158). It has nothing to configure."""
    numbers = draw.uniform("trivial_augment", 3)
    step = tf.floor(numbers[2] * TRIVIAL_AUGMENT_STRENGTHS) / (TRIVIAL_AUGMENT_STRENGTHS - 1)
    largest = [choice.trivial_augment for choice in CHOICES]
    return _applied(_as_uint8(image), largest, numbers[0], numbers[1], step)


def _applied(
    image: tf.Tensor, largest: Sequence[float], which: tf.Tensor, sign: tf.Tensor, share: tf.Tensor
) -> tf.Tensor:
    """Apply the operation that ``which`` in [0, 1) draws, with ``share`` of its largest strength."""
    index = tf.cast(which * len(CHOICES), tf.int32)
    negative = tf.logical_and(sign < 0.5, tf.constant([choice.signed for choice in CHOICES])[index])
    strength = tf.constant(largest, tf.float32)[index] * share
    strength = tf.where(negative, -strength, strength)
    return tf.switch_case(index, [lambda each=choice: each.operation(image, strength) for choice in CHOICES])


def _as_uint8(image: tf.Tensor) -> tf.Tensor:
    return tf.image.convert_image_dtype(image, tf.uint8, saturate=True)
