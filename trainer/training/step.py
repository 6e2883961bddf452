"""The compiled functions: one optimizer step, and the sums over one evaluation batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import tensorflow as tf

from trainer.config.schema import Config
from trainer.config.schema.training import WeightsName
from trainer.data.batch import Batch
from trainer.data.order.ledger import CHAIN_FACTOR
from trainer.distributed import exchange
from trainer.distributed.logical_replicas import added, in_turn, total_in_order
from trainer.distributed.replicas import Rows, assign, assign_sub, copies, gathered, total
from trainer.distributed.stragglers import Marks, moment
from trainer.training.divergence import Judged, make_judge
from trainer.training.gradients import is_scaled, make_gradients
from trainer.training.loss_scale import all_finite, update_loss_scale
from trainer.training.losses import correct, cross_entropy
from trainer.training.moving_statistics import warming_up
from trainer.training.schedules import learning_rate
from trainer.training.state import TrainingState, variable_name

TRAIN_STEP, EVALUATION_STEP = "train_step", "evaluation_step"  # in the start cache
COUNTED = ("ledger", "substituted")  # columns of a batch that the network does not see


class Told(NamedTuple):
    """What a step reports. Nothing waits for these values unless they are read."""

    loss: tf.Tensor  # float32 [], the objective of this step alone
    gradient_norm: tf.Tensor  # float32 [], before clipping; zero at steps without a training record that are not judged
    marks: Marks  # of the exchange with other processes; empty when there are none
    judged: Judged | None = None  # with train.on_divergence=rollback

    @staticmethod
    def of(values: Sequence[tf.Tensor]) -> Told:
        """What a step of one process reports, of the tensors in it, in order."""
        loss, norm, *judged = values
        return Told(loss, norm, (), Judged(*judged) if judged else None)


class Made(NamedTuple):
    """The results of a step over the whole global batch, besides the variables it changed."""

    loss: tf.Tensor  # float32 []
    hits: tf.Tensor  # float32 [], correct predictions
    finite: tf.Tensor  # bool [], whether the variables were changed
    gradient_norm: tf.Tensor  # float32 [], see Told
    ledger: tf.Tensor  # int64 [], sum of the examples' entries
    substituted: tf.Tensor  # int64 []
    marks: Marks
    sound: tf.Tensor | None  # bool [], whether all variables of the network are finite; None where nothing is judged


Update = Callable[[list[tf.Tensor], list[tf.Tensor], tf.Tensor], tf.Tensor]


def _make_update(state: TrainingState, config: Config, statistics: Sequence[tf.Variable]) -> Update:
    """A function that updates a replica's variables by the whole batch's gradients and returns whether it did: bool
    ``[]``, false if they are not finite and the loss scale has yet to settle.

    Its arguments: ``statistics`` as they were before the forward pass, gradients of ``state.trained`` in order, loss.
    """
    progress = state.progress

    def optimize(gradients: list[tf.Tensor], names: Iterable[str]) -> None:
        rate = learning_rate(progress.step, progress.examples, config)
        by_name = dict(zip(state.trained, gradients, strict=True))
        state.optimizer.apply({name: by_name[name] for name in names}, rate, progress.step)

    def optimize_classifiers_first(before: list[tf.Tensor], gradients: list[tf.Tensor]) -> None:
        frozen = progress.step < config.fine_tuning.freeze_until_step

        def classifiers() -> tf.Tensor:
            optimize(gradients, [name for name in state.trained if state.tuning.is_of_head(name)])
            put_back(before)
            return frozen

        def everything() -> tf.Tensor:
            optimize(gradients, state.trained)
            return frozen

        tf.cond(frozen, classifiers, everything)

    def put_back(before: list[tf.Tensor]) -> None:
        """Undo what the forward pass has done to the batch norm statistics."""
        for variable, value in zip(statistics, before, strict=True):
            assign(variable, value)

    def update(before: list[tf.Tensor], gradients: list[tf.Tensor]) -> None:
        if config.fine_tuning.freeze_until_step:
            optimize_classifiers_first(before, gradients)
        else:
            optimize(gradients, state.trained)
        _update_average(state, config)

    def update_if_finite(before: list[tf.Tensor], gradients: list[tf.Tensor], loss: tf.Tensor) -> tf.Tensor:
        gradients = [gradient / progress.loss_scale for gradient in gradients]
        finite = all_finite([loss, *gradients])

        def go() -> tf.Tensor:
            update(before, gradients)
            return finite

        def skip() -> tf.Tensor:
            put_back(before)
            return finite

        tf.cond(finite, go, skip)
        return finite

    def update_always(before: list[tf.Tensor], gradients: list[tf.Tensor], loss: tf.Tensor) -> tf.Tensor:
        update(before, gradients)
        return tf.constant(True)

    return update_if_finite if is_scaled(config) else update_always


def _make_share(
    state: TrainingState, config: Config, moved: Sequence[tf.Variable]
) -> Callable[[Rows], list[tf.Tensor]]:
    """A function from a replica's examples to what it adds to the sums over the global batch: loss, hits, gradients of
    ``state.trained`` in order, and the statistics ``moved`` by the forward pass.

    Every logical replica moves the statistics from the same values, which are there again afterwards.
    """
    gradients_of = make_gradients(state, config)

    def share(examples: Rows) -> list[tf.Tensor]:
        gradients, loss, hits = gradients_of(dict(examples))
        return [loss, hits, *gradients, *(tf.convert_to_tensor(variable) for variable in moved)]

    def logical_share(examples: Rows) -> list[tf.Tensor]:
        before = [tf.identity(variable) for variable in moved]
        values = share(examples)
        for variable, value in zip(moved, before, strict=True):
            assign(variable, value)
        return values

    logical = config.train.logical_replicas
    if logical is None:
        return share
    return in_turn(logical_share, added, logical, config.train.accumulate_steps, state.replicas.count)


def make_train_step(state: TrainingState, config: Config) -> tf.types.experimental.PolymorphicFunction:
    """A compiled function that takes one batch of ``training_batches`` and advances ``state`` by one step.

    Everything it changes is in the state tree; what it returns stays on the device until it is read.
    """
    progress, replicas, parts = state.progress, state.replicas, config.train.accumulate_steps
    statistics = list(state.statistics.values())
    may_put_back = is_scaled(config) or config.fine_tuning.freeze_until_step > 0
    logical = config.train.logical_replicas
    shares = logical or replicas.count
    # each share has moved them towards those of its own groups
    diverged = statistics if shares > 1 and not config.model.batch_norm.synchronized else []
    share_of = _make_share(state, config, diverged)
    summed = total if logical is None else total_in_order
    update = _make_update(state, config, statistics)
    judge = make_judge(state, config) if state.divergence else None

    # Synchronised batch norm waits for the others at each layer. So all look slow from the first one on.
    measured = replicas.processes > 1
    waits_early = config.model.batch_norm.synchronized

    def come() -> None:
        exchange.OWN.arrive(exchange.STEP)

    def ended() -> None:
        exchange.OWN.leave(exchange.STEP)

    def on_replica(examples: Batch) -> Made:
        marks = [moment([examples["image"]], come)] if measured and waits_early else []
        before = [tf.identity(variable) for variable in statistics] if may_put_back else []
        exchanged = share_of({name: examples[name] for name in examples if name not in COUNTED})
        if measured and not waits_early:
            marks.append(moment(exchanged, come))
        loss, hits, *sums = summed(exchanged)
        if measured:
            marks.append(moment([loss, hits, *sums], ended))
        gradients, moved = sums[: len(state.trained)], sums[len(state.trained) :]
        for variable, value in zip(diverged, moved, strict=True):
            assign(variable, value / shares)
        norm = norm_if_recorded(gradients)
        finite = update(before, gradients, loss)
        sound = None if judge is None else all_finite([*map(tf.convert_to_tensor, state.variables.values())])
        ledger, substituted = total([tf.reduce_sum(examples[name]) for name in COUNTED])
        return Made(loss, hits, finite, norm, ledger, substituted, tuple(marks), sound)

    def norm_if_recorded(gradients: list[tf.Tensor]) -> tf.Tensor:
        scale = progress.loss_scale if is_scaled(config) else 1.0
        if judge is not None:
            return tf.linalg.global_norm(gradients) / scale
        recorded = tf.equal((progress.step + 1) % config.train.log_every_steps, 0)
        return tf.cond(recorded, lambda: tf.linalg.global_norm(gradients) / scale, lambda: tf.constant(0.0))

    @tf.function(autograph=False)
    def train_step(batch: Batch) -> Told:
        made: Made = replicas.run(lambda share: on_replica(share(batch, parts)))
        kept = tf.cast(made.finite, tf.int64)
        progress.loss_sum.assign_add(tf.where(made.finite, made.loss, 0.0))
        progress.correct.assign_add(kept * tf.cast(made.hits, tf.int64))
        progress.seen.assign_add(kept * config.train.global_batch_size)
        progress.steps_summed.assign_add(kept)
        judged = None if judge is None else judge(made.loss, made.gradient_norm, made.finite, made.sound)
        if is_scaled(config):
            update_loss_scale(progress, made.finite, config.loss_scale)
        progress.step.assign_add(1)
        progress.examples.assign_add(config.train.global_batch_size)
        progress.ledger.assign(progress.ledger * CHAIN_FACTOR + made.ledger)
        progress.substituted.assign_add(made.substituted)
        return Told(made.loss, made.gradient_norm, made.marks, judged)

    return train_step


def _update_average(state: TrainingState, config: Config) -> None:
    """Move the shadow variables by slim's rule (``tf.train.ExponentialMovingAverage`` with ``num_updates``)."""
    if config.ema.decay is None:
        return
    decay = tf.constant(config.ema.decay, tf.float32)
    if config.ema.warmup:
        decay = tf.minimum(decay, warming_up(tf.cast(state.progress.step, tf.float32)))
    for name, shadow in state.ema.items():
        change = tf.convert_to_tensor(shadow) - tf.convert_to_tensor(state.variables[name])
        assign_sub(shadow, change * (1.0 - decay))


