"""When a run saves by time: ``checkpoint.every_minutes``, and the interval that ``checkpoint.every_steps=auto`` finds.

Where a checkpoint is made depends on time; nothing that is computed does. With several processes the chief alone
writes, so its clock decides; the others save nothing, and what they find out here changes nothing.

The interval follows from three times. The cost of a save is measured: the time that the loop is blocked, and the time
that steps take longer while the save is written beside them. So is the cost of a start, over the lives of the run. The
time between failures is assumed, and shorter where the run has failed more often than that.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from trainer.config.schema.training import AUTO, CheckpointConfig
from trainer.run_directory.costs import SaveCost
from trainer.training.interfaces import Clock

# Until a save was measured, one is made so long after the first step: soon enough that a run which is killed every
# minute gets on, and late enough that a run of seconds is not disturbed. From there the interval doubles.
FIRST_SECONDS = 10.0
SHORTEST = 1.0  # seconds; more often, a filesystem is asked for more than the steps are worth
LONGEST = 1800.0  # seconds; whatever a save costs, half an hour of work is the most that is risked
# An interval of no less than so many times the time until a checkpoint is committed: the loop never waits for the save
# before, and half of the steps are made without a save beside them, to compare with.
WRITES_APART = 2.0
# How many failures the assumed time between them weighs as much as. A run that is killed three times in its first
# minutes believes it soon. An interval that is wrong by a factor of two costs little: the loss is flat around its
# minimum.
ASSUMED_FAILURES = 0.25
LATEST = 8  # saves that are looked at: the median leaves out a hiccup, and a machine may get slower or faster
WORTH_A_LINE = 2.0  # a factor by which the interval has changed since it was said


class SaveInterval:
    """Measures saves, and says when the next is due by time.

    ``clock`` knows what earlier lives of the run have measured, and is told what this one measures. ``say`` gets a line
    when the interval is first known, and when it has changed a lot.
    """

    def __init__(self, policy: CheckpointConfig, clock: Clock, say: Callable[[str], None]) -> None:
        self._policy = policy
        self._clock = clock
        self._earlier = clock.earlier
        self._say = say
        self._began = self._saved = time.monotonic()
        self._mark: float | None = None  # when the last step ended; None before the first, which is traced
        self._risked = math.inf  # since when steps would be lost
        self._save: _Save | None = None  # in flight
        self._saves: deque[_Save] = deque(maxlen=LATEST)
        self._quiet: deque[tuple[float, int]] = deque([(0.0, 0)], LATEST + 1)  # seconds and steps between saves
        self._steps = 0
        self._ramp = FIRST_SECONDS
        self._interval: float | None = None
        self._said: float | None = None

    @property
    def cost(self) -> SaveCost | None:
        """What a save costs: the median of the latest; None as long as this process has measured none."""
        if not self._saves:
            return None
        usual = self._usual_step()
        stalls = [max(save.blocked, save.blocked + save.seconds - save.steps * usual) for save in self._saves]
        written = [save.written for save in self._saves]
        return SaveCost(max(0.0, statistics.median(stalls)), statistics.median(written))

    def is_over(self) -> bool:
        """Whether a save is due by time."""
        now, minutes = time.monotonic(), self._policy.every_minutes
        if minutes is not None and now - self._saved >= 60 * minutes:
            return True
        if self._policy.every_steps != AUTO:
            return False
        if self._save is not None:
            return False  # it could not begin before the one in flight has ended
        return now - self._risked >= (self._ramp if self._interval is None else min(self._interval, self._ramp))

    def step(self, *, writing: bool) -> None:
        """A step was made, or none yet at the first call. ``writing``: a save is in flight."""
        now = time.monotonic()
        self._steps += 1
        if self._steps <= 2:  # nothing was made yet; the first step is traced
            self._mark = now
            if self._steps == 2:
                self._risked = now
                self._decide()
            return
        assert self._mark is not None
        seconds, self._mark = now - self._mark, now
        if self._save is None:
            before, count = self._quiet[-1]
            self._quiet[-1] = before + seconds, count + 1
            return
        self._save.seconds += seconds
        self._save.steps += 1
        if not writing:
            self._save.written = now - self._save.began
            if len(self._saves) == 1 and self._saves[0].is_first:  # it made what later ones use
                self._saves.clear()
            self._saves.append(self._save)
            self._quiet.append((0.0, 0))
            self._save = None
            self._decide()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The time of the block belongs to no step."""
        began = time.monotonic()
        yield
        if self._mark is not None:
            self._mark += time.monotonic() - began

    @contextmanager
    def saving(self) -> Iterator[None]:
        """A save is made in the block; it may go on behind it."""
        is_first = self._save is None and not self._saves
        began = time.monotonic()
        with self.paused():
            yield
        now = time.monotonic()
        if now - self._risked >= self._ramp:
            self._ramp *= 2
        self._saved = now
        self._risked = now if self._steps > 1 else math.inf
        self._save = _Save(began, now - began, is_first)

    def _usual_step(self) -> float:
        """Seconds of a step without a save beside it; 0 where there was none."""
        seconds, steps = (sum(values) for values in zip(*self._quiet, strict=True))
        return seconds / steps if steps else 0.0

    def _decide(self) -> None:
        if self.cost is not None:
            self._clock.measured(self.cost)
        cost = self.cost or self._earlier.save
        if cost is None or self._policy.every_steps != AUTO:
            return
        if self.cost is None:
            self._ramp = math.inf  # an earlier life has measured it
        starts = [*self._earlier.starts, self._clock.start_seconds()]
        failure = seconds_between_failures(
            60 * self._policy.mean_minutes_between_failures, self._running(), self._earlier.failures
        )
        self._interval = interval(cost, statistics.mean(starts), failure)
        if self._saves and self._saves[0].is_first:
            return  # too long to be worth saying, and made up for soon: the interval is at most doubled
        if self._said is None or not 1 / WORTH_A_LINE < self._interval / self._said < WORTH_A_LINE:
            self._said = self._interval
            self._say(self._text(cost, statistics.mean(starts), failure))

    def _running(self) -> float:
        return self._earlier.running + time.monotonic() - self._began

    def _text(self, cost: SaveCost, start: float, failure: float) -> str:
        assert self._interval is not None
        usual = self._usual_step()
        steps = f", about {self._interval / usual:,.0f} steps" if usual else ""
        minutes = f"checkpoint.mean_minutes_between_failures={self._policy.mean_minutes_between_failures:g}"
        assumed = f"assumed: {minutes}"
        if self._earlier.failures:
            count = "1 failure" if self._earlier.failures == 1 else f"{self._earlier.failures} failures"
            ran = f"{count} in {self._running() / 60:.3g} minutes"
            assumed = f"seen: {ran}, with {minutes} one in {failure / 60:.3g} minutes"
        return (
            f"checkpoint.every_steps=auto: a checkpoint every {self._interval:.3g} s{steps}; measured: a save costs "
            f"{cost.stall:.2g} s and is committed after {cost.written:.2g} s, a start takes {start:.2g} s; {assumed}"
        )


