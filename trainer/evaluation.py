"""Exact evaluation over a whole split."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import tensorflow as tf

from trainer.classification_report import ClassificationReport, Tally
from trainer.errors import UsageError
from trainer.gradients import Batch


def evaluate(
    batches: Iterable[Batch], step: Callable[[Batch], tf.Tensor], interrupted: Callable[[], bool]
) -> dict[str, float] | None:
    """Mean ``loss`` (cross-entropy) and ``accuracy`` over every example once, or None when interrupted.

    ``skipped`` is how many examples are not among them because they could not be used.

    Raises:
        UsageError: no example could be used, or a batch cannot be read.
    """
    totals, supply = tf.zeros([4], tf.float64), iter(batches)
    while True:
        try:
            batch = next(supply, None)
        except UsageError:
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


def classification_report(
    batches: Iterable[Batch],
    step: Callable[[Batch], tuple[tf.Tensor, dict[str, tf.Tensor]]],
    class_names: tuple[str, ...],
    classes: int,
) -> ClassificationReport:
    """``evaluate`` with everything else that the predictions tell. ``step`` is a ``make_prediction_step``.

    ``classes`` is the size of the classifier; those beyond the data's ``class_names`` go by their number.
    """
    tally = Tally(classes)

    def counted(batch: Batch) -> tf.Tensor:
        sums, predictions = step(batch)
        there = batch["weight"].numpy() > 0.0  # the last batch is filled up, and a bad record is not there
        columns = [batch["label"], *(predictions[name] for name in ("predicted", "confidence", "in_top_5"))]
        tally.add(*(column.numpy()[there] for column in columns))
        return sums

    means = evaluate(batches, counted, lambda: False)
    assert means is not None
    return ClassificationReport(
        class_names=(*class_names, *map(str, range(len(class_names), classes))),
        examples=int(tally.confusion.sum()),
        loss=means["loss"],
        accuracy=means["accuracy"],
        top_5_accuracy=tally.top_5_accuracy,
        expected_calibration_error=tally.expected_calibration_error,
        confusion=tally.confusion,
    )
