"""Telling one tracker of one run, in a process of its own: once, or for as long as the run lasts."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from trainer.config import stored
from trainer.errors import NotSent, RunDirectoryInUse, TrainerError, one_line
from trainer.monitoring.trackers import committed, ending, noted
from trainer.monitoring.trackers.feed import Feed
from trainer.monitoring.trackers.registry import maker_of
from trainer.storage import flock

LOOK_EVERY = 1.0  # seconds between two looks at the run's checkpoints
PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)  # seconds before another attempt; the last one again and again
REASON_SHOWN = 300  # characters
CREDENTIALS = re.compile(r"(?<=://)[^/@\s]*@")  # in the URL of a server


def tell(run_dir: Path, name: str, sweep: str | None) -> str:
    """Send everything that is committed and was not sent. Returns a line about it.

    Raises:
        RunDirectoryInUse: another process tells this tracker.
        NotSent: the tracker cannot be told now.
    """
    how = ending.read(run_dir)
    found = committed.newest(run_dir, finished=how == "finished")
    if found is None:
        return f"{name}: nothing is committed in {run_dir} yet"
    with contextlib.ExitStack() as stack:
        if not _lock(run_dir, name, stack):
            raise RunDirectoryInUse(
                f"{name} is told of {run_dir} by another process, the run's own as a rule; wait for the end of the run"
            )
        before = _records(run_dir, name)
        config = stored.read(found.checkpoint / stored.FILE_NAME)
        try:
            Feed(run_dir, name, maker_of(name), sweep).finish(found, how, config.tracking)
        except Exception as error:  # of whatever network or library is behind it
            raise NotSent(f"{name} was not told all of {run_dir}: {_reason(error)}") from error
        now = noted.read(run_dir, name)
        assert now is not None
        return f"{name}: {now.sent.records - before} new records, {now.sent.records} in all, in its run {now.id}"


def follow(run_dir: Path, name: str, sweep: str | None, run: BinaryIO, say: Callable[[str], None]) -> int:
    """Tell the tracker of each commit until the run ends, which closes the pipe ``run``; returns an exit status.

    A run that was killed closes it as well, and another process of the run may begin at once: this one ends then, in
    the middle of whatever it does. What has failed is tried again; it is said once, until something else fails.
    """
    over = threading.Event()
    threading.Thread(target=_watch, args=(run, run_dir, over), daemon=True).start()
    with contextlib.ExitStack() as stack:
        while not _lock(run_dir, name, stack):  # the process of a life before has not ended yet
            time.sleep(LOOK_EVERY)
        feed = Feed(run_dir, name, maker_of(name), sweep)
        said, attempt, at = "", 0, -1
        while True:
            ended = over.is_set()
            try:
                at = _pass(run_dir, feed, at, ended=ended)
                said, attempt = "", 0
            except Exception as error:  # of whatever network or library is behind it
                reason = _reason(error)
                if reason != said:
                    say(f"{name} cannot be told of the run now, which goes on without it: {reason}")
                said, attempt, at = reason, attempt + 1, -1
            if ended:
                return 0 if attempt == 0 else NotSent.exit_status
            over.wait(LOOK_EVERY if attempt == 0 else PAUSES[min(attempt, len(PAUSES)) - 1])


def _pass(run_dir: Path, feed: Feed, at: int, *, ended: bool) -> int:
    """Returns the step up to which the tracker was told; ``at`` is that of the pass before."""
    how = ending.read(run_dir) if ended else None
    found = committed.newest(run_dir, finished=how == "finished")
    if found is None:
        return at
    if ended:
        feed.finish(found, how, stored.read(found.checkpoint / stored.FILE_NAME).tracking)
    elif found.manifest.step != at:
        feed.bring(found)
    return found.manifest.step


def _watch(run: BinaryIO, run_dir: Path, over: threading.Event) -> None:
    run.read()
    if ending.read(run_dir) is None:
        os._exit(0)  # it was killed; its next process goes on from what is noted
    over.set()


def _lock(run_dir: Path, name: str, stack: contextlib.ExitStack) -> bool:
    """Whether no other process tells this tracker; then none does until ``stack`` is closed."""
    descriptor = flock.locked(noted.directory_of(run_dir) / f".{name}.lock", wait=False)
    if descriptor is None:
        return False
    stack.callback(os.close, descriptor)
    return True


def _records(run_dir: Path, name: str) -> int:
    note = noted.read(run_dir, name)
    return 0 if note is None else note.sent.records


def _reason(error: Exception) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:REASON_SHOWN]
    text = CREDENTIALS.sub("", text)
    return one_line(text if isinstance(error, TrainerError) else f"{type(error).__name__}: {text}")
