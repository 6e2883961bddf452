"""Batches read ahead of their use, so that one that cannot be read is known in time."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from trainer.data.batch import Batch
from trainer.data.supply import WaitEnded
from trainer.errors import UsageError


class Ahead(Iterator[Batch]):
    """``batches`` in their order. With each one, ``depth`` more have been read. When one cannot be read, ``failed`` is
    called with its error at once, and that error is raised where its batch would be.
    """

    def __init__(self, batches: Iterable[Batch], depth: int, failed: Callable[[UsageError], None]) -> None:
        self._batches = iter(batches)
        self._depth = depth
        self._failed = failed
        self._read: deque[Batch] = deque()
        self._error: UsageError | None = None
        self._ended = False

    def look(self) -> None:
        """Read the first ones, unless that wait is ended: see ``trainer.data.supply``."""
        with contextlib.suppress(WaitEnded):
            self._read_up_to(self._depth)

    def __next__(self) -> Batch:
        """
        Raises:
            WaitEnded: nothing that was read is left, and more is not waited for.
            UsageError: the batch cannot be read.
        """
        try:
            self._read_up_to(self._depth + 1)
        except WaitEnded:
            if not self._read:
                raise
        if self._read:
            return self._read.popleft()
        if self._error is not None:
            raise self._error
        raise StopIteration

    def _read_up_to(self, count: int) -> None:
        while len(self._read) < count and self._error is None and not self._ended:
            try:
                self._read.append(next(self._batches))
            except StopIteration:
                self._ended = True
            except UsageError as error:
                self._error = error
                self._failed(error)
