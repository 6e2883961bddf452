"""The compiled functions: one optimizer step, and the sums over one evaluation batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import tensorflow as tf

from trainer.config.schema import Config, WeightsName
from trainer.data.ledger import CHAIN_FACTOR
from trainer.data.mixing import mixed
from trainer.diagnosis.architecture import HEADS, unit_of
from trainer.loss_scale import all_finite, update_loss_scale
from trainer.losses import correct, cross_entropy, objective
from trainer.schedules import learning_rate_at
from trainer.state import TrainingState, variable_name

Batch = dict[str, tf.Tensor]
COUNTED = ("ledger", "substituted")  # what of a batch the network does not see


def _make_gradients(
    state: TrainingState, config: Config
) -> Callable[[Batch], tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]]:
    """A function from a batch to the gradients of ``state.trainable`` in order, times the loss scale where there is
    one, the objective float32 ``[]`` and the number of correct predictions int64 ``[]``.
    """

    @tf.function(jit_compile=config.runtime.xla, autograph=False)
    def gradients_of(part: Batch) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
        part = mixed(part)
        with tf.GradientTape() as tape:
            outputs = state.model({"image": part["image"], "dropout": part["dropout"]}, training=True)
            loss = objective(outputs, part, state.trainable.values(), config)
            minimised = loss * state.progress.loss_scale if _is_scaled(config) else loss
        gradients = tape.gradient(minimised, list(state.trainable.values()))
        hits = tf.reduce_sum(tf.cast(correct(outputs["logits"], part), tf.int64))
        return gradients, loss, hits

    def accumulated(batch: Batch) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
        """The mean over equal parts of the batch, one after the other."""
        count = config.train.accumulate_steps
        parts = {
            name: tf.reshape(tensor, [count, tensor.shape[0] // count, *tensor.shape[1:]])
            for name, tensor in batch.items()
        }

        def body(index: tf.Tensor, sums: list[tf.Tensor], loss_sum: tf.Tensor, hits: tf.Tensor) -> tuple[object, ...]:
            gradients, loss, more = gradients_of({name: tensor[index] for name, tensor in parts.items()})
            added = [total + gradient for total, gradient in zip(sums, gradients, strict=True)]
            return index + 1, added, loss_sum + loss, hits + more

        zeros = [tf.zeros(variable.shape) for variable in state.trainable.values()]
        start = (tf.constant(0), zeros, tf.constant(0.0), tf.constant(0, tf.int64))
        # parallel_iterations=1: batch norm statistics move from part to part
        _, sums, loss_sum, hits = tf.while_loop(
            lambda index, *_: index < count, body, start, parallel_iterations=1, maximum_iterations=count
        )
        return [total / count for total in sums], loss_sum / count, hits

    return gradients_of if config.train.accumulate_steps == 1 else accumulated


def _is_scaled(config: Config) -> bool:
    return config.runtime.precision == "mixed_float16"


def make_train_step(state: TrainingState, config: Config) -> Callable[[Batch], None]:
    """A compiled function that takes one batch of ``training_batches`` and advances ``state`` by one step.

    Everything it changes is in the state tree; nothing comes back to the host.
    """
    progress = state.progress
    scaled = _is_scaled(config)
    gradients_of = _make_gradients(state, config)
    statistics = [variable for name, variable in state.variables.items() if name not in state.trainable]

    def optimize(gradients: list[tf.Tensor], names: Iterable[str]) -> None:
        rate = learning_rate_at(progress.step, config.optimizer.learning_rate, config.schedule)
        by_name = dict(zip(state.trainable, gradients, strict=True))
        state.optimizer.apply({name: by_name[name] for name in names}, rate, progress.step)

    def optimize_classifiers_first(before: list[tf.Tensor], gradients: list[tf.Tensor]) -> None:
        frozen = progress.step < config.fine_tuning.freeze_until_step

        def classifiers() -> tf.Tensor:
            optimize(gradients, [name for name in state.trainable if unit_of(name) in HEADS])
            put_back(before)
            return frozen

        def everything() -> tf.Tensor:
            optimize(gradients, state.trainable)
            return frozen

        tf.cond(frozen, classifiers, everything)

    def put_back(before: list[tf.Tensor]) -> None:
        """Undo what the forward pass has done to the batch norm statistics."""
        for variable, value in zip(statistics, before, strict=True):
            variable.assign(value)

    def update(before: list[tf.Tensor], gradients: list[tf.Tensor], loss: tf.Tensor, hits: tf.Tensor) -> None:
        if config.fine_tuning.freeze_until_step:
            optimize_classifiers_first(before, gradients)
        else:
            optimize(gradients, state.trainable)
        _update_average(state, config)
        progress.loss_sum.assign_add(loss)
        progress.correct.assign_add(hits)
        progress.seen.assign_add(config.train.global_batch_size)
        progress.steps_summed.assign_add(1)

    def update_if_finite(before: list[tf.Tensor], gradients: list[tf.Tensor], loss: tf.Tensor, hits: tf.Tensor) -> None:
        gradients = [gradient / progress.loss_scale for gradient in gradients]
        finite = all_finite([loss, *gradients])

        def go() -> tf.Tensor:
            update(before, gradients, loss, hits)
            return finite

        def skip() -> tf.Tensor:
            put_back(before)
            return finite

        tf.cond(finite, go, skip)
        update_loss_scale(progress, finite, config.loss_scale)

    @tf.function(autograph=False)
    def train_step(batch: Batch) -> None:
        examples = {name: tensor for name, tensor in batch.items() if name not in COUNTED}
        before = []  # batch norm statistics, where a step may have to leave them as they were
        if scaled or config.fine_tuning.freeze_until_step:
            before = [tf.identity(variable) for variable in statistics]
        (update_if_finite if scaled else update)(before, *gradients_of(examples))
        progress.step.assign_add(1)
        progress.examples.assign_add(config.train.global_batch_size)
        progress.ledger.assign(progress.ledger * CHAIN_FACTOR + tf.reduce_sum(batch["ledger"]))
        progress.substituted.assign_add(tf.reduce_sum(batch["substituted"]))

    return train_step


def _update_average(state: TrainingState, config: Config) -> None:
    """Move the shadow variables by slim's rule (``tf.train.ExponentialMovingAverage`` with ``num_updates``)."""
    if config.ema.decay is None:
        return
    decay = tf.constant(config.ema.decay, tf.float32)
    if config.ema.warmup:
        updates = tf.cast(state.progress.step, tf.float32)
        decay = tf.minimum(decay, (1.0 + updates) / (10.0 + updates))
    for name, shadow in state.ema.items():
        shadow.assign_sub((shadow - state.variables[name]) * (1.0 - decay))


