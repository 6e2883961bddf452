"""Exact evaluation over a whole split."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import tensorflow as tf

from trainer.step import Batch


def evaluate(
    batches: Iterable[Batch], step: Callable[[Batch], tf.Tensor], interrupted: Callable[[], bool]
) -> dict[str, float] | None:
    """Mean ``loss`` (cross-entropy) and ``accuracy`` over every example once, or None when interrupted."""
    totals = tf.zeros([3], tf.float64)
    for batch in batches:
        if interrupted():
            return None
        totals += step(batch)
    loss, correct, weight = totals.numpy()
    return {"loss": float(loss / weight), "accuracy": float(correct / weight)}
