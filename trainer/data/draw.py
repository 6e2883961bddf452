"""Random numbers as pure functions of (seed, purpose, number)."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from trainer.randomness import derive_seed


@dataclasses.dataclass(frozen=True)
class Draw:
    """Random numbers for one ``number``, int64 ``[]``: that of an example or, for mixing, of a pair of them.

    Philox, whose values do not depend on the device.
    """

    seed: int
    number: tf.Tensor

    def uniform(self, purpose: str, count: int) -> tf.Tensor:
        """float32 ``[count]`` in [0, 1)."""
        return tf.random.stateless_uniform([count], self._key(purpose), alg="philox")

    def beta(self, purpose: str, concentration: float) -> tf.Tensor:
        """float32 ``[]`` from Beta(concentration, concentration), as x / (x + y) of two gamma variates."""
        pair = tf.random.stateless_gamma([2], self._key(purpose), concentration, dtype=tf.float64)
        return tf.cast(pair[0] / (pair[0] + pair[1]), tf.float32)

    def _key(self, purpose: str) -> tf.Tensor:
        return tf.stack([tf.constant(derive_seed(self.seed, purpose), tf.int64), self.number])
