"""A training state so small that a step costs nothing, with one example of each thing that a step treats differently.

It has a kernel without a bias before batch norm, draws, dropout, averages, and a main and an auxiliary classifier (the
parts that are trained while the rest is frozen). Every number is fixed and far from zero, and no gradient vanishes. So
the effect of rounding stays far below the effect of an edit.
"""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.config.schema import Config
from trainer.config.schema.preprocessing import NoMixingConfig
from trainer.data.batch import Batch
from trainer.distributed.replicas import Replicas
from trainer.models.inception_v3_units import HEADS
from trainer.models.layers import Draws, FusedBatchNormalization, KeyedDropout
from trainer.training.fine_tuning import Tuning, freeze
from trainer.training.optimizers import Optimizer
from trainer.training.state import Progress, TrainingState, variable_name

SIZE = 4  # of the images, pixels
CLASSES = 5
FILTERS = 3
PARTS = 2  # of a batch, where it is computed in parts
ROWS = 4  # of a part, on each replica
GROUP = 2  # examples of a group of batch norm
LOGICAL = 4  # logical replicas of a batch, where there are any: each replica computes two, of GROUP rows
RATE = 0.1  # the peak learning rate: large enough for a visible update of the weights
# the facts of the run's network cover its batch norm and dropout; these values make both visible
MOMENTUM, EPSILON, DROPPED = 0.75, 0.125, 0.25
MIXING_DRAWN = ((0.75, 1.0, 0.0, 3.0, 4.0), (0.25, 0.0, 1.0, 4.0, 3.0))  # of a pair and of the next


def configuration(config: Config) -> Config:
    """``config`` for the probe. It replaces sizes by ones that fit the probe, and keys that do not change what a step
    computes (XLA, how often something is logged, whether it is judged), or that a run itself changes.
    """
    parts = min(config.train.accumulate_steps, PARTS)
    return dataclasses.replace(
        config,
        train=dataclasses.replace(
            config.train,
            accumulate_steps=parts,
            logical_replicas=LOGICAL if config.train.logical_replicas else None,
            global_batch_size=2 * parts * ROWS,
            log_every_steps=1,
            on_divergence="stop",
            skip_examples=(),
        ),
        optimizer=dataclasses.replace(config.optimizer, learning_rate=RATE),
        runtime=dataclasses.replace(config.runtime, xla=False),
    )


def spread(shape: tuple[int, ...], low: float, high: float) -> npt.NDArray[np.float32]:
    """Numbers from ``low`` to ``high`` that look random; no two neighbours are close."""
    count = int(np.prod(shape))
    numbers = (np.arange(1, count + 1) * 61 % 97) / 97.0
    return (low + (high - low) * numbers).astype(np.float32).reshape(shape)


def batch_norm(synchronized: bool) -> FusedBatchNormalization:
    """Our batch norm layer with other values than its initial ones."""
    layer = FusedBatchNormalization(
        group_size=GROUP,
        momentum=MOMENTUM,
        epsilon=EPSILON,
        synchronized=synchronized,
        name="unit.batch_norm",
        dtype="float32",
    )
    layer.build((None, SIZE, SIZE, FILTERS))
    for number, variable in enumerate(layer.variables):
        variable.assign(spread(tuple(variable.shape), 0.5 + number, 1.5 + number))
    return layer


def _network(config: Config, auxiliary: bool) -> keras.Model:
    image = keras.Input((SIZE, SIZE, 3), name="image")
    dropout = keras.Input((FILTERS + 1,), name="dropout")
    plain = {"kernel_initializer": "zeros", "dtype": "float32"}
    unit = keras.layers.Conv2D(FILTERS, 1, use_bias=False, name="unit.conv", **plain)(image)
    unit = batch_norm(config.model.batch_norm.synchronized)(unit)
    features = keras.layers.GlobalAveragePooling2D(name="pool", dtype="float32")(unit)
    own = Draws(1, (FILTERS,), name="draws", dtype="float32")(dropout)
    kept = KeyedDropout(DROPPED, name="dropout_1b", dtype="float32")([features, own])
    outputs = {"logits": keras.layers.Dense(CLASSES, name="logits.logits", **plain)(kept)}
    if auxiliary:
        flat = keras.layers.Flatten(name="flat", dtype="float32")(unit)
        outputs["aux_logits"] = keras.layers.Dense(CLASSES, name="aux_logits.logits", **plain)(flat)
    return keras.Model({"image": image, "dropout": dropout}, outputs, name="probe")


def _tuning(config: Config) -> Tuning:
    """The body as the one block below the classifiers, and frozen where the run freezes anything."""
    body, tuned = ("unit/conv", "unit/batch_norm"), config.fine_tuning
    factors = {} if tuned.layer_decay == 1.0 else dict.fromkeys(body, tuned.layer_decay)
    return Tuning(factors, frozenset(body if tuned.freeze else ()), frozenset(HEADS))


def make_state(config: Config, replicas: Replicas, auxiliary: bool) -> TrainingState:
    """Like ``build_state``, for the probe's network and without random draws."""
    model = _network(config, auxiliary)
    variables = {variable_name(variable): variable.value for variable in model.variables}
    trainable = {variable_name(variable): variable.value for variable in model.trainable_variables}
    for name, variable in variables.items():
        if "batch_norm" not in name:
            wide = 0.3 if name.startswith("aux_logits") else 1.0
            variable.assign(spread(tuple(variable.shape), -wide, 1.5 * wide))
    tuning = _tuning(config)
    freeze(model, tuning)
    averaged = {} if config.ema.decay is None else variables if config.ema.batch_norm else trainable
    return TrainingState(
        model=model,
        variables=variables,
        trainable=trainable,
        tuning=tuning,
        optimizer=Optimizer(config.optimizer, trainable, tuning.factor),
        ema={name: tf.Variable(variable) for name, variable in averaged.items()},
        divergence={},
        progress=Progress(config.loss_scale.initial),
        replicas=replicas,
    )


def training_batch(config: Config) -> Batch:
    count = config.train.global_batch_size
    batch = {
        "image": tf.constant(spread((count, SIZE, SIZE, 3), -1.0, 2.0)),
        "label": tf.range(count, dtype=tf.int64) * 3 % CLASSES,
        "dropout": tf.constant(spread((count, FILTERS + 1), 0.0, 1.0)),
        "ledger": tf.range(1, count + 1, dtype=tf.int64) * 1_000_003,
        "substituted": tf.range(count, dtype=tf.int64) % 2,
    }
    if not isinstance(config.mixing, NoMixingConfig):
        batch["mixing"] = tf.constant(np.repeat(MIXING_DRAWN, 2, axis=0), tf.float32)
        batch["mixing"] = tf.tile(batch["mixing"], [count // 4, 1])
    return batch


def evaluation_batch() -> Batch:
    count = 2 * ROWS
    return {
        "image": tf.constant(spread((count, SIZE, SIZE, 3), -2.0, 1.0)),
        "label": tf.range(count, dtype=tf.int64) * 2 % CLASSES,
        "weight": tf.constant([1.0, 0.0] * (count // 2)),
        "skipped": tf.range(count, dtype=tf.int64) % 3,
    }
