"""Which process of a run is slow. All end a step together, so the time of a step does not show it: what differs is the
time that each needs for its own work, from one exchange of gradients to the next, and that the others wait for it.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

STEPS = 100  # whose medians are compared
SLOW = 1.5  # times the median of the processes

Marks = tuple[tf.Tensor, ...]  # seconds, float64 []: begin and end of the exchange of one step; empty when not measured


def moment(computed: Sequence[tf.Tensor], note: Callable[[], None] = lambda: None) -> tf.Tensor:
    """The time, seconds of this process's clock, float64 ``[]``, when all of these have been computed, inside a
    ``tf.function``. (TensorFlow refuses its own ``tf.timestamp`` where operations are deterministic.) Then ``note`` is
    called, in a thread of TensorFlow.

    An exchange and this both count as effects, which happen in the order in which they are written. On an accelerator,
    an operation counts as done when it is queued. So a number is copied to the host first.
    """
    with tf.control_dependencies(computed):
        number = tf.reshape(computed[0], [-1])[0]

    def now_and_noted(_: object) -> np.float64:
        note()
        return np.float64(time.monotonic())

    with tf.device("/device:CPU:0"):
        now = tf.numpy_function(now_and_noted, [number], tf.float64)
    return tf.ensure_shape(now, [])


class OwnWork:
    """The time that the own work of this process takes in each step."""

    def __init__(self) -> None:
        self._marks: deque[Marks] = deque(maxlen=4)

    def add(self, marks: Marks) -> None:
        """The marks of the step that was started last."""
        self._marks.append(marks)

    def seconds(self) -> float:
        """Of the step two before the last, which has ended: to ask for a later one would wait for the device. 0.0 when
        it is not known.
        """
        if len(self._marks) < 4 or not all(self._marks):
            return 0.0
        (_, ended), (began, _), *_ = self._marks
        return max(0.0, float(began.numpy()) - float(ended.numpy()))


class Stragglers:
    """The slow ones among the processes ``names``, by rank."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._seconds: list[Sequence[float]] = []  # for each step, by rank
        self.slow: dict[int, float] = {}  # rank → how many times the median its own work takes

    def add(self, seconds: Sequence[float]) -> list[str]:
        """Take the time of each process's own work in a step; returns what is to be said about it."""
        if not seconds or not all(seconds):
            return []  # not measured, or not by all
        self._seconds.append(seconds)
        if len(self._seconds) < STEPS:
            return []
        medians = [statistics.median(of_rank) for of_rank in zip(*self._seconds, strict=True)]
        self._seconds.clear()
        usual = statistics.median_low(medians)  # of two processes, that of the faster
        before = self.slow
        self.slow = {rank: median / usual for rank, median in enumerate(medians) if median > SLOW * usual}
        said = [
            f"{self._names[rank]} is slow: its own work takes {medians[rank]:.3g} s a step, that of most processes "
            f"{usual:.3g} s (medians of {STEPS} steps); all wait for it"
            for rank in self.slow
            if rank not in before
        ]
        return said + [f"{self._names[rank]} is no longer slow" for rank in before if rank not in self.slow]

    def facts(self) -> dict[str, object]:
        """For a training record: the slowest one, if there is any."""
        if not self.slow:
            return {}
        rank = max(self.slow, key=lambda each: self.slow[each])
        return {"straggler": self._names[rank], "straggler_ratio": round(self.slow[rank], 2)}