class _Save:
    """A save, in seconds: when it began, how long it blocked the loop, and the steps made while it was written."""

    def __init__(self, began: float, blocked: float, is_first: bool) -> None:
        self.began = began
        self.blocked = blocked
        self.is_first = is_first  # of the process
        self.seconds, self.steps = 0.0, 0
        self.written = 0.0  # until it was seen to be committed


def interval(save: SaveCost, start: float, between_failures: float) -> float:
    """Seconds from one save to the next that leave the most of the time to steps that are kept.

    This is the interval of the best availability of Saxena et al., arXiv 2410.18124: with the cost ``Ts`` of a save,
    the mean time ``Tf`` between failures and ``Tr`` until the run goes on, ``Ts + √(2 (Tf + Tr) Ts + Ts²)``. Young's
    ``√(2 Tf Ts)`` (1974) is its limit for a small ``Ts`` and ``Tr``.
    """
    cost = save.stall
    best = cost + math.sqrt(2 * (between_failures + start) * cost + cost**2)
    return max(SHORTEST, WRITES_APART * save.written, min(best, LONGEST))


def seconds_between_failures(assumed: float, running: float, failures: int) -> float:
    """The mean time between failures to reckon with, after ``failures`` of them in ``running`` seconds: at most what is
    assumed. A run that is left in peace says little about the next day.
    """
    return min(assumed, (ASSUMED_FAILURES * assumed + running) / (ASSUMED_FAILURES + failures))
