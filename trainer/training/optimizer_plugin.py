"""Optimizers from other distributions."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from trainer.config.contracts import Rule, Slots, Update
from trainer.config.plugins import NAME, OPTIMIZERS, blamed, title
from trainer.config.schema.optimization import OptimizerPlugin
from trainer.errors import UsageError
from trainer.runtime.purity import hidden_state

PROBE_RATE = 0.1
PROBE_STEPS = (1.0, 2.0, 1000.0)
PROBE_VARIABLES = {"kernel": ((0.5, -0.25), (1.0, 2.0)), "bias": (0.125, -3.0)}
PROBE_GRADIENTS = {"kernel": ((0.3, -0.01), (0.0, 4.0)), "bias": (-0.7, 0.02)}


def plugged_rule(config: OptimizerPlugin) -> Rule:
    """The plug-in's update rule. Any error in it names the plug-in, and it cannot make a variable.

    Raises:
        UsageError: it is not a ``Rule``, or its slots are not names with numbers.
    """
    with _guarded(config):
        rule = config.rule()
    called = title(OPTIMIZERS, config.name)
    if not isinstance(rule, Rule) or not isinstance(rule.slots, Mapping):
        raise UsageError(f"{called} returned {rule!r} as its rule, but must return a trainer.plugins.Rule")
    for slot, initial in rule.slots.items():
        if not isinstance(slot, str) or not NAME.fullmatch(slot):
            raise UsageError(
                f"{called} has a slot {slot!r}, which cannot be a name in the state tree: letters, digits and _"
            )
        if not isinstance(initial, int | float) or not math.isfinite(initial):
            raise UsageError(f"{called} begins its slot {slot} with {initial!r}, but needs a finite number")

    def begin(rate: tf.Tensor, step: tf.Tensor) -> Update:
        with _guarded(config):
            update = rule.begin(rate, step)

        def guarded(variable: tf.Variable, gradient: tf.Tensor, slots: Slots) -> None:
            with _guarded(config):
                update(variable, gradient, slots)

        return guarded

    return Rule({slot: float(initial) for slot, initial in rule.slots.items()}, begin)


@contextlib.contextmanager
def _guarded(config: OptimizerPlugin) -> Iterator[None]:
    def refuse(next_creator: Any, **keywords: Any) -> tf.Variable:
        raise UsageError(
            f"{title(OPTIMIZERS, config.name)} makes a variable, which no checkpoint would hold\n"
            "what it keeps from step to step must be in its slots"
        )

    with tf.variable_creator_scope(refuse), blamed(OPTIMIZERS, config.name):
        yield


def probe(config: OptimizerPlugin) -> dict[str, list[str]]:
    """The values of two variables after a few steps, by ``NAME after step N``, in digits that another processor finds
    too.

    Raises:
        UsageError: what the rule does depends on more than variables, slots, gradients, learning rate and step.
    """
    first, second = _steps(config), _steps(config)
    if first != second:
        raise UsageError(
            f"{title(OPTIMIZERS, config.name)} computes other values from the same numbers the second time, so a "
            "resumed run could not be the same"
        )
    return first


def _steps(config: OptimizerPlugin) -> dict[str, list[str]]:
    rule = plugged_rule(config)
    with tf.device("/device:CPU:0"):
        variables = {name: tf.Variable(values, dtype=tf.float32) for name, values in PROBE_VARIABLES.items()}
        slots = {
            name: {slot: tf.Variable(tf.fill(variable.shape, initial)) for slot, initial in rule.slots.items()}
            for name, variable in variables.items()
        }

        def step(rate: tf.Tensor, number: tf.Tensor) -> None:
            update = rule.begin(rate, number)
            for name, variable in variables.items():
                update(variable, tf.constant(PROBE_GRADIENTS[name], tf.float32), slots[name])

        scalar = tf.TensorSpec([], tf.float32)
        traced = tf.function(step, autograph=False).get_concrete_function(scalar, scalar)
        own = [*variables.values(), *(slot for each in slots.values() for slot in each.values())]
        hidden = hidden_state(traced, own)
        if hidden is not None:
            raise UsageError(
                f"{title(OPTIMIZERS, config.name)} uses {hidden}: no checkpoint holds that, so a resumed run "
                "could not be the same\nwhat it keeps from step to step must be in its slots, and random "
                "numbers must be stateless"
            )
        found = {}
        for number in PROBE_STEPS:
            with blamed(OPTIMIZERS, config.name):
                traced(tf.constant(PROBE_RATE), tf.constant(number))
            for name, variable in variables.items():
                values = variable.numpy().ravel().tolist()
                found[f"{name} of a probe after step {number:g}"] = [f"{value:.4g}" for value in values]
    return found
