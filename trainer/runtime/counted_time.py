"""Time in which this process could run, for judgements about what takes too long.

A process may be stopped (SIGSTOP, a batch system that suspends a job) or its machine be suspended. When it goes on,
hours have passed in which nothing could have happened. They say nothing about what it was doing.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class CountedTime:
    """Seconds in which this process ran. Whoever reads it does so every ``every`` seconds, or a little later under
    load. Of a longer time between two readings, no more than twice that counts.
    """

    def __init__(self, every: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._longest = 2 * every
        self._clock = clock
        self._read = clock()
        self.seconds = 0.0  # at the last reading

    def read(self) -> float:
        now = self._clock()
        self.seconds += min(max(0.0, now - self._read), self._longest)
        self._read = now
        return self.seconds
