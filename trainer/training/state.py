"""The state tree: every variable that decides the future, under names that mean something.

``tree()`` is what a checkpoint holds::

    model/mixed_5b/branch_0/conv2d_0a_1x1/conv/kernel
    optimizer/momentum/mixed_5b/branch_0/conv2d_0a_1x1/conv/kernel
    ema/mixed_5b/branch_0/conv2d_0a_1x1/conv/kernel
    divergence/loss_mean
    progress/step
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from trainer.config.schema import Config
from trainer.config.schema.training import WeightsName
from trainer.distributed.replicas import ONE_DEVICE, Replicas
from trainer.models.registry import build_model
from trainer.training.fine_tuning import Tuning, apply_tuning
from trainer.training.optimizers import Optimizer

# str -> tf.Variable or another Tree; mypy cannot follow a recursive alias through tf's untyped variables
Tree = dict[str, Any]
DIVERGENCE = "divergence"  # the part of the tree that a resume may begin or drop


class Progress:
    """Counters and running results, all scalar variables. A new run starts with zeros, except for ``loss_scale``."""

    def __init__(self, loss_scale: float) -> None:
        def counter() -> tf.Variable:
            return tf.Variable(0, dtype=tf.int64)

        self.step = counter()  # optimizer steps done
        self.examples = counter()  # the position: training examples consumed
        self.ledger = counter()  # which record was consumed at which position, see trainer/data/order/ledger.py
        self.substituted = counter()  # examples consumed in the place of one that could not be used
        self.evaluations = counter()  # validations done; best and patience mean something from the first on
        self.evaluated_step = counter()  # step of the last validation
        self.best_step = counter()  # step of the best validation so far
        self.best_value = tf.Variable(0.0, dtype=tf.float64)
        self.patience_value = tf.Variable(0.0, dtype=tf.float64)  # what early stopping compares with
        self.patience_used = counter()  # validations since then
        # the training record being accumulated since the last logged one
        self.loss_sum = tf.Variable(0.0, dtype=tf.float32)
        self.correct = counter()
        self.seen = counter()
        self.steps_summed = counter()
        # see trainer/training/loss_scale.py; they stay as they are unless runtime.precision is mixed_float16
        self.loss_scale = tf.Variable(loss_scale, dtype=tf.float32)
        self.finite_steps = counter()  # since the scale last changed
        self.skipped_steps = counter()  # in all

    def tree(self) -> Tree:
        return dict(vars(self))

    def ledger_text(self) -> str:
        """The digest of all examples consumed so far, 16 hexadecimal digits."""
        return f"{int(self.ledger.numpy()) % 2**64:016x}"


@dataclasses.dataclass(frozen=True)
class TrainingState:
    """A model, its optimizer and everything else a checkpoint holds.

    ``variables`` and ``trainable`` map names (``mixed_5b/…/kernel``) to the model's variables; ``tuning`` says which
    of them this run trains, and how fast. ``ema`` maps the names that are averaged to their shadow variables and is
    empty without an average. ``divergence`` has the rolling
    statistics that a divergence is judged by and is empty with ``train.on_divergence=stop``.
    """

    model: keras.Model
    variables: Mapping[str, tf.Variable]
    trainable: Mapping[str, tf.Variable]
    tuning: Tuning
    optimizer: Optimizer
    ema: Mapping[str, tf.Variable]
    divergence: Mapping[str, tf.Variable]
    progress: Progress
    replicas: Replicas

    def tree(self) -> Tree:
        """Nested dicts of variables, levels split at ``/``."""
        tree = {
            "model": _nested(self.variables),
            "optimizer": {slot: _nested(variables) for slot, variables in self.optimizer.slots.items()},
            "progress": self.progress.tree(),
        }
        optional = {"ema": _nested(self.ema), DIVERGENCE: dict(self.divergence)}
        return {**tree, **{name: node for name, node in optional.items() if node}}

    @property
    def trained(self) -> Mapping[str, tf.Variable]:
        """The trainable variables without those of frozen layers."""
        return {name: variable for name, variable in self.trainable.items() if not self.tuning.is_frozen(name)}

    @property
    def statistics(self) -> Mapping[str, tf.Variable]:
        """The variables that a forward pass in training moves: batch norm statistics, without frozen layers."""
        return {
            name: variable
            for name, variable in self.variables.items()
            if name not in self.trainable and not self.tuning.is_frozen(name)
        }

    def weights(self, which: WeightsName) -> Mapping[str, tf.Variable]:
        """The model's variables by name; with ``ema``, the average instead of each variable that has one."""
        if which == "raw":
            return self.variables
        assert self.ema, "check() refuses evaluation.weights=ema without an average"
        return {**self.variables, **self.ema}

    @property
    def dropout_features(self) -> int:
        """How many uniform draws an example needs, the width of the model's ``dropout`` input."""
        return int(self.model.input["dropout"].shape[-1])


def rolling_statistics(config: Config) -> dict[str, tf.Variable]:
    """The variables of ``trainer.training.divergence``, all scalars; none unless a divergence is rolled back."""
    if config.train.on_divergence == "stop":
        return {}
    names = ("loss_mean", "loss_variance", "norm_mean", "norm_variance")
    return {
        "steps": tf.Variable(0, dtype=tf.int64),
        **{name: tf.Variable(0.0, dtype=tf.float64) for name in names},
    }


def build_state(config: Config, replicas: Replicas = ONE_DEVICE, *, drawn: bool = True) -> TrainingState:
    """Everything at its initial value, a function of the configuration alone. With ``drawn=False`` kernels are zeros
    instead of random draws, for a state that is restored afterwards.

    Raises:
        UsageError: ``fine_tuning.freeze`` does not fit the network.
    """
    seed = config.seed if drawn else None
    with replicas.scope():
        model = build_model(config.model, config.preprocess.image_size, seed, config.runtime.precision)
        variables = {variable_name(variable): variable.value for variable in model.variables}
        assert len(variables) == len(model.variables), "two variables share a name"
        trainable = {variable_name(variable): variable.value for variable in model.trainable_variables}
        averaged = {} if config.ema.decay is None else variables if config.ema.batch_norm else trainable
        tuning = apply_tuning(model, config)
        optimizer = Optimizer(config.optimizer, trainable, tuning.factor)
        ema = {name: tf.Variable(variable.read_value()) for name, variable in averaged.items()}
    return TrainingState(
        model=model,
        variables=variables,
        trainable=trainable,
        tuning=tuning,
        optimizer=optimizer,
        ema=ema,
        divergence=rolling_statistics(config),
        progress=Progress(config.loss_scale.initial),
        replicas=replicas,
    )


def variable_name(variable: keras.Variable) -> str:
    """The name of a model's variable in the state tree: its Keras path with dots as levels."""
    return str(variable.path).replace(".", "/")


def _nested(variables: Mapping[str, tf.Variable]) -> Tree:
    tree: Tree = {}
    for name, variable in variables.items():
        *levels, leaf = name.split("/")
        node = tree
        for level in levels:
            node = node.setdefault(level, {})
        node[leaf] = variable
    return tree


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, tf.Variable]:
    """The tree as ``{"model/…/kernel": variable}``, in tree order."""
    flat: dict[str, tf.Variable] = {}
    for name, node in tree.items():
        path = f"{prefix}/{name}" if prefix else name
        flat.update(flatten(node, path) if isinstance(node, Mapping) else {path: node})
    return flat
