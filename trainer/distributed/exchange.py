"""Whether this process waits for the other processes of the run: in an exchange of numbers, or for a decision.

All processes exchange the same numbers in the same order, and an exchange ends when the last one has come. So a process
that does not come holds up all others, and they cannot know by their own step which one it is. But each knows where it
is itself: one that has come waits, and is not the cause (``trainer.run.watchdog``).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Exchange:
    """Where this process stands among the exchanges of the run."""

    def __init__(self) -> None:
        self._waiting: dict[object, int] = {}
        self._lock = threading.Lock()
        self.changes = 0  # each arrival and each end is progress

    @property
    def is_waited_for(self) -> bool:
        """Whether this process has come to an exchange that has not ended."""
        return bool(self._waiting)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """The block is an exchange, to which this process has come."""
        place = object()
        self.arrive(place)
        try:
            yield
        finally:
            self.leave(place)

    def arrive(self, place: object) -> None:
        """This process has come to the exchange ``place``, perhaps with several of its devices."""
        with self._lock:
            self._waiting[place] = self._waiting.get(place, 0) + 1
            self.changes += 1

    def leave(self, place: object) -> None:
        """The exchange ``place`` has ended."""
        with self._lock:
            self._waiting.pop(place, None)
            self.changes += 1


OWN = Exchange()  # of this process
STEP = "step"  # the exchange of gradients inside a step
EVALUATION = "evaluation"  # that of the sums of a batch
