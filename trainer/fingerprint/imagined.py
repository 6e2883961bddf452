"""Two replicas, one real and one imagined: what replicas exchange, without devices, threads or processes.

Several replicas run code that a single one does not: they divide the loss, sum gradients and average statistics. A run
may continue with any number of replicas. So a fingerprint must cover that code, and must find the same numbers on any
number of replicas. Here the code of ``trainer.distributed.replicas`` runs as the first of two replicas. Wherever it
asks for a sum over both, the other replica contributes 1.25 times the same numbers, in the opposite order; where it
asks for copies, 1.25 times the same. A real replica would not contribute these numbers, and need not: code that
exchanges something else gets other numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from trainer.distributed.replicas import Replicas

COUNT = 2
OTHERS_SHARE = 1.25  # exact in float32


class _First(tf.distribute.ReplicaContext):
    """The replica context of the first replica."""

    def all_reduce(self, reduce_op: Any, value: Any, options: Any = None) -> Any:
        assert reduce_op == tf.distribute.ReduceOp.SUM, "trainer.distributed.replicas asks for sums only"
        return tf.nest.map_structure(_with_others, value)

    def all_gather(self, value: Any, axis: Any, options: Any = None) -> Any:
        assert axis == 0, "trainer.distributed.replicas copies whole rows only"
        return tf.concat([value, OTHERS_SHARE * value], 0)


def _with_others(own: tf.Tensor) -> tf.Tensor:
    if not own.dtype.is_floating:
        return own * COUNT  # the ledger's entries and counts
    others = tf.reverse(own, [0]) if own.shape.rank else own
    return own + OTHERS_SHARE * others


class _Imagined(tf.distribute.OneDeviceStrategy):
    """TensorFlow's strategy for one device, which claims to have two."""

    @property
    def num_replicas_in_sync(self) -> int:
        return COUNT

    def run(self, fn: Callable[..., Any], args: Any = (), kwargs: Any = None, options: Any = None) -> Any:
        with _First(self, 0):
            return fn(*args, **(kwargs or {}))

    def experimental_local_results(self, value: Any) -> tuple[Any, ...]:
        return (value,)


def two_replicas() -> Replicas:
    """The first of two replicas, on the CPU."""
    return Replicas(_Imagined("/device:CPU:0"), here=COUNT)
