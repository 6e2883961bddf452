"""How fast averages over the steps of a run forget what they began with.

Batch norm's moving statistics begin at mean 0 and variance 1, which describe no data. With a constant momentum, their
share is ``momentum ** updates``: after 255 updates with the published 0.9997, 93 %. With the warm-up of
``tf.train.ExponentialMovingAverage`` the momentum follows the number of updates, so the statistics are those of about
the last tenth of a run of any length, until the configured momentum is reached.

The number of updates comes from the state tree, so it does not depend on how a run is cut.
"""

from __future__ import annotations

import tensorflow as tf

from trainer.config.schema import Config
from trainer.training.state import Progress

# Statistics of other weights describe data, so no single batch replaces them: 81 / 90 is a momentum of 0.9, as in
# experiment=finetune. They are as good as forgotten after some tens of steps.
SETTLED = 80


def warming_up(updates: tf.Tensor) -> tf.Tensor:
    """The largest share of an average that an update keeps after so many ``updates``; both float32 ``[]``."""
    return (1.0 + updates) / (10.0 + updates)


def largest_momentum(progress: Progress, part: tf.Tensor, config: Config) -> tf.Tensor | None:
    """The largest momentum for the batch norm statistics in a part of the present step, float32 ``[]``; None: any.

    ``part`` is the part's number within the batch, int32 ``[]``. Every part is an update. Steps without one do not
    count: those with a frozen body, and those that a loss scale skips.
    """
    norm = config.model.batch_norm
    if not norm.warmup:
        return None
    assert norm.initial_updates is not None, "complete() fills it in"
    without = config.fine_tuning.freeze_until_step + progress.skipped_steps
    steps = tf.maximum(progress.step - without, tf.constant(0, tf.int64))
    updates = steps * config.train.accumulate_steps + tf.cast(part, tf.int64) + norm.initial_updates
    return warming_up(tf.cast(updates, tf.float32))
