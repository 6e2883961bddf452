"""The watchdog of a process that works on a run: it notices that nothing happens any more, says what hangs, and ends
the process, so that whoever started it can start it again.

A thread of its own looks at what the main thread has noted (``trainer.run.watched``) and at the reads, writes and
copies of all threads (``trainer.storage.going_on``). ``trainer.run.hang`` judges. The thread needs nothing from the
others: a main thread in a call that never returns is left behind. Whatever may block in turn, such as a write to the
same disk, is given a few seconds in a thread of its own.

A wait for data can still be stopped by the loop, which commits the current step. Any other hang ends the process at the
last commit.

Of several processes, one that has come to an exchange waits for the others, and is not judged by its own limits. The
one that has not come is, by its own watchdog, and names itself to all before it ends. If all wait for each other, the
chief finds out. A process whose watchdog cannot run either, because it is stopped, is silent: see ``peers``.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import TypeVar

from trainer.config.schema import Config
from trainer.config.schema.training import WatchdogConfig
from trainer.data.reads import READS
from trainer.distributed import exchange
from trainer.distributed.membership import GRACE_SECONDS, Process
from trainer.distributed.stop_vote import StopVote
from trainer.errors import printable
from trainer.run.hang import REMEMBERED, Hang, Idle, judge
from trainer.run.stacks import stacks, where
from trainer.run.watched import Watched
from trainer.run_directory.layout import LOG
from trainer.run_directory.phases import Phase
from trainer.runtime.counted_time import CountedTime
from trainer.runtime.signals import EXIT_STOPPED
from trainer.storage import holding
from trainer.storage.going_on import COPIES, WRITES, GoingOn
from trainer.storage.host import host_name

LOOK_SECONDS = 1.0  # at the longest; a tenth of the shortest limit
STOPPING_SECONDS = 10.0  # for the loop to notice that it is to stop
WRITING_SECONDS = 5.0  # for a message that may go to the disk that hangs
STOPPABLE: tuple[Phase, ...] = ("training", "waiting", "validating")  # phases of the loop, which may go on after all

T = TypeVar("T")


class Watchdog:
    """Watches this process. ``ends_process``: a hang that cannot be stopped otherwise ends it; if not, it is only
    reported. ``run_dir`` has the log of the run; None in a process that does not write it.
    """

    def __init__(self, process: Process, run_dir: Path | None, *, ends_process: bool) -> None:
        self._process = process
        self.run_dir = run_dir
        self._ends_process = ends_process
        self._time = CountedTime(LOOK_SECONDS)
        self.clock = Watched(lambda: self._time.seconds)
        self._limits: WatchdogConfig | None = None
        self._enough = REMEMBERED
        self._every = LOOK_SECONDS
        self._vote: StopVote | None = None
        self._idle, self._saving, self._copying = Idle(), Idle(), Idle()
        self._main = threading.get_ident()  # the thread that works on the run
        self._reported: set[Hashable] = set()  # marks at which something was said
        self._asked = False  # the loop to stop
        self._over = threading.Event()
        self.in_flight: Callable[[], None] = lambda: None  # waits for a save in flight
        self.way_back: Callable[[], str] = lambda: ""  # text about the last checkpoint, and how to go on
        self.closing: Callable[[], object] = lambda: None  # what is closed before the process ends
        if process.peers is not None:
            process.peers.on_report = lambda text: _within(WRITING_SECONDS, lambda: self._log(text))

    def follow(self, config: Config) -> None:
        """Judge by the limits of this configuration, from the beginning of the process on."""
        limits = config.runtime.watchdog
        known = [limit for limit in vars(limits).values() if limit is not None]
        self._every = min([LOOK_SECONDS, *(limit / 10 for limit in known)])
        # an accelerator works off all steps since the last record when that is made
        self._enough = min(REMEMBERED, config.train.log_every_steps + 1)
        self._limits = limits

    def may_stop(self, vote: StopVote) -> None:
        """The loop has begun, and asks this vote whether to go on."""
        self._vote = vote

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch while the block runs."""
        thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _watch(self) -> None:
        while not self._over.wait(self._every):
            self._time.read()
            if self._limits is not None:
                self._look(self._limits)

    def _look(self, limits: WatchdogConfig) -> None:
        peers, now, phase = self._process.peers, self._time.seconds, self._phase()
        waits, mark = exchange.OWN.is_waited_for, self._mark(phase)
        idle = self._idle.at(now, mark)
        if peers is not None:
            peers.waited = idle if waits else 0.0
        durations, enough = self.clock.steps, self._enough
        if phase == "validating":
            durations, enough = self.clock.batches, 1
        hang = judge(phase, idle, limits, tuple(durations), enough)
        if hang is not None and not waits:
            self._found(hang, self._what(phase), mark)
        elif hang is not None and peers is not None and peers.all_have_waited(hang.limit):
            count = len(peers.cluster.workers)
            self._found(hang, f"all {count} processes wait for each other, so it is the network, or a library", mark)
        self._look_at_writes(limits, now)

    def _look_at_writes(self, limits: WatchdogConfig, now: float) -> None:
        """A save in the background, and the mirror, of which nothing is to be seen in the main thread."""
        idle = self._saving.at(now, self._of_other_threads(WRITES))
        hang = judge("saving", idle, limits, (), 0)
        if hang is not None:
            self._found(hang, _longest(WRITES), ("write", WRITES.ended))
        idle, mark = self._copying.at(now, self._of_other_threads(COPIES)), ("copy", COPIES.ended)
        if judge("saving", idle, limits, (), 0) is not None and mark not in self._reported:
            self._reported.add(mark)
            self._say(f"warning: {_longest(COPIES)}; the mirror is not up to date, and the run goes on")

    def _phase(self) -> Phase:
        """What the main thread does. A write in the midst of the loop has the limit of saves."""
        writes = self._main in WRITES.innermost()
        return "saving" if writes and self.clock.state != "starting" else self.clock.state

    def _of_other_threads(self, kind: GoingOn) -> Hashable:
        """A mark of what threads beside the main one do; always another one when they do nothing."""
        threads = tuple(thread for thread in kind.innermost() if thread != self._main)
        return (kind.ended, threads) if threads else object()

    def _mark(self, phase: Phase) -> Hashable:
        """Something that changes with any progress that counts in this phase."""
        counts: list[Hashable] = [phase, self.clock.beats, exchange.OWN.changes]
        if phase in ("starting", "waiting", "validating"):
            counts.append(READS.ended)
        if phase in ("starting", "saving"):
            counts += [WRITES.ended, COPIES.ended]
        return tuple(counts)

    def _found(self, hang: Hang, what: str, mark: Hashable) -> None:
        if mark in self._reported:  # and it could not be ended
            return
        self._reported.add(mark)
        after = "" if self.clock.step is None else f" after step {self.clock.step}"
        reason = (
            f"process {os.getpid()} on {host_name()} hangs: no progress for {hang.seconds:.0f} s while "
            f"{hang.phase}{after} (runtime.watchdog.{hang.phase} allows {hang.limit:.0f} s): {what}"
        )
        report = f"hang: {reason}\nwhat all threads do, innermost calls last:\n{stacks(self._main)}"
        self._say(report)
        peers = self._process.peers
        if peers is not None:
            _within(WRITING_SECONDS, lambda: peers.report(report))
        if self._vote is not None and hang.phase in STOPPABLE and not self._asked:
            self._asked = True
            self._vote.stall(reason)
            if peers is not None:
                _within(WRITING_SECONDS, peers.ask_to_stop)
            if self._goes_on():
                return
        if self._ends_process and not self._over.is_set():
            self._end(reason, hang)

    def _goes_on(self) -> bool:
        """Whether the loop has noticed that it is to stop, and so will commit its step."""
        mark, until = self._mark(self._phase()), self._time.read() + STOPPING_SECONDS
        while self._time.read() < until and not self._over.wait(self._every):
            if self._mark(self._phase()) != mark:
                return True
        return self._over.is_set()

    def _end(self, reason: str, hang: Hang) -> None:
        """End this process, whatever its other threads do. The kernel drops the lock of the run directory, and the
        lease in it is that of a process that is gone.
        """
        peers = self._process.peers
        if peers is not None:
            _within(WRITING_SECONDS, lambda: peers.leave(EXIT_STOPPED, reason))
        if hang.phase != "saving":  # which may be what hangs
            _within(GRACE_SECONDS, self.in_flight)
        way_back = _within(WRITING_SECONDS, self.way_back)
        _within(WRITING_SECONDS, self.closing)
        self._say(f"stopped: {reason}" + (f"\n{way_back}" if way_back else ""))
        os._exit(EXIT_STOPPED)

    def _what(self, phase: Phase) -> str:
        kinds = {"starting": (READS, COPIES, WRITES), "saving": (WRITES, COPIES)}.get(phase, (READS,))
        if phase not in ("training", "tracing"):
            for kind in kinds:
                if kind.innermost():
                    return _within(WRITING_SECONDS, functools.partial(_longest, kind)) or where(self._main)
        return where(self._main)

    def _say(self, text: str) -> None:
        """Write to the log of the run and to standard error, as far as they take it."""
        for write in (self._log, _to_stderr):
            _within(WRITING_SECONDS, functools.partial(write, text))

    def _log(self, text: str) -> None:
        """Append to ``train.log``, where this process has the run directory. A run that has not begun yet has no log,
        and gets none: its directory must stay one in which a run may begin.
        """
        if self.run_dir is None or holding.of(self.run_dir) is None:
            return
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S")
        lines = "".join(f"{stamp}  {line}\n" for line in printable(holding.named(text)).splitlines())
        flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(holding.path_of(self.run_dir) / LOG, flags)
        try:
            os.write(descriptor, lines.encode(errors="backslashreplace"))
        finally:
            os.close(descriptor)


def _longest(kind: GoingOn) -> str:
    longest = kind.longest()
    if longest is None:
        return "it has ended meanwhile"
    what, seconds = longest
    return f"{'reading ' if kind is READS else ''}{what} has taken {seconds:.0f} s so far"


def _to_stderr(text: str) -> None:
    sys.stderr.write(f"{printable(holding.named(text))}\n")
    sys.stderr.flush()


def _within(seconds: float, do: Callable[[], T]) -> T | None:
    """The result of a call that may block or fail; None when it has none after so long."""
    results: list[T] = []

    def call() -> None:
        with contextlib.suppress(Exception):
            results.append(do())

    thread = threading.Thread(target=call, name="watchdog's", daemon=True)
    thread.start()
    thread.join(seconds)
    return results[0] if results else None
