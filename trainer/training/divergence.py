"""Which steps diverge: judged in every step, from rolling statistics that are part of the state.

**Rule.** A step diverges when its loss, its gradient norm or a variable of the network is not finite after it; or when
the loss or the gradient norm is far above what is usual: its logarithm is more than ``divergence.factor`` standard
deviations above the mean. Both are positive, and the norms of healthy steps differ by factors rather than by amounts,
so it is the logarithm that has a meaningful deviation. Mean and variance are those of all steps until there are
``divergence.window``; from then on a step counts 1 / window (an exponential average). Nothing is compared before.

**Why in the state.** The statistics are sums over the steps that were made. So a run that is resumed judges a step as
one that was never interrupted, and so does one that was given ``train.skip_examples`` from the start.

**Where.** The judgement is part of the compiled step and costs two reductions; the host reads it one step later, when
the device is busy with the next, and at once where something would be made of the step: a record, a validation, a
checkpoint. Whether a step diverges does not depend on when that is read. All processes of a run judge the same sums.

A loss scale has steps that are not finite as a matter of course, and skips them. There, one diverges only when the
scale is as low as it can be.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from trainer.config.schema import Config
from trainer.errors import Diverged
from trainer.training.gradients import is_scaled
from trainer.training.loss_scale import MINIMUM
from trainer.training.state import TrainingState

# A deviation below this does not count as one: of a loss that hardly varies, half as much again is no divergence.
LEAST_DEVIATION = 0.2  # of the logarithm
LEAST = 1e-8  # of a loss or a norm: smaller ones are alike, and 0 has no logarithm


class Judged(NamedTuple):
    """The judgement of a step, and the largest loss and gradient norm that would have been usual, float64 ``[]``."""

    diverged: tf.Tensor  # bool []
    sound: tf.Tensor  # bool [], whether all variables of the network are finite
    largest_loss: tf.Tensor
    largest_norm: tf.Tensor


Judge = Callable[[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor], Judged]


def make_judge(state: TrainingState, config: Config) -> Judge:
    """A function that judges one step by its loss and gradient norm, float32 ``[]``, whether the update was made, and
    whether all variables are finite after it, bool ``[]`` both; and that moves the statistics in ``state``.
    """
    statistics, factor = state.divergence, config.divergence.factor

    def limit(name: str) -> tf.Tensor:
        """The largest usual value; infinite as long as too few steps are known."""
        deviation = tf.maximum(tf.sqrt(statistics[f"{name}_variance"]), LEAST_DEVIATION)
        known = statistics["steps"] >= config.divergence.window
        return tf.where(known, tf.exp(statistics[f"{name}_mean"] + factor * deviation), math.inf)

    def move(name: str, value: tf.Tensor, share: tf.Tensor, *, counts: tf.Tensor) -> None:
        mean, variance = statistics[f"{name}_mean"], statistics[f"{name}_variance"]
        change = tf.where(counts, tf.math.log(tf.maximum(value, LEAST)) - mean, 0.0)
        share = tf.where(counts, share, 0.0)
        variance.assign((1.0 - share) * (variance + share * change * change))
        mean.assign_add(share * change)

    def judge(loss: tf.Tensor, norm: tf.Tensor, made: tf.Tensor, sound: tf.Tensor) -> Judged:
        loss, norm = tf.cast(loss, tf.float64), tf.cast(norm, tf.float64)
        largest_loss, largest_norm = limit("loss"), limit("norm")
        usual = (loss <= largest_loss) & (norm <= largest_norm)  # false for NaN
        finite = tf.math.is_finite(loss) & tf.math.is_finite(norm)
        fine = usual & finite & sound
        if is_scaled(config):
            fine = tf.where(made, fine, state.progress.loss_scale > MINIMUM)
        counts = fine & made
        statistics["steps"].assign_add(tf.cast(counts, tf.int64))
        seen = tf.minimum(statistics["steps"], config.divergence.window)
        share = 1.0 / tf.cast(tf.maximum(seen, 1), tf.float64)
        move("loss", loss, share, counts=counts)
        move("norm", norm, share, counts=counts)
        return Judged(~fine, sound, largest_loss, largest_norm)

    return judge


class Step(NamedTuple):
    """A step that was made and not looked at: its number, the first of its examples and the one after its last."""

    number: int
    first: int
    end: int
    loss: tf.Tensor
    gradient_norm: tf.Tensor
    judged: Judged


class Watch:
    """The steps whose judgement the host has not read yet. The next one to be made begins at example ``position``."""

    def __init__(self, position: int, batch_size: int) -> None:
        self._position = position
        self._batch_size = batch_size
        self._steps: list[Step] = []

    def add(self, number: int, loss: tf.Tensor, gradient_norm: tf.Tensor, judged: Judged | None) -> None:
        """A step was made; ``judged`` is None where nothing is."""
        first = self._position
        self._position += self._batch_size
        if judged is not None:
            self._steps.append(Step(number, first, self._position, loss, gradient_norm, judged))

    def look(self, *, newest: bool) -> None:
        """Read all judgements, that of the last step only with ``newest``.

        Raises:
            Diverged: a step has diverged; of several, the first is told.
        """
        while len(self._steps) > (0 if newest else 1):
            step = self._steps[0]
            if step.judged.diverged.numpy():
                raise Diverged(*_what(step), step.number, step.first, step.end)
            del self._steps[0]

    def is_sound(self) -> bool:
        """Whether no step that was made so far has diverged."""
        return not any(step.judged.diverged.numpy() for step in self._steps)


def _what(step: Step) -> tuple[str, str]:
    """What makes the step a divergence, and what would be usual, in words."""
    loss, norm = float(step.loss.numpy()), float(step.gradient_norm.numpy())
    largest_loss, largest_norm = float(step.judged.largest_loss.numpy()), float(step.judged.largest_norm.numpy())
    if not math.isfinite(loss):
        return f"the training loss is {loss}", ""
    if not math.isfinite(norm):
        return f"the gradient norm is {norm}", ""
    if not step.judged.sound.numpy():
        return "a variable is not finite", ""
    if loss > largest_loss:
        return f"the training loss is {loss:.4g}", f" (usual: up to {largest_loss:.4g})"
    return f"the gradient norm is {norm:.4g}", f" (usual: up to {largest_norm:.4g})"
