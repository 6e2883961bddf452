"""A learning rate range test (arXiv 1506.01186, section 3.3): steps at rising rates, and what their losses say.

The first step has the lowest rate, each other one a constant factor more. The state that is trained is spent
afterwards: the caller gives a copy.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from trainer.config.schema import Config
from trainer.config.schema.optimization import SchedulePlugin
from trainer.data.batch import Batch
from trainer.training.state import TrainingState
from trainer.training.step import make_train_step

GIVEN_UP = 4.0  # the loss has left for good when the smoothed one is this many times its lowest value
WIDTH = 40  # the losses are smoothed over 1 / WIDTH of the steps to either side, as the deviation of a normal curve
BELOW_LOWEST = 10.0  # the rate of the lowest loss is where training is about to diverge: a tenth of it is usual
LEAST_STEPS = 10
BEGINNING = 10  # the first 1 / BEGINNING of the steps say what the loss is before it falls
CERTAIN = 4.0  # a fall of so many standard errors is no accident of the batches, which have many chances


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Rising(SchedulePlugin):
    """1 at step ``first``, ``factor_of_step`` times as much at each step after it."""

    first: int
    factor_of_step: float

    def factor(self, step: tf.Tensor) -> tf.Tensor:
        return tf.pow(tf.constant(self.factor_of_step, tf.float64), step - self.first)


@dataclasses.dataclass(frozen=True)
class Tried:
    """One step: its learning rate, and the training loss before it."""

    rate: float
    loss: float


@dataclasses.dataclass(frozen=True)
class Finding:
    """What the losses say. ``smoothed`` has one value for each step. ``rate`` is None where no rate can be suggested,
    and ``reason`` says why, or what the suggestion is made of.
    """

    smoothed: Sequence[float]
    rate: float | None
    reason: str


def rates(lowest: float, highest: float, steps: int) -> list[float]:
    """``steps`` rates from ``lowest`` to ``highest``, each the same factor above the one before."""
    return [lowest * _factor(lowest, highest, steps) ** number for number in range(steps)]


def try_rates(
    state: TrainingState, config: Config, batches: Iterable[Batch], lowest: float, highest: float, steps: int
) -> Iterator[Tried]:
    """Train ``state``, and give each step when it was made. Ends early when the loss is no longer finite or has left
    for good.

    Everything but the rate is that of a run: the examples in their order, the optimizer with what it keeps of earlier
    steps, and which layers are trained at this step.
    """
    factor = _factor(lowest, highest, steps)
    first = int(state.progress.step.numpy())
    rising = _Rising("rising", 0.0, 0, None, first=first, factor_of_step=factor)
    config = dataclasses.replace(
        config,
        optimizer=dataclasses.replace(config.optimizer, learning_rate=lowest),
        schedule=rising,
        divergence=dataclasses.replace(config.divergence, learning_rate_factor=1.0),
    )
    train_step = make_train_step(state, config)
    tried: list[Tried] = []
    for rate, batch in zip(rates(lowest, highest, steps), batches, strict=False):
        loss = float(train_step(batch).loss.numpy())
        tried.append(Tried(rate, loss))
        yield tried[-1]
        if not math.isfinite(loss) or _has_left(tried):
            return


def judge(tried: Sequence[Tried]) -> Finding:
    """Where the loss is lowest, and a rate to train with: a tenth of that.

    None is suggested where the losses do not tell one: they hardly fall, they fall to the last rate, or they rise from
    the first one on.
    """
    losses = np.array([each.loss for each in tried if math.isfinite(each.loss)])
    smoothed = _smooth(losses)
    if len(losses) < LEAST_STEPS:
        return Finding(
            smoothed.tolist(), None, f"the loss was finite for {len(losses)} steps only; try a lower lowest="
        )
    lowest = int(np.argmin(smoothed))
    beginning = max(LEAST_STEPS // 2, len(losses) // BEGINNING)
    rate, fall = tried[lowest].rate, float(np.mean(losses[:beginning]) - smoothed[lowest])
    if lowest < beginning:
        reason = f"the loss rises from the lowest rate on, {rate:.2g}; try a lower lowest="
        return Finding(smoothed.tolist(), None, reason)
    doubt = CERTAIN * _standard_error(losses, smoothed, lowest)
    if fall <= doubt:
        reason = (
            f"at no rate does the loss fall by more than the batches differ: it falls by {fall:.2g}, and {doubt:.2g} "
            "can be an accident; try more steps=, or a larger train.global_batch_size"
        )
        return Finding(smoothed.tolist(), None, reason)
    if lowest == len(smoothed) - 1:
        reason = f"the loss still falls at the highest rate that was tried, {rate:.2g}; try a higher highest="
        return Finding(smoothed.tolist(), None, reason)
    suggested = float(f"{rate / BELOW_LOWEST:.2g}")
    return Finding(
        smoothed.tolist(), suggested, f"a tenth of {rate:.2g}, at which the loss is lowest before it rises again"
    )


def _factor(lowest: float, highest: float, steps: int) -> float:
    return float((highest / lowest) ** (1.0 / (steps - 1)))


def _has_left(tried: Sequence[Tried]) -> bool:
    if len(tried) < LEAST_STEPS:
        return False
    smoothed = _smooth(np.array([each.loss for each in tried]))
    return float(smoothed[-1]) > GIVEN_UP * float(np.min(smoothed)) > 0.0


def _smooth(losses: np.ndarray) -> np.ndarray:
    """Weighted means around each step, float64 ``[n]``. Unlike a running mean, they do not lag behind the rate."""
    count = len(losses)
    places = np.arange(count)
    weights = np.exp(-0.5 * np.square((places[:, None] - places) / _deviation(count)))
    return np.asarray(weights @ losses / weights.sum(axis=1))


def _deviation(count: int) -> float:
    return max(1.0, count / WIDTH)


def _standard_error(losses: np.ndarray, smoothed: np.ndarray, end: int) -> float:
    """Of the difference of two smoothed losses before ``end``, by how much the losses differ from one another there."""
    neighbours = np.diff(losses[: end + 1])
    deviation = float(np.sqrt(np.mean(np.square(neighbours)) / 2.0))  # a trend adds little between neighbours
    together = 2.0 * math.sqrt(math.pi) * _deviation(len(losses))  # steps that one mean is made of
    return deviation * math.sqrt(2.0 / together)
