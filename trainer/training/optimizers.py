"""Update rules over named slot variables, on TensorFlow's fused ``ResourceApply…`` kernels.

One kernel a variable instead of the tens of small operations that ``keras.optimizers`` builds; the rules are
Keras's (tests hold them equal). There is no hidden counter: the step and the learning rate come in from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import tensorflow as tf

from trainer.config.contracts import Rule, Slots, Update
from trainer.config.registry import builder_of
from trainer.config.schema.optimization import (
    AdamConfig,
    AdamWConfig,
    DecayedName,
    OptimizerConfig,
    RMSPropConfig,
    SGDConfig,
)
from trainer.distributed.replicas import assign_sub


def adam(config: AdamConfig | AdamWConfig) -> Rule:
    """Adam (arXiv 1412.6980), with bias correction folded into the learning rate as in Keras."""

    def begin(rate: tf.Tensor, step: tf.Tensor) -> Update:
        shared = {
            "beta1_power": tf.pow(config.beta_1, step),
            "beta2_power": tf.pow(config.beta_2, step),
            "lr": rate,
            "beta1": tf.constant(config.beta_1),
            "beta2": tf.constant(config.beta_2),
            "epsilon": tf.constant(config.epsilon),
        }
        # decoupled (arXiv 1711.05101), before the step, as in Keras
        decay = config.weight_decay * rate if isinstance(config, AdamWConfig) else None

        def update(variable: tf.Variable, gradient: tf.Tensor, slots: Slots) -> None:
            if isinstance(config, AdamWConfig) and is_decayed(variable, config.weight_decay_on):
                assign_sub(variable, tf.convert_to_tensor(variable) * decay)
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle, m=slots["m"].handle, v=slots["v"].handle, grad=gradient, **shared
            )

        return update

    return Rule({"m": 0.0, "v": 0.0}, begin)


def sgd(config: SGDConfig) -> Rule:
    def begin(rate: tf.Tensor, step: tf.Tensor) -> Update:
        momentum = tf.constant(config.momentum)

        def update(variable: tf.Variable, gradient: tf.Tensor, slots: Slots) -> None:
            if config.momentum == 0.0:
                tf.raw_ops.ResourceApplyGradientDescent(var=variable.handle, alpha=rate, delta=gradient)
                return
            tf.raw_ops.ResourceApplyKerasMomentum(
                var=variable.handle,
                accum=slots["momentum"].handle,
                lr=rate,
                grad=gradient,
                momentum=momentum,
                use_nesterov=config.nesterov,
            )

        return update

    return Rule({"momentum": 0.0} if config.momentum else {}, begin)


def rmsprop(config: RMSPropConfig) -> Rule:
    """Mean square and momentum with epsilon inside the root (``tf.compat.v1.train.RMSPropOptimizer``)."""

    def begin(rate: tf.Tensor, step: tf.Tensor) -> Update:
        shared = {
            "lr": rate,
            "rho": tf.constant(config.rho),
            "momentum": tf.constant(config.momentum),
            "epsilon": tf.constant(config.epsilon),
        }

        def update(variable: tf.Variable, gradient: tf.Tensor, slots: Slots) -> None:
            tf.raw_ops.ResourceApplyRMSProp(
                var=variable.handle,
                ms=slots["mean_square"].handle,
                mom=slots["momentum"].handle,
                grad=gradient,
                **shared,
            )

        return update

    return Rule({"mean_square": config.initial_mean_square, "momentum": 0.0}, begin)


def rule_for(config: OptimizerConfig) -> Rule:
    """The update rule that a configuration names. Its builder makes it from the optimizer's keys.

    Raises:
        UsageError: a plug-in's rule is not valid.
    """
    rule = builder_of(config)(config)
    assert isinstance(rule, Rule)
    return rule


def is_decayed(variable: tf.Variable, on: DecayedName) -> bool:
    """Whether weight decay applies to a variable: kernels have two dimensions or more, biases and norms have one."""
    return on == "all" or len(variable.shape) >= 2


class Optimizer:
    """A rule and its slot variables for a set of named variables.

    ``slots[slot][name]`` is a float32 variable of the shape of ``variables[name]``. ``factor`` is that of a variable's
    learning rate, by its name; with it goes whatever the rule makes of the rate, such as a decoupled decay.
    """

    def __init__(
        self,
        config: OptimizerConfig,
        variables: Mapping[str, tf.Variable],
        factor: Callable[[str], float] = lambda name: 1.0,
    ) -> None:
        self._factor = factor
        self._clip_norm = config.clip_norm
        self._rule = rule_for(config)
        self._variables = variables
        self.slots = {
            slot: {name: tf.Variable(tf.fill(variable.shape, initial)) for name, variable in variables.items()}
            for slot, initial in self._rule.slots.items()
        }

    def apply(self, gradients: Mapping[str, tf.Tensor], learning_rate: tf.Tensor, step: tf.Tensor) -> None:
        """Update the variables that ``gradients`` has. ``step`` is int64 ``[]``: how many steps were made before."""
        number = tf.cast(step + 1, tf.float32)
        updates = {
            factor: self._rule.begin(learning_rate if factor == 1.0 else learning_rate * factor, number)
            for factor in dict.fromkeys(map(self._factor, gradients))
        }
        clipped = dict(zip(gradients, self._clipped(list(gradients.values())), strict=True))
        for name, gradient in clipped.items():
            slots = {slot: variables[name] for slot, variables in self.slots.items()}
            updates[self._factor(name)](self._variables[name], gradient, slots)

    def _clipped(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        if self._clip_norm is None:
            return gradients
        clipped, _ = tf.clip_by_global_norm(gradients, self._clip_norm)
        return list(clipped)
