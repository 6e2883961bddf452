"""The judgement of the watchdog: when does a process that makes no progress hang? Plain numbers in, a verdict out."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Hashable, Sequence

from trainer.config.schema.training import WatchdogConfig
from trainer.run_directory.phases import Phase

MEDIANS = 5.0  # a step may take so many times the median of the last ones
LONGEST = 2.0  # and so many times the longest: an accelerator works off several steps at once
REMEMBERED = 100  # steps
MEASURED: tuple[Phase, ...] = ("training", "validating")  # phases of many like parts, whose durations are known


@dataclasses.dataclass(frozen=True)
class Hang:
    """A process has made no progress for ``seconds``, although ``limit`` were allowed."""

    phase: Phase
    seconds: float
    limit: float


def limit(phase: Phase, limits: WatchdogConfig, durations: Sequence[float], enough: int) -> float | None:
    """After how many seconds without progress a process hangs in this phase; None: never.

    ``durations`` are those of the last steps, or of the last batches of validations. With fewer than ``enough`` of
    them, any may still be one that is compiled.
    """
    own: float | None = getattr(limits, phase)
    if own is None or phase not in MEASURED:
        return own
    if len(durations) < enough:
        return None if limits.tracing is None else max(own, limits.tracing)
    return max(own, MEDIANS * statistics.median(durations), LONGEST * max(durations))


def judge(phase: Phase, idle: float, limits: WatchdogConfig, durations: Sequence[float], enough: int) -> Hang | None:
    """The verdict on a process that has made no progress for ``idle`` seconds in which it could run."""
    allowed = limit(phase, limits, durations, enough)
    return Hang(phase, idle, allowed) if allowed is not None and idle > allowed else None


class Idle:
    """How long something has not changed, by a clock that its caller reads."""

    def __init__(self) -> None:
        self._mark: Hashable = None
        self._since = 0.0

    def at(self, now: float, mark: Hashable) -> float:
        """Seconds since ``mark`` was another one."""
        if mark != self._mark:
            self._mark, self._since = mark, now
        return now - self._since
