"""What a person sees while a run goes on: a progress bar on a terminal, sparse plain lines elsewhere, train.log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_INTERVAL_SECONDS = 10.0


class Terminal:
    """Reports a run to stdout and ``train.log``. ``total`` is the run's length in steps."""

    def __init__(self, log: Path, step: int, total: int) -> None:
        self._log = log.open("a", encoding="utf-8")
        self.failure: OSError | None = None  # of the last attempt to write to the log
        self._console = Console(highlight=False, soft_wrap=True)
        self._last_line = 0.0
        self._progress: Progress | None = None
        if sys.stdout.isatty():
            self._progress = Progress(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(),
                TextColumn("{task.fields[status]}"),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._progress.add_task("train", total=total, completed=step, status="")
            self._progress.start()

    def step(self, step: int) -> None:
        """A step was made."""
        if self._progress is not None:
            self._progress.update(self._task, completed=step)

    def training(self, step: int, total: int, epoch: float, values: Mapping[str, float], seconds_left: float) -> None:
        """A training record was logged."""
        status = (
            f"epoch {epoch:.2f}  loss {values['loss']:.4f}  accuracy {values['accuracy']:.3f}  "
            f"{values['images_per_second']:.0f} images/s"
        )
        if self._progress is not None:
            self._progress.update(self._task, status=status)
            self._write(f"step {step}/{total}  {status}")
            return
        line = f"step {step}/{total}  {status}  ETA {_duration(seconds_left)}"
        self._write(line)
        if time.monotonic() - self._last_line >= PLAIN_INTERVAL_SECONDS:
            self._last_line = time.monotonic()
            self._console.print(line, markup=False)

    def line(self, text: str) -> None:
        """Something worth a line of its own."""
        self._write(text)
        self._console.print(text, markup=False)

    def warn(self, text: str) -> None:
        self.line(f"warning: {text}")

    def _write(self, text: str) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S")
        try:
            self._log.write("".join(f"{stamp}  {line}\n" for line in text.splitlines()))
            self._log.flush()
            self.failure = None
        except OSError as error:  # what was not written stays in the file object's buffer for the next attempt
            self.failure = OSError(error.errno, error.strerror, self._log.name)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
        with contextlib.suppress(OSError):  # what is left of the log; its failure has been reported
            self._log.close()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
