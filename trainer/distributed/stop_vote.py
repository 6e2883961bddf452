"""Whether a run is to stop, answered alike in all of its processes: whoever got the signal, all stop at one step."""

from __future__ import annotations

import signal

import tensorflow as tf

from trainer.distributed.replicas import Replicas
from trainer.runtime.signals import STOP_SIGNALS, StopRequest


class StopAgreement:
    """Every process asks equally often, at the same places."""

    def __init__(self, stop: StopRequest, replicas: Replicas) -> None:
        self._stop = stop
        self._replicas = replicas
        self._asked: tf.Tensor | None = None

    def poll(self) -> signal.Signals | None:
        """The signal that stops the run, if one does.

        With several processes it is the answer to the question before this one: waiting for the latest would make the
        host wait for its devices at every step.
        """
        if self._replicas.processes == 1:
            return self._stop.signal
        before = self._asked
        votes = [float(each == self._stop.signal) for each in STOP_SIGNALS]
        self._asked = self._replicas.sum_over_processes(tf.constant(votes))
        if before is None:
            return None
        return next((each for each, count in zip(STOP_SIGNALS, before.numpy(), strict=True) if count), None)
