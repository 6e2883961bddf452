"""What became of a run's wall time, over all its lives: ``time.jsonl``, a line for each stretch of time.

A life is a process that works on the run. At any moment it is in one phase, so the seconds of its phases add up to the
time since it began. Two kinds of time are known only afterwards, when the lines are read: ``lost``, the time of steps
that a later life made again, and ``stopped``, the time between two lives.

The file is only appended to, and a resume cuts nothing off: the time of lost steps was spent nevertheless. It is no
part of the state, and nothing that is computed depends on it. A life that is killed does not write its last line; so
the file is touched (``mtime``) every second, and the next life notes how long the last one showed signs of life. The
last line of a life that was not killed says ``ended``. Lines after a save say what a save costs (``save``), so that the
next life knows it before its first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer.errors import RunDirectoryInUse, duration
from trainer.run_directory.costs import Costs, SaveCost
from trainer.run_directory.layout import TIME
from trainer.run_directory.metrics import STEP_LIMIT, lines
from trainer.run_directory.phases import PHASES, Phase
from trainer.storage.documents import parse_json
from trainer.storage.lease import Fence
from trainer.storage.unacceptable import Unacceptable
from trainer.storage.unreadable import Unreadable

LOST, STOPPED = "lost", "stopped"
START: tuple[Phase, ...] = ("starting", "tracing")
MADE_AGAIN: tuple[Phase, ...] = ("training", "waiting", "validating", "saving")  # starts are no part of steps
LINE_SECONDS = 30.0  # the longest time between two lines, as far as steps are not longer
TOUCH_SECONDS = 1.0
# A file that was touched later than this after its last line was not touched by the run: copying does it, too.
TOUCHED_WITHIN = 2 * LINE_SECONDS
LONGEST = 1e10  # seconds in one line; three hundred years


Show = Callable[[int, Mapping[str, float]], None]


class Clock:
    """Accounts the time of one life, and writes it down. It begins in the phase ``starting``.

    ``began`` is the time of day at which the life began, in seconds since the epoch, and ``step`` the step that it
    continues from. ``show`` gets the step and the shares of the phases in the life so far, with each line. A line that
    cannot be written is made up for by the next: its seconds are in there. None is written once another process has
    taken the run directory over (``fence``).
    """

    def __init__(self, fence: Fence, run_dir: Path, began: float, step: int, show: Show) -> None:
        self._fence = fence
        self._path = run_dir / TIME
        self._show = show
        now = time.time()
        began = min(began, now)
        self._phase: Phase = "starting"
        self._since = time.monotonic() - (now - began)
        self._step = step
        self._pending = dict.fromkeys(PHASES, 0.0)  # seconds that are in no line yet
        self._total = dict.fromkeys(PHASES, 0.0)
        self._first: dict[str, Any] = {"began": began, "from": step, "alive": self._last_touch()}
        self._save: dict[str, Any] = {}
        self._written = self._touched = time.monotonic()
        self._write()
        account = read(run_dir)
        self.earlier = Costs() if account is None else account.costs

    def start_seconds(self) -> float:
        """Seconds from the beginning of this life until its first step was made, as far as it was."""
        return sum(self._total[phase] for phase in START)

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """The time of the block belongs to this phase."""
        before = self._switch(phase)
        try:
            yield
        finally:
            self._switch(before)

    def looping(self) -> None:
        """The loop begins: from now on, time outside of other phases is ``training``."""
        self._switch("training")

    def at(self, step: int) -> None:
        """Step ``step`` was made."""
        self._step = step
        now = time.monotonic()
        if now - self._written >= LINE_SECONDS:
            self._write()
        elif now - self._touched >= TOUCH_SECONDS:
            self._touched = now
            with contextlib.suppress(OSError):
                os.utime(self._path)

    def measured(self, cost: SaveCost) -> None:
        """What a save costs; the next line has it."""
        self._save = {"save": {"stall": round(cost.stall, 4), "written": round(cost.written, 4)}}

    def progress(self) -> None:
        """Something was done that is no step."""

    def saved(self) -> None:
        """A checkpoint of the last step was begun: what a killed life has done after it is another line's."""
        if time.monotonic() - self._written >= TOUCH_SECONDS:
            self._write()

    def close(self) -> bool:
        """The life ends. Returns whether that could be written."""
        return self._write(ended=True)

    def _switch(self, phase: Phase) -> Phase:
        before, now = self._phase, time.monotonic()
        self._pending[before] += now - self._since
        self._total[before] += now - self._since
        self._phase, self._since = phase, now
        return before

    def _write(self, *, ended: bool = False) -> bool:
        self._switch(self._phase)
        self._written = self._touched = time.monotonic()
        seconds = {phase: round(value, 3) for phase, value in self._pending.items() if value >= 0.001}
        now = {"at": time.time(), "step": self._step, "seconds": seconds}
        line = json.dumps({**self._first, **now, **self._save, **({"ended": True} if ended else {})}) + "\n"
        try:
            self._fence.look_now()
            descriptor = os.open(
                self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666
            )
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)
        except (OSError, RunDirectoryInUse):
            return False
        self._first, self._save = {}, {}
        self._pending = dict.fromkeys(PHASES, 0.0)
        whole = sum(self._total.values())
        if whole > 0:
            self._show(self._step, {phase: value / whole for phase, value in self._total.items()})
        return True

    def _last_touch(self) -> float | None:
        try:
            return self._path.lstat().st_mtime
        except OSError:
            return None


