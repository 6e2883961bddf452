"""Which signals ask a run to stop."""

from __future__ import annotations

import os
import signal

import pytest

from trainer.runtime.signals import EXIT_INTERRUPTED, EXIT_STOPPED, STOP_SIGNALS, StopRequest, exit_status


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_stop_signal_is_noted_and_has_the_status_of_a_stop(number: signal.Signals) -> None:
    stop = StopRequest()
    with stop.installed():
        os.kill(os.getpid(), number)
        assert stop.signal == number
    assert exit_status(number) == (EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_STOPPED)


def test_a_closed_terminal_stops_a_run_unless_the_run_was_started_to_outlive_it() -> None:
    assert signal.SIGHUP in STOP_SIGNALS
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        stop = StopRequest()
        with stop.installed():
            os.kill(os.getpid(), signal.SIGHUP)
            stop.install()  # again, as after TensorFlow has replaced a handler
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.signal is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
