"""What a replica computes from its examples: gradients, loss and hits, over one part or several one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from trainer.config.schema import Config
from trainer.data.batch import Batch
from trainer.data.images.mixing import mixed
from trainer.models.layers import momentum_at_most
from trainer.training.losses import correct, objective
from trainer.training.moving_statistics import largest_momentum
from trainer.training.state import TrainingState

# gradients of ``state.trained`` in order, times the loss scale where there is one; the objective and the number of
# correct predictions, float32 []
Computed = tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]


def make_gradients(state: TrainingState, config: Config) -> Callable[[Batch], Computed]:
    """A function from the examples of a replica, or of a logical one where there are any, to its shares of the global
    batch's results; summed over all of them, the shares are the results.
    """
    count = config.train.accumulate_steps
    shares = config.train.logical_replicas or state.replicas.count
    synchronized = config.model.batch_norm.synchronized and state.replicas.count > 1

    def of_part(part: Batch, number: tf.Tensor) -> Computed:
        part = mixed(part)
        with momentum_at_most(largest_momentum(state.progress, number, config)):
            outputs = state.model({"image": part["image"], "dropout": part["dropout"]}, training=True)
        loss = objective(outputs, part, state.trained.values(), config) / shares
        minimised = loss * state.progress.loss_scale if is_scaled(config) else loss
        # Where several branches meet, two gradients at a time are added: AddN of more begins with whichever input's
        # memory it can reuse, so its rounding depends on which operation happened to finish first.
        gradients = tf.gradients(
            minimised, list(state.trained.values()), aggregation_method=tf.AggregationMethod.EXPERIMENTAL_TREE
        )
        hits = tf.reduce_sum(tf.cast(correct(outputs["logits"], part), tf.float32))
        return gradients, loss, hits

    # tf.distribute cannot exchange what synchronised batch norm needs from within another function or a loop
    compute = of_part if synchronized else tf.function(of_part, jit_compile=config.runtime.xla, autograph=False)

    def accumulated(batch: Batch) -> Computed:
        """The mean over equal parts of the batch, one after the other: batch norm statistics move from part to part."""
        parts = {
            name: tf.reshape(tensor, [count, tensor.shape[0] // count, *tensor.shape[1:]])
            for name, tensor in batch.items()
        }

        def add(index: tf.Tensor, sums: list[tf.Tensor], loss_sum: tf.Tensor, hits: tf.Tensor) -> tuple[Any, ...]:
            gradients, loss, more = compute({name: tensor[index] for name, tensor in parts.items()}, index)
            added = [before + gradient for before, gradient in zip(sums, gradients, strict=True)]
            return index + 1, added, loss_sum + loss, hits + more

        zeros = [tf.zeros(variable.shape) for variable in state.trained.values()]
        sums: tuple[Any, ...] = (tf.constant(0), zeros, tf.constant(0.0), tf.constant(0.0))
        if synchronized:
            for _ in range(count):
                sums = add(*sums)
        else:
            sums = tf.while_loop(
                lambda index, *_: index < count, add, sums, parallel_iterations=1, maximum_iterations=count
            )
        _, gradients, loss, hits = sums
        return [gradient / count for gradient in gradients], loss / count, hits

    return accumulated if count > 1 else lambda batch: compute(batch, tf.constant(0))


def is_scaled(config: Config) -> bool:
    return config.runtime.precision == "mixed_float16"