def inference(state: TrainingState, weights: WeightsName) -> Callable[[tf.Tensor], tf.Tensor]:
    """The network in inference mode: from images float32 ``[n, S, S, 3]`` to logits float32 ``[n, classes]``."""
    values = state.weights(weights)
    trainable = [values[variable_name(variable)] for variable in state.model.trainable_variables]
    fixed = [values[variable_name(variable)] for variable in state.model.non_trainable_variables]

    def logits_of(images: tf.Tensor) -> tf.Tensor:
        unused = tf.zeros([tf.shape(images)[0], state.dropout_features])
        inputs = {"image": images, "dropout": unused}
        outputs, _ = state.model.stateless_call(trainable, fixed, inputs, training=False)
        return outputs["logits"]

    return logits_of


def make_evaluation_step(state: TrainingState, config: Config) -> Callable[[Batch], tf.Tensor]:
    """A compiled function from one batch of ``evaluation_batches`` to its ``evaluation_sums``."""
    logits_of = inference(state, config.evaluation.weights)

    @tf.function(autograph=False)
    def evaluation_step(batch: Batch) -> tf.Tensor:
        return evaluation_sums(logits_of(batch["image"]), batch)

    return evaluation_step


def evaluation_sums(logits: tf.Tensor, batch: Batch) -> tf.Tensor:
    """Sums over a batch, float64 ``[4]``: of cross-entropy (without smoothing), correct predictions, weight, and
    examples that were skipped.
    """
    weight = batch["weight"]
    sums = [
        cross_entropy(logits, batch["label"]) * weight,
        tf.cast(correct(logits, batch), tf.float32) * weight,
        weight,
        batch["skipped"],
    ]
    return tf.stack([tf.reduce_sum(tf.cast(each, tf.float64)) for each in sums])


def make_prediction_step(
    state: TrainingState, weights: WeightsName, *, flip: bool
) -> Callable[[Batch], tuple[tf.Tensor, dict[str, tf.Tensor]]]:
    """A compiled function from one batch of ``evaluation_batches`` to its ``evaluation_sums`` and, for each example,
    the ``predicted`` class int64 ``[B]``, its probability ``confidence`` float32 ``[B]`` and ``in_top_5`` bool ``[B]``.

    With ``flip`` the probabilities are the mean of those of the image and of its mirror image.
    """
    logits_of = inference(state, weights)

    @tf.function(autograph=False)
    def prediction_step(batch: Batch) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        logits = logits_of(batch["image"])
        if flip:
            mirrored = logits_of(tf.reverse(batch["image"], [2]))
            views = tf.stack([tf.nn.log_softmax(logits), tf.nn.log_softmax(mirrored)])
            logits = tf.reduce_logsumexp(views, axis=0)  # but for a constant, which softmax does not see
        predictions = {
            "predicted": tf.argmax(logits, axis=-1),
            "confidence": tf.reduce_max(tf.nn.softmax(logits), axis=-1),
            "in_top_5": tf.math.in_top_k(batch["label"], logits, 5),
        }
        return evaluation_sums(logits, batch), predictions

    return prediction_step
