"""Facts about the built network, the optimizer and the schedule."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import tensorflow as tf

from trainer.config import plugins
from trainer.config.schema import Config
from trainer.config.schema.optimization import OptimizerPlugin
from trainer.fingerprint.facts import Fact
from trainer.training.fine_tuning import Tuning
from trainer.training.optimizer_plugin import probe
from trainer.training.optimizers import rule_for
from trainer.training.schedules import learning_rate_at

MODEL_FILE = "trainer/models/inception_v3.py"
OTHER_MODELS_FILE = "trainer/models/exact.py"
# A layer's initial values, numeric type and name are not part of what it computes from its weights.
LEFT_OUT = ("name", "dtype", "build_config")
LEFT_OUT_ENDINGS = ("_initializer", "_regularizer", "_constraint")
# layer attribute -> the configuration keys that decide it
ATTRIBUTE_KEYS = {
    "activation": ("model.activation",),
    "momentum": ("model.batch_norm.momentum",),
    "epsilon": ("model.batch_norm.epsilon",),
    "scale": ("model.batch_norm.scale",),
    "synchronized": ("model.batch_norm.synchronized",),
    "group_size": ("model.batch_norm.group_size",),
    "rate": ("model.dropout",),
    "filters": ("model.width", "model.min_depth"),
    "units": ("model.num_classes",),
}
SCHEDULE_STEPS = (0, 1, 10, 100, 1_000, 10_000, 100_000, 1_000_000)


def model_facts(model: keras.Model) -> list[Fact]:
    """Class, attributes, inbound layers and variables of every layer, in the order of the data flow."""
    facts = []
    own = model.name == "inception_v3"
    for layer in model.layers:
        where = f"layer {layer.name}"
        entries: dict[str, Any] = {"class": type(layer).__name__, "inbound": _inbound(layer)}
        entries.update({name: _plain(value) for name, value in layer.get_config().items() if not _left_out(name)})
        entries.update({f"shape of {variable.name}": list(variable.shape) for variable in layer.variables})
        for attribute, value in entries.items():
            keys = ATTRIBUTE_KEYS.get(attribute, ("model",)) if own else ("model",)
            facts.append(Fact("structure", where, attribute, value, keys, MODEL_FILE if own else OTHER_MODELS_FILE))
    return facts


def _left_out(attribute: str) -> bool:
    return attribute in LEFT_OUT or attribute.endswith(LEFT_OUT_ENDINGS)


def _inbound(layer: keras.Layer) -> list[str]:
    if isinstance(layer, keras.layers.InputLayer):
        return []
    inputs = layer.input if isinstance(layer.input, list) else [layer.input]
    return [_source(tensor) for tensor in inputs]


def _source(value: Any) -> str:
    """The layer that a tensor comes from; for the result of an operator between layers, ``Add(conv2d, 3.0)``."""
    if not isinstance(value, keras.KerasTensor):
        return str(_plain(value))
    operation, node, _ = value._keras_history
    if isinstance(operation, keras.Layer):
        return str(operation.name)
    arguments = operation._inbound_nodes[node].arguments.args
    return f"{type(operation).__name__}({', '.join(map(_source, arguments))})"


def _plain(value: Any) -> Any:
    """The value if JSON keeps it unchanged; for a nested object, its text."""
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def optimizer_facts(config: Config) -> list[Fact]:
    """Type, slots and hyperparameters; for a plug-in also what it does. The schedule decides the learning rate.

    Raises:
        UsageError: a plug-in keeps something besides its slots.
    """
    keys = {
        name: value
        for name, value in dataclasses.asdict(config.optimizer).items()
        # checkpoints from before the second key say nothing about it, and mean this
        if name != "learning_rate" and (name, value) != ("weight_decay_on", "kernels")
    }
    entries = {"slots": sorted(rule_for(config.optimizer).slots), **keys}
    if not isinstance(config.optimizer, OptimizerPlugin):
        return _facts("optimizer", "optimizer", entries, "optimizer", "trainer/training/optimizers.py")
    file = plugins.title(plugins.OPTIMIZERS, config.optimizer.name)
    found = probe(config.optimizer)
    return [
        *_facts("optimizer", "optimizer", entries, "optimizer", file),
        *(Fact("optimizer", "optimizer", name, values, ("optimizer",), file) for name, values in found.items()),
    ]


def tuning_facts(tuning: Tuning) -> list[Fact]:
    """Which layers are frozen, and which have less than the whole learning rate."""
    entries = [(path, "factor of the learning rate", factor, "layer_decay") for path, factor in tuning.factors.items()]
    entries += [(path, "frozen", True, "freeze") for path in sorted(tuning.frozen)]
    return [
        Fact("optimizer", f"layer {path}", name, value, (f"fine_tuning.{key}",), "trainer/training/fine_tuning.py")
        for path, name, value, key in entries
    ]


def schedule_facts(config: Config) -> list[Fact]:
    """The learning rate at fixed steps."""
    rates = {
        f"learning rate at step {step}": float(
            learning_rate_at(tf.constant(step, tf.int64), config.optimizer.learning_rate, config.schedule)
        )
        for step in SCHEDULE_STEPS
    }
    keys = ("schedule", "optimizer.learning_rate")
    return [
        Fact("schedule", "schedule", name, rate, keys, "trainer/training/schedules.py") for name, rate in rates.items()
    ]


def _facts(kind: str, where: str, entries: Mapping[str, Any], section: str, file: str) -> list[Fact]:
    def keys(name: str) -> Iterable[str]:
        return (section,) if name == "slots" else (f"{section}.{name}",)

    return [Fact(kind, where, name, value, tuple(keys(name)), file) for name, value in entries.items()]
