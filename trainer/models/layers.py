"""Layers that Keras does not have in a form whose future is decided by the state tree alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.distributed.replicas import assign, count_here, gathered

# a functional model passes nothing but tensors from layer to layer, and this is none that a user feeds
_LARGEST_MOMENTUM: ContextVar[tf.Tensor | None] = ContextVar("_LARGEST_MOMENTUM", default=None)


@contextmanager
def momentum_at_most(largest: tf.Tensor | None) -> Iterator[None]:
    """Within the block, no ``FusedBatchNormalization`` keeps a larger share of its moving statistics than ``largest``,
    float32 ``[]``. None: each has its own momentum.
    """
    token = _LARGEST_MOMENTUM.set(largest)
    try:
        yield
    finally:
        _LARGEST_MOMENTUM.reset(token)


@keras.saving.register_keras_serializable("trainer")
class KeyedDropout(keras.layers.Layer):
    """Inverted dropout whose uniform draws are an input.

    ``keras.layers.Dropout`` keeps a seed generator, so what it drops depends on how many times it ran before and
    on the device. Here the caller brings one draw for each feature of each example, made from the global example
    number.

    Call arguments: ``[features, uniform]``, both ``[batch, channels]``; ``uniform`` in [0, 1). Both may have more
    dimensions; where ``uniform`` has a 1, all of it is kept or dropped together.
    """

    def __init__(self, rate: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = rate

    def call(self, inputs: list[Any], training: bool = False) -> Any:
        features, uniform = inputs
        if not training or self.rate == 0.0:
            return features
        keep = keras.ops.cast(uniform >= self.rate, features.dtype)
        return features * keep * (1.0 / (1.0 - self.rate))

    def compute_output_shape(self, input_shape: list[Any]) -> Any:
        return input_shape[0]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate}


@keras.saving.register_keras_serializable("trainer")
class Draws(keras.layers.Layer):
    """The draws of one dropout layer among those of the whole network: ``prod(shape)`` of them, from ``first`` on.

    Call argument: ``[batch, draws]``; the result is ``[batch, *shape]``.
    """

    def __init__(self, first: int, shape: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.first, self.shape = first, tuple(shape)

    def call(self, inputs: Any) -> Any:
        own = inputs[:, self.first : self.first + math.prod(self.shape)]
        return keras.ops.reshape(own, (-1, *self.shape))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (input_shape[0], *self.shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "first": self.first, "shape": self.shape}


@keras.saving.register_keras_serializable("trainer")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras's batch normalisation over the last axis, with its arithmetic in TensorFlow's fused kernels.

    The variables, their names and the formulas (biased variance in the moving statistics too) are the base class's.
    What differs is one operation forward and one backward in place of the base class's tens: a third of the trace and
    start-up time of the whole network.

    With ``synchronized`` the statistics are those of all replicas' examples together; without it, of groups of
    ``group_size`` neighbouring examples ("ghost batch normalisation", arXiv 1705.08741), whose mean goes into the
    moving statistics. Neither depends on the number of replicas. With groups, a replica's copy of the moving statistics
    covers its own groups only, until ``average_statistics`` is called.

    A ``frozen`` layer normalises by its moving statistics in training as in inference, and does not move them.

    Call argument: float ``[batch, height, width, channels]``; statistics are kept in float32. In training without
    ``synchronized``, ``group_size`` divides the replica's batch.
    """

    def __init__(self, group_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.group_size = group_size
        self.frozen = False

    def call(self, inputs: Any, training: bool = False, mask: None = None) -> Any:
        scale = self.gamma if self.scale else tf.ones_like(self.beta.value)
        if not training:
            outputs, *_ = tf.raw_ops.FusedBatchNormV3(
                x=inputs,
                scale=scale,
                offset=self.beta,
                mean=self.moving_mean,
                variance=self.moving_variance,
                epsilon=self.epsilon,
                is_training=False,
            )
            return outputs
        if self.frozen:
            return self._by_moving_statistics(inputs, scale)
        if not self.synchronized:
            outputs, mean, variance = self._in_groups(inputs, scale)
        elif count_here() > 1:
            outputs, mean, variance = self._over_replicas(inputs, scale)
        else:
            outputs, mean, variance = self._fused(inputs, scale)
        momentum = self._momentum_now()
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            assign(moving.value, moving * momentum + batch * (1.0 - momentum))
        return outputs

    def _by_moving_statistics(self, inputs: Any, scale: Any) -> Any:
        """As in inference, in plain operations: the gradient of the fused one has no deterministic kernel on a GPU."""
        factor = tf.math.rsqrt(self.moving_variance + self.epsilon) * scale
        values = tf.cast(inputs, tf.float32)
        return tf.cast(values * factor + (self.beta - self.moving_mean * factor), inputs.dtype)

    def _momentum_now(self) -> Any:
        largest = _LARGEST_MOMENTUM.get()
        return self.momentum if largest is None else tf.minimum(self.momentum, largest)

    def _fused(self, inputs: Any, scale: Any) -> tuple[Any, Any, Any]:
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs, scale=scale, offset=self.beta, mean=[], variance=[], epsilon=self.epsilon, is_training=True
        )
        # the kernel reports the unbiased variance
        count = _values_of_a_channel(inputs)
        return outputs, mean, variance * ((count - 1.0) / count)

    def _in_groups(self, inputs: Any, scale: Any) -> tuple[Any, Any, Any]:
        count = inputs.shape[0] // self.group_size
        groups = [self._fused(group, scale) for group in tf.split(inputs, count)]
        outputs, means, variances = zip(*groups, strict=True)
        return tf.concat(outputs, 0), tf.reduce_mean(tf.stack(means), 0), tf.reduce_mean(tf.stack(variances), 0)

    def _over_replicas(self, inputs: Any, scale: Any) -> tuple[Any, Any, Any]:
        """A fused kernel sees one replica's part only; here the moments of all parts are exchanged, at once."""
        axes = [0, 1, 2]
        values = tf.cast(inputs, tf.float32)
        own_mean = tf.reduce_mean(values, axes)
        own_variance = tf.reduce_mean(tf.math.squared_difference(values, own_mean), axes)
        means, variances = tf.unstack(gathered(tf.stack([own_mean, own_variance])), axis=1)
        mean = tf.reduce_mean(means, 0)
        variance = tf.reduce_mean(variances + tf.math.squared_difference(means, mean), 0)
        factor = tf.math.rsqrt(variance + self.epsilon) * scale
        return tf.cast((values - mean) * factor + self.beta, inputs.dtype), mean, variance

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "group_size": self.group_size}


def slowest_momentum(model: keras.Model) -> float:
    """The largest momentum of the batch norm layers of ``model`` whose statistics move; 0 without any."""
    layers = [layer for layer in model.layers if isinstance(layer, FusedBatchNormalization) and not layer.frozen]
    return max((float(layer.momentum) for layer in layers), default=0.0)


def _values_of_a_channel(inputs: Any) -> Any:
    """How many numbers a mean is over, float32 ``[]``; no operations where the shape is known, as in training."""
    shape = inputs.shape[:-1]
    if shape.is_fully_defined():
        return np.float32(shape.num_elements())
    return tf.cast(tf.reduce_prod(tf.shape(inputs)[:-1]), tf.float32)
