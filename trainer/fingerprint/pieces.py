"""Facts about the pieces of a step. Each is found by running the piece alone on fixed numbers.

They come before the facts of the whole step, so that the first differing fact names the edited module.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.config.schema import Config
from trainer.config.schema.optimization import AdamWConfig, OptimizerPlugin, SGDConfig
from trainer.config.schema.preprocessing import NoMixingConfig
from trainer.data.images import draw
from trainer.data.order import ledger
from trainer.distributed import logical_replicas, replicas
from trainer.distributed.replicas import ONE_DEVICE, Replicas, Share
from trainer.fingerprint import probe
from trainer.fingerprint.facts import STEP, Fact
from trainer.models import layers
from trainer.training import evaluation, loss_scale, losses, moving_statistics, optimizers
from trainer.training.gradients import is_scaled
from trainer.training.state import Progress

DIGITS = 9  # enough to distinguish any two float32
FAR_EXAMPLE = 10**9 + 7
OPTIMIZER_STEPS = (0, 1, 999)
WARMING_STEPS, SKIPPED = (0, 20, 1_000), 3
EVALUATED = "evaluation"
LARGE = 8.0  # with logits of this size, one per cent of label smoothing is visible


def plain(values: Any) -> list[Any]:
    """The numbers of a tensor as JSON keeps them; numbers that JSON cannot express become text."""
    flat = np.asarray(values).ravel()
    if flat.dtype.kind != "f":
        return [int(value) for value in flat]
    return [float(f"{value:.{DIGITS}g}") if math.isfinite(value) else str(value) for value in flat]


def file_of(module: ModuleType) -> str:
    return module.__name__.replace(".", "/") + ".py"


def where(stage: str) -> str:
    return f"step {stage}"


def of(stage: str, module: ModuleType, keys: Sequence[str], values: Mapping[str, Any]) -> Iterator[Fact]:
    """Facts about a stage of the step. ``module`` implements the stage, and ``keys`` decide the values."""
    for attribute, value in values.items():
        yield Fact(STEP, where(stage), attribute, plain(value), tuple(keys), file_of(module))


def piece_facts(config: Config, pair: Replicas, auxiliary: bool) -> Iterator[Fact]:
    """The facts about each piece. ``config`` comes from ``probe.configuration``. ``pair`` are two replicas, see
    ``imagined``. ``auxiliary`` says whether the network has an auxiliary classifier.
    """
    yield from of("draws", draw, ["seed"], {"draws of dropout": _draws(config)})
    yield from of("ledger", ledger, [], {"entries": ledger.entries(np.arange(3), np.arange(5, 8))})
    yield from of("replicas", replicas, [], _exchanged(pair))
    if config.train.logical_replicas is not None:
        keys = ["train.logical_replicas"]
        yield from of("copies", replicas, keys, {"copies of all": _copied(pair)})
        yield from of("logical replicas", logical_replicas, keys, _in_turn(config.train.logical_replicas, pair))
    yield from of("batch norm and dropout", layers, ["model.batch_norm"], _layers(config, pair))
    keys = ["model.batch_norm", "fine_tuning", "train.accumulate_steps"]
    yield from of("batch norm warm-up", moving_statistics, keys, _largest_momenta(config))
    yield from of("weight decay", optimizers, ["model"], {"what is decayed": _kernels()})
    keys = ["train.label_smoothing", "train.aux_weight", "model", "mixing"]
    yield from of("objective", losses, keys, _objective(config, auxiliary))
    yield from of("optimizer update", optimizers, ["optimizer"], _updates(config))
    yield from of("clipping", optimizers, ["optimizer.clip_norm"], _clipped(config))
    if is_scaled(config):
        yield from of("loss scale", loss_scale, ["loss_scale", "runtime.precision"], _scales(config))


def _draws(config: Config) -> tf.Tensor:
    return draw.Draw(config.seed, tf.constant(FAR_EXAMPLE, tf.int64)).uniform("dropout", 4)


def _exchanged(pair: Replicas) -> dict[str, Any]:
    rows = tf.range(8, dtype=tf.int64)
    share, added, rowwise = pair.run(
        lambda share: (
            share({"row": rows}, 2)["row"],
            replicas.total([tf.constant([1.0, 2.0])])[0],
            replicas.gathered(tf.constant([3.0, 5.0])),
        )
    )
    variable = tf.Variable([7.0, 11.0])
    replicas.assign(variable, tf.constant([13.0, 17.0]))
    replicas.assign_sub(variable, tf.constant([1.0, 2.0]))
    return {"share of a batch": share, "sum": added, "rows of all": rowwise, "assigned": variable}


def _copied(pair: Replicas) -> tf.Tensor:
    return pair.run(lambda share: replicas.copies(tf.constant([3.0, 5.0])))


def _in_turn(logical: int, pair: Replicas) -> dict[str, Any]:
    """Which rows the logical replicas of the first replica compute, of two blocks, and how results are added."""
    rows = {"row": tf.range(8 * logical, dtype=tf.int64)}

    def computed(rows: replicas.Rows) -> list[tf.Tensor]:
        return [tf.cast(rows["row"], tf.float32)]

    def beside(left: list[tf.Tensor], right: list[tf.Tensor]) -> list[tf.Tensor]:
        return [tf.concat([left[0], right[0]], 0)]

    def on_replica(share: Share) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        own = share(rows, 2)
        (computed_rows,), (summed,) = (
            logical_replicas.in_turn(computed, join, logical, 2, pair.count)(own)
            for join in (beside, logical_replicas.added)
        )
        return computed_rows, summed, logical_replicas.total_in_order([tf.constant([1.0, 2.0]), tf.constant(7.0)])

    computed_rows, summed, in_order = pair.run(on_replica)
    return {"rows in turn": computed_rows, "their sum": summed, "first sum": in_order[0], "second sum": in_order[1]}


def _layers(config: Config, pair: Replicas) -> dict[str, Any]:
    features, uniform = probe.spread((2, 3), 1.0, 3.0), probe.spread((2, 4), 0.0, 1.0)
    own = layers.Draws(1, (3,), name="draws", dtype="float32")(uniform)
    dropout = layers.KeyedDropout(probe.DROPPED, name="dropout", dtype="float32")
    found = {
        "dropped": dropout([features, own], training=True),
        "not dropped": dropout([features, own], training=False),
    }
    images = tf.constant(probe.spread((probe.ROWS, probe.SIZE, probe.SIZE, probe.FILTERS), -2.0, 3.0))
    synchronized = config.model.batch_norm.synchronized
    for way, run in (("on one replica", ONE_DEVICE.run), ("on two replicas", pair.run)):
        layer = probe.batch_norm(synchronized)

        def normalise(share: Share, layer: keras.Layer = layer) -> tf.Tensor:
            return layer(images, training=True)

        outputs = run(normalise)
        found[f"normalised {way}"] = outputs[0, 0]
        found[f"moving statistics {way}"] = tf.concat([layer.moving_mean, layer.moving_variance], 0)
        found[f"normalised in inference, after a step {way}"] = layer(images, training=False)[0, 0]
    layer.frozen = True
    found["normalised in training, while frozen"] = layer(images, training=True)[0, 0]
    return found


def _largest_momenta(config: Config) -> dict[str, Any]:
    """The largest momentum at some steps, after all freezing; nothing without a warm-up."""
    progress = Progress(config.loss_scale.initial)
    progress.skipped_steps.assign(SKIPPED)
    found = {}
    for step in WARMING_STEPS:
        progress.step.assign(config.fine_tuning.freeze_until_step + step)
        largest = moving_statistics.largest_momentum(progress, tf.constant(1), config)
        if largest is not None:
            found[f"largest momentum at step {step}"] = largest
    return found


def _kernels() -> list[bool]:
    return [
        optimizers.is_decayed(tf.Variable(tf.zeros(shape)), "kernels") for shape in ((), (2,), (1, 2), (1, 1, 1, 2))
    ]


def _objective(config: Config, auxiliary: bool) -> dict[str, Any]:
    """The loss with one term after the other. Each term is so large that one per cent of its factor is visible."""
    logits = tf.constant(probe.spread((4, probe.CLASSES), -LARGE, LARGE))
    part = {"label": tf.constant([2, 0, 0, 1], tf.int64)}  # the highest logits, except for the last
    if not isinstance(config.mixing, NoMixingConfig):
        part["partner_label"] = tf.constant([0, 2, 1, 0], tf.int64)
        part["label_weight"] = tf.constant([0.75, 0.75, 0.25, 0.25])
    found = {
        "loss": _loss({"logits": logits}, part, config),
        "correct": losses.correct(logits, part),
        "cross-entropy": losses.cross_entropy(logits, part["label"]),
    }
    if config.train.label_smoothing:
        certain = {"logits": 5.0 * LARGE * tf.one_hot(part["label"], probe.CLASSES)}  # without smoothing the loss is 0
        found["loss of certainty"] = _loss(certain, {"label": part["label"]}, config)
    if auxiliary and config.train.aux_weight:
        other = {"logits": logits, "aux_logits": logits[:, ::-1] / config.train.aux_weight}
        found["loss with the auxiliary classifier's"] = _loss(other, part, config)
    if config.model.weight_decay:
        # makes the term 1 for any factor
        wide = 1.0 / math.sqrt(config.model.weight_decay)
        variables = [tf.Variable(tf.fill(shape, wide)) for shape in ((2, 1), (2,))]
        found["loss with weight decay"] = _loss({"logits": logits}, part, config, variables)
    return found


def _loss(outputs: Any, part: Any, config: Config, variables: Sequence[tf.Variable] = ()) -> tf.Tensor:
    return losses.objective(outputs, part, variables, config)


def _updates(config: Config) -> dict[str, Any]:
    """The values of variables and slots after three steps without clipping, from zeros."""
    if isinstance(config.optimizer, OptimizerPlugin):
        return {}  # a plug-in has a probe of its own, in a graph; it is promised no other way to run
    # two are as small as the constant that is added to a divisor, or under a root
    epsilon = getattr(config.optimizer, "epsilon", 1e-7)
    values = {"kernel": [[0.3, -0.01], [32.0 * epsilon, math.sqrt(10.0 * epsilon)]], "bias": [-0.7, 1e-3]}
    gradients = {name: tf.constant(value) for name, value in values.items()}
    unclipped = dataclasses.replace(config.optimizer, clip_norm=None)
    slower = {name: tf.Variable(tf.zeros_like(gradient)) for name, gradient in gradients.items()}
    optimizers.Optimizer(unclipped, slower, lambda name: 0.5).apply(
        gradients, tf.constant(probe.RATE), tf.constant(0, tf.int64)
    )
    found = {f"{name} after a step at half the rate": variable.numpy() for name, variable in slower.items()}
    variables = {name: tf.Variable(tf.zeros_like(gradient)) for name, gradient in gradients.items()}
    optimizer = optimizers.Optimizer(unclipped, variables)
    for step in OPTIMIZER_STEPS:
        optimizer.apply(gradients, tf.constant(probe.RATE), tf.constant(step, tf.int64))
        for name, variable in variables.items():
            found[f"{name} after step {step}"] = variable.numpy()
            for slot, slots in optimizer.slots.items():
                found[f"{slot} of {name} after step {step}"] = slots[name].numpy()
    if isinstance(config.optimizer, AdamWConfig) and config.optimizer.weight_decay:
        found["left by decoupled decay"] = _decayed(config.optimizer)
    return found


def _decayed(config: AdamWConfig) -> npt.NDArray[Any]:
    """The remainder of ones after a step without a gradient, at the rate that decays half of each."""
    variables = {"kernel": tf.Variable(tf.ones([1, 1])), "bias": tf.Variable(tf.ones([1]))}
    gradients = {name: tf.zeros_like(variable) for name, variable in variables.items()}
    optimizer = optimizers.Optimizer(config, variables)
    optimizer.apply(gradients, tf.constant(0.5 / config.weight_decay), tf.constant(0, tf.int64))
    return np.concatenate([variable.numpy().ravel() for variable in variables.values()])


def _clipped(config: Config) -> dict[str, Any]:
    """What plain descent subtracts from zeros, for gradients of five times and of half the largest allowed norm."""
    longest = config.optimizer.clip_norm
    if longest is None:
        return {}
    found = {}
    descent = SGDConfig("sgd", learning_rate=1.0, momentum=0.0, nesterov=False, clip_norm=longest)
    for times in (5.0, 0.5):
        variables = {"kernel": tf.Variable(tf.zeros([2])), "bias": tf.Variable(tf.zeros([1]))}
        length = times * longest / 3.0
        gradients = {"kernel": tf.constant([2.0 * length, length]), "bias": tf.constant([-2.0 * length])}
        optimizers.Optimizer(descent, variables).apply(gradients, tf.constant(1.0), tf.constant(0, tf.int64))
        taken: list[npt.NDArray[Any]] = [variable.numpy() for variable in variables.values()]
        found[f"gradients {times:g} times the norm"] = np.concatenate(taken)
    return found


def _scales(config: Config) -> dict[str, Any]:
    found = {}
    for name, finite, before in (("growing", True, 1), ("not yet", True, 2), ("not finite", False, 1)):
        progress = Progress(config.loss_scale.initial)
        progress.finite_steps.assign(config.loss_scale.growth_steps - before)
        loss_scale.update_loss_scale(progress, tf.constant(finite), config.loss_scale)
        found[f"scale, {name}"] = progress.loss_scale.numpy()
        found[f"counters, {name}"] = np.stack([progress.finite_steps.numpy(), progress.skipped_steps.numpy()])
    values = [tf.constant([1.0, value]) for value in (math.inf, math.nan, 2.0)]
    found["finite"] = [loss_scale.all_finite([tf.zeros([2]), value]).numpy() for value in values]
    return found


def evaluation_piece_facts() -> Iterator[Fact]:
    """Facts about how sums over batches become the recorded means."""
    sums = [tf.constant([3.0, 2.0, 4.0, 1.0], tf.float64), tf.constant([5.0, 1.0, 3.0, 0.0], tf.float64)]
    means = evaluation.evaluate([{"sums": each} for each in sums], lambda batch: batch["sums"], lambda: False)
    assert means is not None
    yield from of(EVALUATED, evaluation, [], {f"mean {name}": value for name, value in means.items()})
