"""Stop requests: SIGTERM, SIGUSR1 and SIGINT ask for a checkpoint and an end; the loop looks when it is safe."""

from __future__ import annotations

import signal
from types import FrameType

EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: run the same command again
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequest:
    """Whether, and by which signal, the process was asked to stop. Install as early as possible."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def install(self) -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        if number == signal.SIGINT:
            # a second Ctrl-C ends the process at once, even inside an operation
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def exit_status(number: signal.Signals) -> int:
    """The exit status of a run that a signal has stopped."""
    return EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_STOPPED