def inference(state: TrainingState, weights: WeightsName) -> Callable[[tf.Tensor], tf.Tensor]:
    """The network in inference mode: from images float32 ``[n, S, S, 3]`` to logits float32 ``[n, classes]``."""
    model, features, values = state.model, state.dropout_features, state.weights(weights)  # slots may be freed
    trainable = [values[variable_name(variable)] for variable in model.trainable_variables]
    fixed = [values[variable_name(variable)] for variable in model.non_trainable_variables]

    def logits_of(images: tf.Tensor) -> tf.Tensor:
        unused = tf.zeros([tf.shape(images)[0], features])
        inputs = {"image": images, "dropout": unused}
        outputs, _ = model.stateless_call(trainable, fixed, inputs, training=False)
        return outputs["logits"]

    return logits_of


COLUMNS = 5  # of the predictions of make_evaluation_step, before the scores


def make_evaluation_step(
    state: TrainingState, config: Config, *, scores: bool = False
) -> tf.types.experimental.PolymorphicFunction:
    """A compiled function from one batch of ``evaluation_batches`` to its ``evaluation_sums`` over all replicas, and
    the predictions for each example of the global batch in order, float32 ``[B, 5]``: label, most probable class, its
    probability, cross-entropy, weight. With ``scores`` the probabilities of all classes follow, ``[B, 5 + classes]``.
    """
    logits_of = inference(state, config.evaluation.weights)
    shared = state.replicas.processes > 1
    logical, count = config.train.logical_replicas, state.replicas.count

    def share(examples: Rows) -> list[tf.Tensor]:
        logits = logits_of(examples["image"])
        columns = (
            examples["label"],
            tf.argmax(logits, axis=-1),
            tf.reduce_max(tf.nn.softmax(logits), axis=-1),
            cross_entropy(logits, examples["label"]),
            examples["weight"],
        )
        predicted = tf.stack([tf.cast(column, tf.float32) for column in columns], axis=1)
        if scores:
            predicted = tf.concat([predicted, tf.nn.softmax(logits)], axis=1)
        return [evaluation_sums(logits, dict(examples)), predicted]

    def joined(left: list[tf.Tensor], right: list[tf.Tensor]) -> list[tf.Tensor]:
        return [left[0] + right[0], tf.concat([left[1], right[1]], 0)]

    share_of = share if logical is None else in_turn(share, joined, logical, 1, count)
    summed, from_all = (total, gathered) if logical is None else (total_in_order, copies)

    def on_replica(examples: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        own, predicted = share_of(examples)
        if shared:
            moment([own], lambda: exchange.OWN.arrive(exchange.EVALUATION))
        (sums,) = summed([own])
        everywhere = from_all(predicted) if count > 1 else predicted  # replicas have consecutive rows
        if shared:
            moment([everywhere], lambda: exchange.OWN.leave(exchange.EVALUATION))
        return sums, tf.reshape(everywhere, [-1, predicted.shape[1]])

    @tf.function(autograph=False)
    def evaluation_step(batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        return state.replicas.run(lambda share: on_replica(share(batch, 1)))

    return evaluation_step


def evaluation_sums(logits: tf.Tensor, batch: Batch) -> tf.Tensor:
    """Sums over a batch, float64 ``[4]``: of cross-entropy (without smoothing), correct predictions, weight, and
    examples that were skipped. An example whose cross-entropy is not finite is not correct.
    """
    weight = batch["weight"]
    losses = cross_entropy(logits, batch["label"])
    right = correct(logits, batch) & tf.math.is_finite(losses)
    sums = [
        losses * weight,
        tf.cast(right, tf.float32) * weight,
        weight,
        batch["skipped"],
    ]
    return tf.stack([tf.reduce_sum(tf.cast(each, tf.float64)) for each in sums])


PredictionStep = Callable[[Batch], tuple[tf.Tensor, dict[str, tf.Tensor]]]


def predictions_of(values: Sequence[tf.Tensor]) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """What a prediction step returns, of the tensors in it, in the order of ``tf.nest``."""
    names = sorted(("predicted", "confidence", "in_top_5", "finite", "probabilities"))
    return values[0], dict(zip(names, values[1:], strict=True))


def make_prediction_step(
    state: TrainingState, weights: WeightsName, *, flip: bool
) -> tf.types.experimental.PolymorphicFunction:
    """A compiled function from one batch of ``evaluation_batches`` to its ``evaluation_sums`` and, for each example,
    the ``predicted`` class int64 ``[B]``, its probability ``confidence`` float32 ``[B]``, ``in_top_5`` bool ``[B]``,
    whether its cross-entropy is ``finite`` bool ``[B]``, and the ``probabilities`` of all classes float32
    ``[B, classes]``.

    With ``flip`` the probabilities are the mean of those of the image and of its mirror image.
    """
    logits_of = inference(state, weights)

    @tf.function(autograph=False)
    def prediction_step(batch: Batch) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        logits = logits_of(batch["image"])
        if flip:
            mirrored = logits_of(tf.reverse(batch["image"], [2]))
            views = tf.stack([tf.nn.log_softmax(logits), tf.nn.log_softmax(mirrored)])
            logits = tf.reduce_logsumexp(views, axis=0)  # up to a constant, which softmax cancels
        predictions = {
            "predicted": tf.argmax(logits, axis=-1),
            "confidence": tf.reduce_max(tf.nn.softmax(logits), axis=-1),
            "in_top_5": tf.math.in_top_k(batch["label"], logits, 5),
            "finite": tf.math.is_finite(cross_entropy(logits, batch["label"])),
            "probabilities": tf.nn.softmax(logits),
        }
        return evaluation_sums(logits, batch), predictions

    return prediction_step
