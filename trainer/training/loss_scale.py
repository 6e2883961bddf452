"""Dynamic loss scale for float16 gradients (arXiv 1710.03740 section 3.2; rule of keras.optimizers.LossScaleOptimizer).

The loss is multiplied so that small gradients do not vanish in float16. A step whose gradients are not finite is
skipped: it moves the position and halves the scale, and leaves weights, slots, averages and statistics as they were.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from trainer.config.schema.training import LossScaleConfig
from trainer.training.state import Progress

FACTOR = 2.0  # a power of two: scaling is exact
MINIMUM = 1.0


def all_finite(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Whether no value is a NaN or an infinity, bool ``[]``."""
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(tensor)) for tensor in tensors])


def update_loss_scale(progress: Progress, finite: tf.Tensor, config: LossScaleConfig) -> None:
    """Halve the scale after a step that was not ``finite``; double it after ``growth_steps`` that were."""
    finite_steps = tf.where(finite, progress.finite_steps + 1, tf.constant(0, tf.int64))
    grown = finite_steps >= config.growth_steps
    larger = tf.where(grown, progress.loss_scale * FACTOR, progress.loss_scale)
    # a scale that is infinite itself could never come down again
    larger = tf.where(tf.math.is_finite(larger), larger, progress.loss_scale)
    smaller = tf.maximum(progress.loss_scale / FACTOR, MINIMUM)
    progress.loss_scale.assign(tf.where(finite, larger, smaller))
    progress.finite_steps.assign(tf.where(grown, tf.constant(0, tf.int64), finite_steps))
    progress.skipped_steps.assign_add(tf.cast(~finite, tf.int64))
