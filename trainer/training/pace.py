"""How long the rest of a run takes, from the steps that it has just made."""

from __future__ import annotations

from collections import deque

STEPS_NEEDED = 10  # before a time is said: the first steps are slower than those that follow


class Pace:
    """The time of the latest steps: at least ``STEPS_NEEDED`` of them."""

    def __init__(self) -> None:
        self._latest: deque[tuple[int, float]] = deque()  # steps, and the seconds that they took

    def add(self, steps: int, seconds: float) -> None:
        self._latest.append((steps, seconds))
        while sum(count for count, _ in self._latest) - self._latest[0][0] >= STEPS_NEEDED:
            self._latest.popleft()

    def seconds_for(self, steps: int) -> float | None:
        """How long so many steps will take, None as long as fewer than ``STEPS_NEEDED`` are known."""
        made = sum(count for count, _ in self._latest)
        if made < STEPS_NEEDED:
            return None
        return steps * sum(seconds for _, seconds in self._latest) / made
