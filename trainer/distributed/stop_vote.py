"""Whether a run stops. All of its processes get the same answer: if any has a reason, all stop at the same step."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.distributed import exchange
from trainer.distributed.replicas import Replicas
from trainer.errors import UsageError
from trainer.runtime.signals import STOP_SIGNALS, StopRequest

Counts = npt.NDArray[np.float32]  # by rank

ELSEWHERE = "what and why is in the output of that process"


@dataclasses.dataclass(frozen=True)
class WithoutData:
    """A process has met data that it cannot read, and so cannot make another step."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Stalled:
    """A process hangs, as its watchdog has found, where it can still be stopped: it waits for data."""

    reason: str


class StopVote:
    """Every process polls equally often, at the same places."""

    def __init__(self, stop: StopRequest, replicas: Replicas, is_asked_elsewhere: Callable[[], bool]) -> None:
        self._stop = stop
        self._is_asked_elsewhere = is_asked_elsewhere
        self._replicas = replicas
        self._asked: tf.Tensor | None = None
        self._own_seconds = 0.0
        self._seconds: list[float] = []
        self._error: UsageError | None = None
        self._stalled: Stalled | None = None

    @property
    def is_shared(self) -> bool:
        """Whether there are other processes. They must know the reason one poll before they stop."""
        return self._replicas.processes > 1

    def is_asked(self) -> bool:
        """Whether this process knows of a request to stop, to whichever process, on which all have yet to agree."""
        return self._stop.signal is not None or self._stalled is not None or self._is_asked_elsewhere()

    def data_failed(self, error: UsageError) -> None:
        """This process cannot read a batch that it is going to need."""
        self._error = error

    def stall(self, reason: str) -> None:
        """This process hangs, for a reason that messages can give; called in the thread of its watchdog."""
        self._stalled = Stalled(reason)

    @property
    def stalled(self) -> Stalled | None:
        """Why this process hangs, if it does."""
        return self._stalled

    def note(self, own_seconds: float) -> None:
        """How long the own work of this process took in a step; the next poll tells it to the others."""
        self._own_seconds = own_seconds

    def work_seconds(self) -> list[float]:
        """What the processes have noted, by rank, as the last poll has told; empty when there are no others."""
        return self._seconds

    @property
    def is_chief(self) -> bool:
        return self._replicas.process == 0

    def poll(self) -> signal.Signals | WithoutData | Stalled | None:
        """The signal that stops the run, a hang that does, or, with several processes, data that are missing; None if
        nothing does.

        With several processes this is the answer to the previous poll: waiting for the latest would make the host wait
        for its devices at every step.
        """
        if not self.is_shared:
            return self._stop.signal or self._stalled
        before = self._asked
        votes = [float(each == self._stop.signal) for each in STOP_SIGNALS]
        without_data = self._by_rank(float(self._error is not None))
        stalled = self._by_rank(float(self._stalled is not None))
        seconds = self._by_rank(self._own_seconds)
        self._own_seconds = 0.0
        self._asked = self._replicas.sum_over_processes(tf.constant([*votes, *without_data, *stalled, *seconds]))
        if before is None:
            return None
        with exchange.OWN.waiting():  # an accelerator may not have done it yet
            told = before.numpy()
        asked, by_rank = told[: len(STOP_SIGNALS)], told[len(STOP_SIGNALS) :].reshape(3, self._replicas.processes)
        failed, hanging, self._seconds = by_rank[0], by_rank[1], by_rank[2].tolist()
        stopping = next((each for each, count in zip(STOP_SIGNALS, asked, strict=True) if count), None)
        return stopping or self._without_data(failed) or self._hang(hanging)

    def _without_data(self, failed: Counts) -> WithoutData | None:
        if not failed.any():
            return None
        if self._error is not None:
            return WithoutData(str(self._error))
        return WithoutData(f"{_workers(failed)} cannot read the data; {ELSEWHERE}")

    def _hang(self, hanging: Counts) -> Stalled | None:
        if not hanging.any():
            return None
        return self._stalled or Stalled(f"{_workers(hanging)} hangs while it waits for data; {ELSEWHERE}")

    def _by_rank(self, own: float) -> list[float]:
        """A number for each process, of which this one knows its own."""
        return [own * (rank == self._replicas.process) for rank in range(self._replicas.processes)]


def _workers(counts: Counts) -> str:
    return ", ".join(f"worker {rank}" for rank, count in enumerate(counts) if count)
