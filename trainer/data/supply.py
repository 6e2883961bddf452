"""Batches taken by a thread of their own, so that who waits for one can be interrupted, and hears of a stall.

A call into TensorFlow does not return before the batch is there, and until then Python handles no signal. On a
filesystem that stalls this takes longer than a job has between SIGTERM and SIGKILL.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from trainer.data import reads
from trainer.data.batch import Batch

STALLED_SECONDS = 10.0  # without a batch, until the first message
LOOK_SECONDS = 0.2  # how often a request to stop is looked for


class WaitEnded(Exception):
    """The next batch is not there, and it is not waited for any longer."""


class Supply(Iterator[Batch]):
    """``batches`` in their order. While one is waited for, ``give_up`` is asked again and again whether to go on;
    ``warn`` gets a text when the wait is long, and when it is over after all.
    """

    def __init__(self, batches: Iterable[Batch], give_up: Callable[[], bool], warn: Callable[[str], None]) -> None:
        self._give_up = give_up
        self._warn = warn
        self._asked: queue.SimpleQueue[bool] = queue.SimpleQueue()  # for a batch; False: for no more
        self._taken: queue.SimpleQueue[Batch | BaseException] = queue.SimpleQueue()
        self._waiting = False  # a batch was asked for, and has not come
        # the thread alone holds the pipeline: to end it waits for the reads in it
        threading.Thread(target=_take, args=(batches, self._asked, self._taken), name="batches", daemon=True).start()

    def __next__(self) -> Batch:
        """
        Raises:
            WaitEnded: ``give_up`` answers yes before the batch is there. The next call returns it.
            UsageError: it cannot be read.
        """
        if not self._waiting:
            self._waiting = True
            self._asked.put(True)
        taken = self._wait()
        self._waiting = False
        if isinstance(taken, BaseException):
            raise taken
        return taken

    def _wait(self) -> Batch | BaseException:
        began, said_after = time.monotonic(), STALLED_SECONDS
        while True:
            try:
                taken = self._taken.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                waited = time.monotonic() - began
                if self._give_up():
                    raise WaitEnded from None
                if waited >= said_after:
                    self._warn(f"no batch for {waited:.0f} s: {_what_is_read()}")
                    said_after *= 2
            else:
                if said_after > STALLED_SECONDS:
                    self._warn(f"the data came after {time.monotonic() - began:.0f} s, and training goes on")
                return taken

    def close(self) -> None:
        """End the thread, as soon as it has read what it reads."""
        self._asked.put(False)


def _take(
    batches: Iterable[Batch], asked: queue.SimpleQueue[bool], taken: queue.SimpleQueue[Batch | BaseException]
) -> None:
    supply = None
    while asked.get():
        try:
            supply = iter(batches) if supply is None else supply
            taken.put(next(supply))
        except BaseException as error:  # raised where the batch was asked for
            taken.put(error)


def _what_is_read() -> str:
    longest = reads.longest()
    if longest is None:
        return "nothing is being read; the pipeline begins, or decodes and augments slowly"
    place, seconds = longest
    return f"reading {place} has taken {seconds:.0f} s so far"
