"""Stop requests: SIGTERM, SIGUSR1 and SIGINT ask for a checkpoint and an end; the loop looks when it is safe."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: run the same command again
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequest:
    """Whether, and by which signal, the process was asked to stop. Install as early as possible."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        # a second Ctrl-C ends the process at once, even inside an operation
        self._on_second_interrupt: signal.Handlers | Any = signal.SIG_DFL

    def install(self) -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, self._receive)

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Installed for as long as the block runs, for a program that goes on afterwards; a second Ctrl-C is the
        program's own. Only the main thread may install a handler: in any other the block runs without.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) or signal.SIG_DFL for number in STOP_SIGNALS}
        self._on_second_interrupt = before[signal.SIGINT]
        self.install()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, self._on_second_interrupt)


def exit_status(number: signal.Signals) -> int:
    """The exit status of a run that a signal has stopped."""
    return EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_STOPPED
