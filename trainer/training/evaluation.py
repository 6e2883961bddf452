"""Exact evaluation over a whole split."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import tensorflow as tf

from trainer.data.batch import Batch
from trainer.data.supply import WaitEnded
from trainer.errors import UsageError


def evaluate(
    batches: Iterable[Batch], step: Callable[[Batch], tf.Tensor], interrupted: Callable[[], bool]
) -> dict[str, float] | None:
    """Mean ``loss`` (cross-entropy) and ``accuracy`` over every example once, or None when interrupted.

    ``skipped`` counts the examples that are not among them because they could not be used.

    Raises:
        UsageError: no example could be used, or a batch cannot be read.
        WaitEnded: a batch was not waited for, and the processes of the run have not agreed to end here.
    """
    totals, supply = tf.zeros([4], tf.float64), iter(batches)
    while True:
        try:
            batch = next(supply, None)
        except (UsageError, WaitEnded):
            if interrupted():  # all processes of the run have agreed to end here
                return None
            raise
        if batch is None:
            break
        if interrupted():
            return None
        totals += step(batch)
    loss, correct, weight, skipped = totals.numpy()
    if not weight:
        raise UsageError(f"none of the {int(skipped)} validation examples can be used; look at them with check-data")
    return {"loss": float(loss / weight), "accuracy": float(correct / weight), "skipped": int(skipped)}
