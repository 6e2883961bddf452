"""Learning rate schedules as pure functions of the step: nothing to save, nothing to lose."""

from __future__ import annotations

import math

import tensorflow as tf

from trainer.config.ranges import to_range
from trainer.config.registry import builder_of
from trainer.config.schema import Config
from trainer.config.schema.optimization import (
    ConstantScheduleConfig,
    CosineScheduleConfig,
    ExponentialScheduleConfig,
    ScheduleConfig,
    SchedulePlugin,
)


def constant(config: ConstantScheduleConfig, position: tf.Tensor) -> tf.Tensor:
    return tf.ones([], tf.float64)


def exponential(config: ExponentialScheduleConfig, position: tf.Tensor) -> tf.Tensor:
    """decay_rate^(step / decay_steps), the exponent rounded down with ``staircase``; not below ``minimum_fraction``."""
    assert config.decay_steps is not None
    exponent = position / config.decay_steps
    exponent = tf.floor(exponent) if config.staircase else exponent
    return tf.maximum(tf.pow(tf.cast(config.decay_rate, tf.float64), exponent), config.minimum_fraction)


def cosine(config: CosineScheduleConfig, position: tf.Tensor) -> tf.Tensor:
    """From 1 at the end of the warm-up to ``minimum_fraction`` at ``decay_steps`` (arXiv 1608.03983, without
    restarts).
    """
    assert config.decay_steps is not None
    assert config.warmup_steps is not None
    length = max(1, config.decay_steps - config.warmup_steps)
    progress = tf.clip_by_value((position - config.warmup_steps) / length, 0.0, 1.0)
    cosine = 0.5 * (1.0 + tf.cos(math.pi * progress))
    return config.minimum_fraction + (1.0 - config.minimum_fraction) * cosine


def plugged(config: SchedulePlugin, position: tf.Tensor) -> tf.Tensor:
    return tf.cast(config.factor(position), tf.float64)


def learning_rate(step: tf.Tensor, examples: tf.Tensor, config: Config) -> tf.Tensor:
    """The learning rate, float32 ``[]``, of optimizer step ``step`` whose first example is number ``examples``: that of
    the schedule, times ``divergence.learning_rate_factor`` for each entry of ``train.skip_examples`` that begins before
    the step ends.
    """
    rate = learning_rate_at(step, config.optimizer.learning_rate, config.schedule)
    if not config.train.skip_examples or config.divergence.learning_rate_factor == 1.0:
        return rate
    return rate * left_by_rollbacks(examples, config)


def left_by_rollbacks(examples: tf.Tensor, config: Config) -> tf.Tensor:
    """What rollbacks have left of the learning rate, float32 ``[]``, at the step whose first example is number
    ``examples``.
    """
    entries, factor = config.train.skip_examples, config.divergence.learning_rate_factor
    begins = tf.constant([to_range("train.skip_examples", entry).start for entry in entries], tf.int64)
    reached = tf.reduce_sum(tf.cast(begins < examples + config.train.global_batch_size, tf.float64))
    return tf.cast(tf.pow(tf.constant(factor, tf.float64), reached), tf.float32)


def learning_rate_at(step: tf.Tensor, peak: float, config: ScheduleConfig) -> tf.Tensor:
    """The learning rate, float32 ``[]``, of optimizer step ``step`` (int64 ``[]``, 0 for the first).

    It is the share of the peak that the schedule's builder computes, float64 ``[]``, from its keys and the step,
    float64 ``[]``, times a linear warm-up: during ``warmup_steps`` step k has (k + 1) / warmup_steps of it.

    Computed in float64, because float32 cannot represent every step beyond 2^24.
    """
    assert config.warmup_steps is not None
    position = tf.cast(step, tf.float64)
    factor = builder_of(config)(config, position)
    if config.warmup_steps:
        factor *= tf.minimum((position + 1.0) / config.warmup_steps, 1.0)
    return tf.cast(peak * factor, tf.float32)