@dataclasses.dataclass(frozen=True)
class Account:
    """What became of the wall time of a run: seconds of each phase, of ``lost`` and of ``stopped``, the number of its
    lives, and what these have measured.
    """

    seconds: Mapping[str, float]
    lives: int
    costs: Costs

    @property
    def wall(self) -> float:
        """Seconds from the beginning of the first life to the last line."""
        return sum(self.seconds.values())

    @property
    def running(self) -> float:
        """The seconds in which a process worked on the run."""
        return self.wall - self.seconds[STOPPED]

    def text(self) -> str:
        """One line for people: the time that a process ran, and its shares, the largest first."""
        shares = sorted(((value, name) for name, value in self.seconds.items() if name != STOPPED), reverse=True)
        parts = [f"{_percent(value / self.running)} {name}" for value, name in shares if value / self.running >= 0.0005]
        lives = f"{self.lives} lives" if self.lives > 1 else "1 life"
        stopped = f"; stopped for {duration(self.seconds[STOPPED])}" if self.lives > 1 else ""
        return f"{duration(self.running)} in {lives}: {', '.join(parts)}{stopped}"


@dataclasses.dataclass
class _Stretch:
    """The steps ``after`` to ``until`` of one life, and what their time went into."""

    after: int
    until: int
    seconds: dict[str, float]


def read(run_dir: Path) -> Account | None:
    """The account of a run, which may be training meanwhile; None when it has none, as those of earlier versions.
    Lines that are not of this program are left out.
    """
    path = run_dir / TIME
    try:
        return account(_records(path)) if os.path.lexists(path) else None
    except (OSError, Unacceptable, Unreadable):
        return None


def account(records: Iterable[Mapping[str, Any]]) -> Account | None:
    """Add up the lines of a file. None where no life begins in them."""
    seconds = dict.fromkeys((*PHASES, LOST, STOPPED), 0.0)
    made: list[_Stretch] = []
    lives, at, step = 0, 0.0, 0
    starts: list[dict[Phase, float]] = []
    failures, ended = 0, False
    save: SaveCost | None = None
    for record in records:
        if "began" in record:
            if lives:
                failures += not ended
                silent = record["alive"]
                alive = silent if silent is not None and at < silent <= at + TOUCHED_WITHIN else at
                alive = min(alive, max(at, record["began"]))
                seconds[LOST] += alive - at  # no line has it, so no later life can have kept it
                seconds[STOPPED] += max(0.0, record["began"] - alive)
            _lose(made, record["from"], seconds)
            lives, step = lives + 1, record["from"]
            starts.append(dict.fromkeys(START, 0.0))
        if not lives:
            continue
        for phase, value in record["seconds"].items():
            seconds[phase] += value
            if phase in START:
                starts[-1][phase] += value
        save = SaveCost(**record["save"]) if "save" in record else save
        ended = "ended" in record
        made.append(_Stretch(step, record["step"], dict(record["seconds"])))
        at, step = record["at"], record["step"]
    if not lives or sum(seconds.values()) <= 0:
        return None
    stepped = tuple(sum(start.values()) for start in starts if start["tracing"] > 0)
    return Account(seconds, lives, Costs(sum(seconds.values()) - seconds[STOPPED], failures, stepped, save))


def _lose(made: list[_Stretch], step: int, seconds: dict[str, float]) -> None:
    """A life continues at ``step``: what was made after it is lost."""
    while made and made[-1].until > step:
        stretch = made.pop()
        share = 1.0 if stretch.after >= step else (stretch.until - step) / (stretch.until - stretch.after)
        for phase in MADE_AGAIN:
            lost = share * stretch.seconds.get(phase, 0.0)
            seconds[phase] -= lost
            seconds[LOST] += lost
            if phase in stretch.seconds:
                stretch.seconds[phase] -= lost
        if share < 1.0:
            made.append(dataclasses.replace(stretch, until=step))
            return


def _records(path: Path) -> Iterator[Mapping[str, Any]]:
    for line in lines(path):
        try:
            record = parse_json(line.decode("utf-8", errors="replace"))
        except Unacceptable:
            continue
        if _is_record(record):
            yield record


def _is_record(record: object) -> bool:
    """Whether a line is one of ``Clock``: times of day, a step, seconds by phase; the first of a life has more."""
    if not isinstance(record, dict) or not {"at", "step", "seconds"} <= record.keys():
        return False
    seconds = record["seconds"]
    if not isinstance(seconds, dict) or not seconds.keys() <= set(PHASES) or not all(map(_is_time, seconds.values())):
        return False
    if "save" in record and not _is_save(record["save"]):
        return False
    begins = "began" in record
    if begins and not {"from", "alive"} <= record.keys():
        return False
    times = [record["at"], *([record["began"], record["alive"] or 0.0] if begins else [])]
    steps = [record["step"], *([record["from"]] if begins else [])]
    return all(map(_is_time, times)) and all(map(_is_step, steps))


def _is_save(value: object) -> bool:
    return isinstance(value, dict) and value.keys() == {"stall", "written"} and all(map(_is_time, value.values()))


def _is_step(value: object) -> bool:
    return type(value) is int and 0 <= value < STEP_LIMIT


def _is_time(value: object) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value < LONGEST
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
