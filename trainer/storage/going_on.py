"""What the threads of this process do that may take long, or never end: reads and writes of files, calls to servers.

For a message about one that does not end, and for the watchdog (``trainer.run.watchdog``): an end is progress.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator


@dataclasses.dataclass(frozen=True, eq=False)
class Doing:
    """``what`` is done, by a thread, since a moment (seconds of the monotonic clock)."""

    what: Callable[[], str]
    since: float


class GoingOn:
    """What threads of this process do at present, of one kind."""

    def __init__(self) -> None:
        self._stacks: dict[int, list[Doing]] = {}  # by thread; inner ones last
        self.ended = 0  # how many have ended, with or without an error

    @contextlib.contextmanager
    def doing(self, what: Callable[[], str]) -> Iterator[None]:
        """The block does ``what`` names. A part of it that is done in an inner block says more, and counts."""
        thread = threading.get_ident()
        stack = self._stacks.setdefault(thread, [])
        stack.append(Doing(what, time.monotonic()))
        try:
            yield
        finally:
            stack.pop()
            self.ended += 1
            if not stack:
                del self._stacks[thread]

    def advance(self) -> None:
        """A part of what is done has ended."""
        self.ended += 1

    def innermost(self) -> dict[int, Doing]:
        """What each thread does, by the thread's number."""
        tops = {thread: stack[-1:] for thread, stack in list(self._stacks.items())}  # the threads go on meanwhile
        return {thread: top[0] for thread, top in tops.items() if top}

    def longest(self) -> tuple[str, float] | None:
        """What is done since the longest time, and how many seconds; None when nothing is done."""
        there = list(self.innermost().values())
        if not there:
            return None
        first = min(there, key=lambda each: each.since)
        return first.what(), time.monotonic() - first.since


WRITES = GoingOn()  # of files of a run
COPIES = GoingOn()  # calls to the filesystem of a mirror
