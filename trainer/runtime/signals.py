"""Stop requests: some signals ask for a checkpoint and an end; the loop checks for them when it is safe."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: run the same command again
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
# our Slurm script requests SIGUSR1 ahead of a time limit, submitit requests SIGUSR2; the kernel sends SIGHUP when a
# terminal is closed, and so does an ssh connection that ends
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT)


class StopRequest:
    """Whether, and by which signal, the process was asked to stop. Install as early as possible."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.began = time.time()  # when this process took up its command; the account of a run's time begins here
        # a second Ctrl-C ends the process at once, even inside an operation
        self._on_second_interrupt: signal.Handlers | Any = signal.SIG_DFL
        self._answer: Callable[[], None] = _only_noted

    def install(self) -> None:
        """Handle the stop signals. SIGHUP stays ignored where it is: ``nohup`` asks for that before it starts a program
        (POSIX, nohup).
        """
        for number in STOP_SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._receive)

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Install the handlers while the block runs, for a program that continues afterwards; a second Ctrl-C goes to
        the program's own handler. Only the main thread may install a handler: in any other thread the block runs
        without.
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

    @contextlib.contextmanager
    def answered_by(self, answer: Callable[[], None]) -> Iterator[None]:
        """While the block runs, a request calls ``answer`` at once, in the main thread, for a block that does not check
        by itself. An earlier request calls it, too. An error of ``answer`` leaves the block.
        """
        self._answer = answer
        try:
            if self.signal is not None:
                answer()
            yield
        finally:
            self._answer = _only_noted

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, self._on_second_interrupt)
        self._answer()


def die_as_others_do() -> None:
    """Let the first process of a container end at a stop signal before a command handles it, or where none does.

    The kernel keeps from the first process every signal that it has no handler for (pid_namespaces(7)). A pod that is
    asked to end while Python still imports would never hear of it, and be killed when its time is over.
    """
    if os.getpid() == 1:
        for number in STOP_SIGNALS:
            if signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, _die)


def _die(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)  # what a shell reports of a process that died of it


def _only_noted() -> None:
    """The answer to a request that a loop checks for later."""


def exit_status(number: signal.Signals) -> int:
    """The exit status of a run that a signal stopped."""
    return EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_STOPPED
