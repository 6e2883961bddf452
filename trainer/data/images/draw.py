"""Random numbers as pure functions of (seed, purpose, number)."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from trainer.runtime.seeds import derive_seed

PHILOX = tf.random.Algorithm.PHILOX.value


@dataclasses.dataclass(frozen=True)
class Draw:
    """Random numbers for one ``number``, int64 ``[]``: that of an example or, for mixing, of a pair of them.

    Philox, whose values do not depend on the device.
    """

    seed: int
    number: tf.Tensor

    def uniform(self, purpose: str, count: int) -> tf.Tensor:
        """float32 ``[count]`` in [0, 1).

        ``tf.random.stateless_uniform`` would hash its seed and scale the numbers: three times the operations, and for a
        handful of numbers the operations are the cost. Here the purpose is Philox's key and the number the high half of
        its counter, whose low half counts the blocks of one draw.
        """
        key = tf.constant([derive_seed(self.seed, purpose)], tf.uint64)
        counter = tf.stack([tf.constant(0, tf.uint64), tf.cast(self.number, tf.uint64)])
        return tf.raw_ops.StatelessRandomUniformV2(shape=[count], key=key, counter=counter, alg=PHILOX)

    def beta(self, purpose: str, concentration: float) -> tf.Tensor:
        """float32 ``[]`` from Beta(concentration, concentration), as x / (x + y) of two gamma variates."""
        seed = tf.stack([tf.constant(derive_seed(self.seed, purpose), tf.int64), self.number])
        pair = tf.random.stateless_gamma([2], seed, concentration, dtype=tf.float64)
        return tf.cast(pair[0] / (pair[0] + pair[1]), tf.float32)
