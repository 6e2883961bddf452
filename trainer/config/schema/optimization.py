"""Keys of ``optimizer``, ``schedule`` and ``ema``: how gradients become weights."""

from __future__ import annotations

import abc
import dataclasses
from typing import TYPE_CHECKING, Literal

from trainer.config.keys import key
from trainer.config.plugins import OPTIMIZERS, SCHEDULES
from trainer.config.registry import option, plugin_base

if TYPE_CHECKING:
    import tensorflow as tf

    from trainer.config.contracts import Rule

DecayedName = Literal["kernels", "all"]


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The keys of every optimizer."""

    name: str = key("which optimizer", "fixed")
    learning_rate: float = key("peak learning rate; the schedule multiplies it", "consent", above=0.0, maximum=1e3)

    if TYPE_CHECKING:  # each optimizer declares it itself, at the place where it stores it
        clip_norm: float | None = key("largest global gradient norm", "consent")


@option(OPTIMIZERS, "trainer.training.optimizers:adam")
@dataclasses.dataclass(frozen=True)
class AdamConfig(OptimizerConfig):
    name: Literal["adam"] = key("which optimizer", "fixed")
    beta_1: float = key("decay of the first moment", "consent", minimum=0.0, below=1.0)
    beta_2: float = key("decay of the second moment", "consent", minimum=0.0, below=1.0)
    epsilon: float = key("added to the root of the second moment", "consent", above=0.0, maximum=1.0)
    clip_norm: float | None = key("largest global gradient norm; null: no clipping", "consent", above=0.0)


@option(OPTIMIZERS, "trainer.training.optimizers:adam")
@dataclasses.dataclass(frozen=True)
class AdamWConfig(OptimizerConfig):
    name: Literal["adamw"] = key("which optimizer", "fixed")
    beta_1: float = key("decay of the first moment", "consent", minimum=0.0, below=1.0)
    beta_2: float = key("decay of the second moment", "consent", minimum=0.0, below=1.0)
    epsilon: float = key("added to the root of the second moment", "consent", above=0.0, maximum=1.0)
    weight_decay: float = key("decoupled decay of kernels, times the learning rate", "consent", minimum=0.0)
    weight_decay_on: DecayedName = key(
        "what optimizer.weight_decay decays: kernels; all: norms and biases too", "consent"
    )
    clip_norm: float | None = key("largest global gradient norm; null: no clipping", "consent", above=0.0)


@option(OPTIMIZERS, "trainer.training.optimizers:sgd")
@dataclasses.dataclass(frozen=True)
class SGDConfig(OptimizerConfig):
    name: Literal["sgd"] = key("which optimizer", "fixed")
    momentum: float = key("decay of the velocity", "consent", minimum=0.0, below=1.0)
    nesterov: bool = key("look ahead along the velocity", "consent")
    clip_norm: float | None = key("largest global gradient norm; null: no clipping", "consent", above=0.0)


@option(OPTIMIZERS, "trainer.training.optimizers:rmsprop")
@dataclasses.dataclass(frozen=True)
class RMSPropConfig(OptimizerConfig):
    name: Literal["rmsprop"] = key("which optimizer", "fixed")
    rho: float = key("decay of the mean square", "consent", minimum=0.0, below=1.0)
    momentum: float = key("decay of the momentum slot", "consent", minimum=0.0, below=1.0)
    epsilon: float = key("added to the mean square inside the root", "consent", above=0.0, maximum=10.0)
    initial_mean_square: float = key(
        "where the mean square starts: 1 in TensorFlow 1 and the paper's recipe, 0 in Keras", "consent", minimum=0.0
    )
    clip_norm: float | None = key("largest global gradient norm; null: no clipping", "consent", above=0.0)


@plugin_base(OPTIMIZERS, "trainer.training.optimizer_plugin:plugged_rule")
@dataclasses.dataclass(frozen=True)
class OptimizerPlugin(OptimizerConfig, abc.ABC):
    """Base of an optimizer from another distribution, found by an entry point in ``trainer.optimizers``. It adds its
    keys.
    """

    clip_norm: float | None = key("largest global gradient norm; null: no clipping", "consent", above=0.0)

    @abc.abstractmethod
    def rule(self) -> Rule:
        """The slots that each variable has, and what a step does to a variable and its slots: ``trainer.plugins.Rule``.

        Between steps the rule keeps nothing but the slots. It assigns with ``trainer.plugins.assign``, ``assign_sub``
        or ``tf.raw_ops.ResourceApply…`` with ``variable.handle``: several replicas each change their own copy.
        """


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """The keys of every schedule: a warm-up."""

    name: str = key("which schedule", "consent")
    warmup_epochs: float = key("linear warm-up, used when warmup_steps is null", "consent", minimum=0.0)
    warmup_steps: int | None = key("linear warm-up from 0; null: warmup_epochs", "consent", minimum=0, completed=True)


@option(SCHEDULES, "trainer.training.schedules:constant")
@dataclasses.dataclass(frozen=True)
class ConstantScheduleConfig(ScheduleConfig):
    name: Literal["constant"] = key("which schedule", "consent")


@option(SCHEDULES, "trainer.training.schedules:exponential")
@dataclasses.dataclass(frozen=True)
class ExponentialScheduleConfig(ScheduleConfig):
    name: Literal["exponential"] = key("which schedule", "consent")
    decay_rate: float = key("factor for each decay period", "consent", above=0.0, maximum=1.0)
    decay_epochs: float = key("length of a decay period, used when decay_steps is null", "consent", above=0.0)
    decay_steps: int | None = key("length of a decay period; null: decay_epochs", "consent", minimum=1, completed=True)
    staircase: bool = key("decay at the end of each period instead of continuously", "consent")
    minimum_fraction: float = key("floor, as a share of the peak", "consent", minimum=0.0, maximum=1.0)


@dataclasses.dataclass(frozen=True)
class EndingScheduleConfig(ScheduleConfig):
    """The keys of every schedule that spans a run from its beginning to its end."""

    decay_steps: int | None = key(
        "step at which the schedule ends; null: the length of the run when it starts",
        "consent",
        minimum=1,
        completed=True,
    )


@option(SCHEDULES, "trainer.training.schedules:cosine")
@dataclasses.dataclass(frozen=True)
class CosineScheduleConfig(EndingScheduleConfig):
    name: Literal["cosine"] = key("which schedule", "consent")
    decay_steps: int | None = key(
        "step at which the floor is reached; null: the length of the run when it starts",
        "consent",
        minimum=1,
        completed=True,
    )
    minimum_fraction: float = key("floor, as a share of the peak", "consent", minimum=0.0, maximum=1.0)


@plugin_base(SCHEDULES, "trainer.training.schedules:plugged")
@dataclasses.dataclass(frozen=True)
class SchedulePlugin(EndingScheduleConfig, abc.ABC):
    """Base of a schedule from another distribution, by an entry point in ``trainer.schedules``. It adds its keys."""

    @abc.abstractmethod
    def factor(self, step: tf.Tensor) -> tf.Tensor:
        """The share of the peak learning rate, float64 ``[]``, at ``step``, float64 ``[]``. It depends on the step and
        the keys alone. The warm-up is applied to it afterwards.
        """


@dataclasses.dataclass(frozen=True)
class EmaConfig:
    decay: float | None = key(
        "decay of the exponential moving average of the weights; null: none", "fixed", minimum=0.0, below=1.0
    )
    warmup: bool = key("use min(decay, (1 + step) / (10 + step))", "consent")
    batch_norm: bool = key("average the batch norm statistics too", "fixed")
