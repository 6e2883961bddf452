"""Contenders in processes of their own, which work in turns.

Some contenders cannot share a process: they need other devices or a peak of memory of their own, or have a loop that
cannot be left and entered again. They still take part in an interleaved measurement: every worker is started, and then
one works while the others wait for their next turn.
"""

from __future__ import annotations

import itertools
import json
import os
import pty
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from interleaved import Contender, Row, cpu_seconds, rates


class Worker:
    """The benchmark's end: a process that runs ``program``, a file beside this one, and calls ``Turns.wait``."""

    def __init__(self, program: str, *arguments: str, python: str = sys.executable) -> None:
        command = [python, str(Path(__file__).with_name(program)), *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._report: dict[str, float] | None = None

    @property
    def report(self) -> Mapping[str, float]:
        """The worker's last report; waits for it while the worker is at work."""
        if self._report is None:
            assert self._process.stdout is not None
            line = self._process.stdout.readline()
            assert line, f"{self._process.args!r} has ended"
            self._report = json.loads(line)
        return self._report

    def turn(self) -> None:
        """Let the worker work for one turn; ``report`` then waits for its end."""
        assert self._process.stdin is not None
        assert self.report is not None
        self._report = None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def block(self) -> tuple[float, float]:
        """Wall seconds and CPU seconds of one turn."""
        self.turn()
        return self.report["wall"], self.report["cpu"]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def rates_of(workers: Mapping[str, Worker], baseline: str, rounds: int, steps: int) -> list[Row]:
    """The ``rates`` of workers by name. All warm up at once, and each turn has ``steps`` steps. Then they are ended."""
    warm_up(workers)
    rows = rates([Contender(name, worker.block, steps) for name, worker in workers.items()], baseline, rounds, "steps")
    for worker in workers.values():
        worker.close()
    return rows


def warm_up(workers: Mapping[str, Worker]) -> None:
    """The first turn of all, at once."""
    for worker in workers.values():
        worker.turn()
    for worker in workers.values():
        assert worker.report


class Turns:
    """The worker's end. The program prints to a terminal that nobody looks at, so output costs what it costs a user."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        self._facts: dict[str, float] = {}
        self._began: tuple[float, float] | None = None
        here, terminal = pty.openpty()
        os.dup2(terminal, 1)
        threading.Thread(target=_drain, args=(here,), daemon=True).start()

    def tell(self, **facts: float) -> None:
        """Add facts to every report."""
        self._facts.update(facts)

    def steps(self, warm: int, block: int) -> Iterator[None]:
        """Yields once for each step: the first turn has ``warm`` steps, every later one ``block``."""
        for size in itertools.chain([warm], itertools.repeat(block)):
            self.wait()
            yield from itertools.repeat(None, size)

    def wait(self) -> None:
        """End the current turn, if there is one, and return when the next one begins. The process ends when there is
        no next turn.
        """
        report: dict[str, Any] = dict(self._facts)
        if self._began is not None:
            wall, cpu = self._began
            report |= {"wall": time.perf_counter() - wall, "cpu": cpu_seconds() - cpu}
        report["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MiB; Linux counts in KiB
        print(json.dumps(report), file=self._answers, flush=True)
        if not sys.stdin.readline():
            os._exit(0)
        self._began = time.perf_counter(), cpu_seconds()


def _drain(terminal: int) -> None:
    while os.read(terminal, 1 << 16):
        pass
