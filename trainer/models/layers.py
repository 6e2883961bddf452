"""Layers that Keras does not have in a form whose future is decided by the state tree alone."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("trainer")
class KeyedDropout(keras.layers.Layer):
    """Inverted dropout whose uniform draws are an input.

    ``keras.layers.Dropout`` keeps a seed generator, so what it drops depends on how many times it ran before and
    on the device. Here the caller brings one draw for each feature of each example, made from the global example
    number.

    Call arguments: ``[features, uniform]``, both ``[batch, channels]``; ``uniform`` in [0, 1).
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
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras's batch normalisation over the last axis, with its arithmetic in TensorFlow's fused kernels.

    The variables, their names, the configuration and the formulas (biased variance in the moving statistics
    too) are the base class's. What differs is one operation forward and one backward in place of the base class's
    tens: a third of the trace and start-up time of the whole network.

    Call argument: float ``[batch, height, width, channels]``; statistics are kept in float32.
    """

    def call(self, inputs: Any, training: bool = False, mask: None = None) -> Any:
        if training and self.synchronized and tf.distribute.get_strategy().num_replicas_in_sync > 1:
            return super().call(inputs, training=True)  # a fused kernel sees one replica's part only
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
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs, scale=scale, offset=self.beta, mean=[], variance=[], epsilon=self.epsilon, is_training=True
        )
        # the kernel reports the unbiased variance
        count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:-1]), tf.float32)
        variance = variance * ((count - 1.0) / count)
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + batch * (1.0 - self.momentum))
        return outputs
