"""The processes that tell trackers while a run trains, seen from the run.

Each tracker has a process, ``python -m trainer track … follow=true``, which looks at the run's checkpoints by itself.
The loop calls nothing of it. So a tracker that blocks, fails or leaks costs the training nothing, and the end of a run
no more than a bounded wait.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol, TextIO

from trainer.command_line import argument, command_line
from trainer.config.contracts import How
from trainer.config.schema.tracking import TrackingConfig
from trainer.errors import Diverged, TrainerError, TrainingFailed
from trainer.monitoring.trackers import committed, ending, noted
from trainer.run_directory.layout import TRACKING
from trainer.run_directory.phases import Phase
from trainer.runtime.signals import EXIT_INTERRUPTED, EXIT_STOPPED
from trainer.storage import holding
from trainer.storage.unacceptable import Unacceptable

Notices = queue.SimpleQueue[str]
AFTER_STOP = 5.0  # seconds that an end which is not that of a finished run waits at most: it may be killed soon


class Phases(Protocol):
    """What says which part of its work a run is in."""

    def phase(self, phase: Phase) -> AbstractContextManager[None]: ...


class _Follower:
    """The process that tells one tracker. What it says goes to ``notices``."""

    def __init__(self, run_dir: Path, name: str, notices: Notices) -> None:
        self.name = name
        arguments = ("track", argument("run_dir", run_dir), argument("trackers", [name]), "follow=true")
        with _log(run_dir, name) as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "trainer", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # a Ctrl-C is for the run
            )
        self._notices = notices
        self._ending = False
        self._reader = threading.Thread(target=self._read, name=f"tracker {name}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._notices.put(line.rstrip("\n"))
        if not self._ending:
            self._notices.put(f"the process that tells {self.name} has ended by itself: {TRACKING}/{self.name}.log")

    def end(self) -> None:
        """Tell it that the run has ended."""
        assert self._process.stdin is not None
        self._ending = True
        with contextlib.suppress(OSError):  # it has ended
            self._process.stdin.close()

    def wait(self, until: float) -> bool:
        """Whether it has ended well by a moment, of ``time.monotonic``. If it has not ended, it is killed."""
        try:
            status = self._process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            return False
        self._reader.join(max(0.0, until - time.monotonic()))
        return status == 0


@contextmanager
def followed(
    run_dir: Path,
    tracking: TrackingConfig,
    notices: Notices,
    warn: Callable[[str], None],
    clock: Phases,
) -> Iterator[None]:
    """Have the trackers told of the run in ``run_dir``, which this process writes, while the block runs. What they say
    goes to ``notices``, for the loop to print. At the end, ``warn`` of what was not sent. The wait counts as saving.
    """
    if not tracking.trackers:
        yield
        return
    followers = list(_begun(run_dir, tracking.trackers, notices))
    how: How | None = "finished"
    seconds = tracking.wait_seconds
    try:
        yield
    except BaseException as error:
        how, seconds = _how(error), AFTER_STOP if isinstance(error, Exception) else 0.0
        raise
    finally:
        with clock.phase("saving"):
            late = _end(run_dir, followers, how, seconds)
        while not notices.empty():
            warn(notices.get())
        lacking = [text for name in late if (text := _lacking(run_dir, name)) is not None]
        if lacking and how is not None:
            warn(f"{'; '.join(lacking)}; nothing is lost, and this sends the rest:\n  {later(run_dir)}")


def _begun(run_dir: Path, trackers: Sequence[str], notices: Notices) -> Iterator[_Follower]:
    for name in trackers:
        try:
            ending.remove(holding.path_of(run_dir))
            yield _Follower(run_dir, name, notices)
        except OSError as error:  # no disk or no memory is left for it; the run may need less
            notices.put(f"no process tells {name} of the run, which goes on without it: {error.strerror}")


def _how(error: BaseException) -> How | None:
    """How a run has ended that raised an error; None where it may go on elsewhere, or goes on here."""
    if not isinstance(error, TrainerError):
        return "failed" if isinstance(error, Exception) else "stopped"
    if isinstance(error, Diverged):
        return None
    if error.exit_status in (EXIT_STOPPED, EXIT_INTERRUPTED):
        return "stopped"
    return "failed" if error.exit_status == TrainingFailed.exit_status else None


def _end(run_dir: Path, followers: Sequence[_Follower], how: How | None, seconds: float) -> list[str]:
    """Have the processes end. Returns the trackers that were not told everything."""
    if how is not None:
        with contextlib.suppress(OSError, TrainerError):  # the run directory is lost, or the disk is full
            ending.write(holding.path_of(run_dir), how)
    for follower in followers:
        follower.end()
    until = time.monotonic() + seconds
    return [follower.name for follower in followers if not follower.wait(until)]


def later(run_dir: Path) -> str:
    """The command that sends what is left."""
    return command_line("track", argument("run_dir", run_dir))


def _lacking(run_dir: Path, name: str) -> str | None:
    """What a tracker was not told; None when it cannot be said."""
    place = holding.path_of(run_dir)
    try:
        note, found = noted.read(place, name), committed.newest(place, finished=ending.read(place) == "finished")
    except (OSError, Unacceptable, TrainerError):
        return None
    if found is None:
        return None
    sent = 0 if note is None else note.sent.size
    if sent >= found.size:
        return f"{name} has all records of the run, and not its end"
    return f"{name} has {sent / found.size:.0%} of the records"


def _log(run_dir: Path, name: str) -> TextIO:
    """Where the libraries of a tracker write what they have to say."""
    place = noted.directory_of(holding.path_of(run_dir))
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(place / f"{name}.log", flags, 0o644), "a", encoding="utf-8")
