"""Which reads of data are going on: for a message about one that does not end, as on a filesystem that stalls."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

# thread → what it reads and since when; inner reads last
_going_on: dict[int, list[tuple[Callable[[], str], float]]] = {}


@contextlib.contextmanager
def reading(place: Callable[[], str]) -> Iterator[None]:
    """The block reads what ``place`` names. A part of it that is read in an inner block says more, and counts."""
    thread = threading.get_ident()
    stack = _going_on.setdefault(thread, [])
    stack.append((place, time.monotonic()))
    try:
        yield
    finally:
        stack.pop()
        if not stack:
            del _going_on[thread]


def longest() -> tuple[str, float] | None:
    """What is read since the longest time, and how many seconds; None when nothing is read."""
    inner = [stack[-1] for stack in list(_going_on.values()) if stack]
    if not inner:
        return None
    place, since = min(inner, key=lambda each: each[1])
    return place(), time.monotonic() - since
