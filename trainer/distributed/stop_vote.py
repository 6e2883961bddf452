"""Whether a run stops. All of its processes get the same answer: if any has a reason, all stop at the same step."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable

import tensorflow as tf

from trainer.distributed.replicas import Replicas
from trainer.errors import UsageError
from trainer.runtime.signals import STOP_SIGNALS, StopRequest


@dataclasses.dataclass(frozen=True)
class WithoutData:
    """A process has met data that it cannot read, and so cannot make another step."""

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

    @property
    def is_shared(self) -> bool:
        """Whether there are other processes. They must know the reason one poll before they stop."""
        return self._replicas.processes > 1

    def is_asked(self) -> bool:
        """Whether this process knows of a request to stop, to whichever process, on which all have yet to agree."""
        return self._stop.signal is not None or self._is_asked_elsewhere()

    def data_failed(self, error: UsageError) -> None:
        """This process cannot read a batch that it is going to need."""
        self._error = error

    def note(self, own_seconds: float) -> None:
        """How long the own work of this process took in a step; the next poll tells it to the others."""
        self._own_seconds = own_seconds

    def work_seconds(self) -> list[float]:
        """What the processes have noted, by rank, as the last poll has told; empty when there are no others."""
        return self._seconds

    @property
    def is_chief(self) -> bool:
        return self._replicas.process == 0

    def poll(self) -> signal.Signals | WithoutData | None:
        """The signal that stops the run, or, with several processes, the data that do; None if nothing does.

        With several processes this is the answer to the previous poll: waiting for the latest would make the host wait
        for its devices at every step.
        """
        if not self.is_shared:
            return self._stop.signal
        before = self._asked
        votes = [float(each == self._stop.signal) for each in STOP_SIGNALS]
        without_data = [
            float(rank == self._replicas.process and self._error is not None)
            for rank in range(self._replicas.processes)
        ]
        seconds = [self._own_seconds * (rank == self._replicas.process) for rank in range(self._replicas.processes)]
        self._own_seconds = 0.0
        self._asked = self._replicas.sum_over_processes(tf.constant([*votes, *without_data, *seconds]))
        if before is None:
            return None
        asked, told = before.numpy()[: len(STOP_SIGNALS)], before.numpy()[len(STOP_SIGNALS) :]
        failed, self._seconds = told[: self._replicas.processes], told[self._replicas.processes :].tolist()
        stopping = next((each for each, count in zip(STOP_SIGNALS, asked, strict=True) if count), None)
        if stopping is not None or not failed.any():
            return stopping
        if self._error is not None:
            return WithoutData(str(self._error))
        workers = ", ".join(f"worker {rank}" for rank, count in enumerate(failed) if count)
        return WithoutData(f"{workers} cannot read the data; what and why is in the output of that process")
