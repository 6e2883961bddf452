"""Learning rate schedules as pure functions of the step: nothing to save, nothing to lose."""

from __future__ import annotations

import math

import tensorflow as tf

from trainer.config.schema.optimization import (
    ConstantScheduleConfig,
    CosineScheduleConfig,
    ExponentialScheduleConfig,
    ScheduleConfig,
    SchedulePlugin,
)


def learning_rate_at(step: tf.Tensor, peak: float, config: ScheduleConfig) -> tf.Tensor:
    """The learning rate, float32 ``[]``, of optimizer step ``step`` (int64 ``[]``, 0 for the first).

    Linear warm-up over ``warmup_steps`` (step k uses (k + 1) / warmup_steps of the scheduled rate), then:

    - constant: the peak.
    - exponential: peak × decay_rate^(step / decay_steps), the exponent rounded down with ``staircase``; not below
      ``minimum_fraction`` of the peak.
    - cosine: from the peak at the end of the warm-up to ``minimum_fraction`` of it at ``decay_steps``
      (arXiv 1608.03983, without restarts).
    - that of a plug-in: its own.

    Computed in float64: float32 cannot tell steps beyond 2^24 apart.
    """
    assert config.warmup_steps is not None
    position = tf.cast(step, tf.float64)
    match config:
        case ConstantScheduleConfig():
            factor = tf.ones([], tf.float64)
        case ExponentialScheduleConfig():
            assert config.decay_steps is not None
            exponent = position / config.decay_steps
            exponent = tf.floor(exponent) if config.staircase else exponent
            factor = tf.maximum(tf.pow(tf.cast(config.decay_rate, tf.float64), exponent), config.minimum_fraction)
        case CosineScheduleConfig():
            assert config.decay_steps is not None
            length = max(1, config.decay_steps - config.warmup_steps)
            progress = tf.clip_by_value((position - config.warmup_steps) / length, 0.0, 1.0)
            cosine = 0.5 * (1.0 + tf.cos(math.pi * progress))
            factor = config.minimum_fraction + (1.0 - config.minimum_fraction) * cosine
        case SchedulePlugin():
            factor = tf.cast(config.factor(position), tf.float64)
    if config.warmup_steps:
        factor *= tf.minimum((position + 1.0) / config.warmup_steps, 1.0)
    return tf.cast(peak * factor, tf.float32)
