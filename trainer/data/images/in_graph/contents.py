"""Numbers and pieces at places in the bytes of a file. All tensors are scalars, places and lengths int64."""

from __future__ import annotations

import tensorflow as tf

PADDING = 16  # zeros behind the last byte, so that a number that ends there is read without a branch


class Contents:
    """The bytes of ``data``, string ``[]``. What lies outside reads as 0, or is missing from a piece: who reads
    compares with ``length``, int64 ``[]``.
    """

    def __init__(self, data: tf.Tensor) -> None:
        self.data = data
        self.length = tf.cast(tf.strings.length(data), tf.int64)
        self._values = tf.io.decode_raw(tf.strings.join([data, tf.constant(bytes(PADDING))]), tf.uint8)

    def number(self, place: tf.Tensor, size: int, *, big: bool | tf.Tensor) -> tf.Tensor:
        """The ``size`` bytes from ``place`` on, at most 4, as a number without a sign; ``big``: the first byte is the
        highest.
        """
        powers = [256**power for power in range(size)]
        # reversed here: TensorFlow's optimizer takes a small vector of integers for a shape, and logs an error where a
        # graph reverses it
        chosen = tf.where(big, tf.constant(powers[::-1], tf.int64), tf.constant(powers, tf.int64))
        return tf.reduce_sum(self._bytes(place, size) * chosen)

    def byte(self, place: tf.Tensor) -> tf.Tensor:
        return self._bytes(place, 1)[0]

    def piece(self, begin: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
        """The bytes from ``begin`` to before ``end``, string: those of them that there are."""
        begin = tf.clip_by_value(begin, 0, self.length)
        return tf.strings.substr(self.data, begin, tf.maximum(tf.minimum(end, self.length) - begin, 0))

    def begins(self, place: tf.Tensor, text: bytes) -> tf.Tensor:
        """Whether ``text`` stands at ``place``."""
        return tf.equal(self.piece(place, place + len(text)), text)

    def _bytes(self, place: tf.Tensor, size: int) -> tf.Tensor:
        place = tf.clip_by_value(place, 0, self.length)
        return tf.cast(self._values[place : place + size], tf.int64)
