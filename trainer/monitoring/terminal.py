"""The output of a run for people: a progress bar on a terminal, a block in a notebook, a few plain lines elsewhere, and
train.log.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.control import Control
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.segment import ControlType, Segment
from rich.text import Text

from trainer.errors import SPELLED, duration, measure
from trainer.monitoring.notebook import Block, is_notebook
from trainer.storage import holding
from trainer.storage.going_on import WRITES
from trainer.storage.holding import named

PLAIN_INTERVAL_SECONDS = 10.0
STAMP = "%Y-%m-%dT%H:%M:%S"
UNKNOWN = "-:--:--"  # instead of a time


class _Block:
    """The bar, and under it the values of the last training record, or what the run does before there is one.

    ``Live`` writes it over what it wrote before, which had as many rows. A terminal that has become narrower has broken
    the lines of before into more rows, as nearly all do. So those that are too many are erased first.
    """

    def __init__(self, progress: Progress) -> None:
        self.values = ""
        self._progress = progress
        self._lengths: list[int] = []  # of the lines on the terminal, in columns

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        rows = sum(max(1, math.ceil(length / width)) for length in self._lengths)
        for _ in range(rows - len(self._lengths)):
            yield Control((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2))
        shown = Group(self._progress, Text(self.values, no_wrap=True, overflow="ellipsis"))
        lines = console.render_lines(shown, options, pad=False)
        self._lengths = [Segment.get_line_length(line) for line in lines]
        for number, line in enumerate(lines):
            yield from [Segment.line()] * (number > 0)
            yield from line


class Terminal:
    """Reports about a run, on stdout and in ``train.log``. ``total`` is the run's length in steps."""

    def __init__(self, log: Path, step: int, total: int) -> None:
        self._path = log
        self._log = _appending(log)
        self.failure: OSError | None = None  # from the last attempt to write to the log
        self._console = Console(highlight=False, soft_wrap=True, emoji=False)  # :cat: in a path is text
        self._last_line = 0.0
        self._progress: Progress | None = None
        self._notebook = Block(step, total) if is_notebook() else None
        if self._console.is_terminal and self._notebook is None:
            self._progress = Progress(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(bar_width=None),
                TextColumn("ETA"),
                TextColumn("{task.fields[eta]}"),
                TextColumn("{task.fields[checkpoint]}"),
                console=self._console,
                expand=True,
            )
            self._task = self._progress.add_task("train", total=total, completed=step, checkpoint="", eta=UNKNOWN)
            self._block = _Block(self._progress)
            self._live = Live(self._block, console=self._console, refresh_per_second=10)
            self._live.start()

    def step(self, step: int) -> None:
        """Report that a step was made."""
        if self._notebook is not None:
            self._notebook.step(step)
        if self._progress is not None:
            self._progress.update(self._task, completed=step)

    def stage(self, text: str) -> None:
        """Show what the run does before its first record. Only a person who watches a terminal asks."""
        if self._notebook is not None:
            self._notebook.values(text, "")
        if self._progress is not None:
            self._block.values = text
            self._live.refresh()

    def training(
        self, step: int, total: int, epoch: float, values: Mapping[str, float], seconds_left: float | None
    ) -> None:
        """Report a new training record. Rate and time left are not known at the start of a process."""
        status = (
            f"epoch {epoch:.2f}  loss {measure(values['loss'])}  accuracy {values['accuracy']:.3f}  "
            f"learning rate {values['learning_rate']:.3g}"
        )
        if "images_per_second" in values:
            status += f"  {values['images_per_second']:.0f} images/s"
        eta = UNKNOWN if seconds_left is None else duration(seconds_left)
        line = f"step {step}/{total}  {status}" + (f"  ETA {eta}" if seconds_left is not None else "")
        self.log(line)
        if self._notebook is not None:
            self._notebook.values(status, "" if seconds_left is None else eta)
        elif self._progress is not None:
            self._progress.update(self._task, eta=eta)
            self._block.values = status
        elif time.monotonic() - self._last_line >= PLAIN_INTERVAL_SECONDS:
            self._last_line = time.monotonic()
            self._console.print(line, markup=False)

    def committed(self, step: int) -> None:
        """Report that the checkpoint of ``step`` is on disk."""
        self.log(f"checkpoint of step {step} is committed")
        if self._notebook is not None:
            self._notebook.committed(step)
        if self._progress is not None:
            self._progress.update(self._task, checkpoint=f"checkpoint {step}")

    def closing(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        """Report how the run ended: a title, and rows of results and next steps."""
        width = max(len(name) for name, _ in rows)
        lines = [f"  {name:<{width}}  {text}" for name, text in rows]
        for line in (title, *lines):
            self.log(line)
        if self._notebook is not None:
            self._notebook.closing(title, rows)
            return
        if not self._console.is_terminal:
            for line in (title, *lines):
                self._console.print(line, markup=False)
            return
        self._end_progress()
        # no frame: a terminal that breaks a line itself copies it whole, and a frame would break commands into pieces
        self._console.print(Text(title, "bold"))
        for name, text in rows:
            self._console.print(Text.assemble("  ", (f"{name:<{width}}", "bold"), f"  {text}"))

    def line(self, text: str) -> None:
        """Print and log a line of its own."""
        self.log(text)
        if self._notebook is not None:
            self._notebook.line(named(text))
        else:
            self._console.print(named(text), markup=False)

    def warn(self, text: str) -> None:
        self.line(f"warning: {text}")

    def log(self, text: str) -> None:
        """Write to ``train.log`` only."""
        with WRITES.doing(lambda: f"writing to {self._path}"):
            self._append(text)

    def _append(self, text: str) -> None:
        stamp = time.strftime(STAMP)
        try:
            if self._is_gone():
                gone, self._log = self._log, _appending(self._path)
                with contextlib.suppress(OSError):  # its unwritten lines are lost with the old file
                    gone.close()
                self._log.write(f"{stamp}  {self._path.name} was deleted or replaced while the run went on\n")
            self._log.write(_stamped(stamp, text))
            self._log.flush()
            self.failure = None
        except OSError as error:  # unwritten lines stay in the file object's buffer for the next attempt
            self.failure = OSError(error.errno, error.strerror, str(self._path))

    def _is_gone(self) -> bool:
        """Whether another program has deleted or replaced the log, for example to make room. False when the whole run
        directory is gone.
        """
        held = holding.of(self._path.parent)
        if held is not None and held.lost() is not None:
            return False
        try:
            return not os.path.samestat(self._path.lstat(), os.fstat(self._log.fileno()))
        except FileNotFoundError:
            return self._path.parent.is_dir()

    def close(self) -> None:
        self._end_progress()
        with contextlib.suppress(OSError):  # the rest of the log; its failure has been reported
            self._log.close()

    def _end_progress(self) -> None:
        if self._progress is not None:
            self._live.stop()
            self._progress = None


def append(log: Path, text: str) -> None:
    """Write to a ``train.log`` that is not open. It is a view: one that cannot be written is left as it is."""
    with contextlib.suppress(OSError), _appending(log) as file:
        file.write(_stamped(time.strftime(STAMP), text))


def _stamped(stamp: str, text: str) -> str:
    return "".join(f"{stamp}  {line}\n" for line in named(text).splitlines())


def _appending(path: Path) -> TextIO:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o666), "a", encoding="utf-8", errors=SPELLED)
