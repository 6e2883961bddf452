"""One trial of a sweep in a process that a launcher has started, on this machine or on another.

All that reaches such a process is a ``Launch``; what it has to say goes through a directory in that of the sweep,
which the launching process made.
"""

from __future__ import annotations

import dataclasses
import os
import re
import signal
from pathlib import Path

from trainer.distributed.cluster import discover
from trainer.errors import UsageError
from trainer.runtime.signals import STOP_SIGNALS, StopRequest
from trainer.storage.durable import replace
from trainer.storage.guarded import read_text
from trainer.storage.unacceptable import Unacceptable
from trainer.sweeps import plan
from trainer.sweeps.outcomes import STOPPED_STATUSES, announce
from trainer.sweeps.process import run_in_process

STOP = "stop"  # the file by which the launching process asks its trials to end
SIZE_LIMIT = 16  # bytes of a note


@dataclasses.dataclass(frozen=True)
class Launch:
    """What every process of a launch is told.

    ``overrides`` are those of each trial as this command makes them, ``place`` is the directory for notes. ``local``:
    the processes belong to the launching one and end with it; if not, they go on without it.
    """

    sweep_dir: Path
    place: Path
    overrides: tuple[tuple[str, ...], ...]
    local: bool


def run(launch: Launch, number: int, overrides: tuple[str, ...]) -> None:
    """Run a trial to its end and note its exit status. A signal to this process ends the trial after a checkpoint,
    and is then answered as the launcher wants it: submitit has its job requeued on SIGUSR2.

    Raises:
        UsageError: the trial is not the one that the sweep was made with.
        SystemExit: a signal ended the trial and this process, which no launching process waits for.
    """
    if overrides != launch.overrides[number]:
        raise UsageError(f"the launcher's trial {number} is {overrides}, and the sweep's {launch.overrides[number]}")
    if _asked_to_stop(launch):
        return
    sweep = plan.read(launch.sweep_dir)
    announce(sweep, sweep.trials[number])
    request = StopRequest()
    with request.installed():
        status = run_in_process(launch.sweep_dir, number, lambda: request.signal is not None or _asked_to_stop(launch))
    # a signal to all processes of a job may come before the trial's is able to answer it
    if request.signal is not None and -status in STOP_SIGNALS:
        status = STOPPED_STATUSES[0]
    if _is_first_process():
        _note(launch, number, status)
    if request.signal is None or status not in STOPPED_STATUSES:
        return
    answer = signal.getsignal(request.signal)
    if callable(answer) and answer is not signal.default_int_handler:
        answer(request.signal, None)
    if not launch.local:  # a return would be a result, after which a job that Slurm starts again is not waited for
        raise SystemExit(status)


def read_status(launch: Launch, number: int) -> int | None:
    """The exit status that a trial's process was noted to end with; None when there is no note that makes sense."""
    try:
        text = read_text(launch.place / str(number), SIZE_LIMIT)
    except (OSError, Unacceptable):
        return None
    return int(text) if re.fullmatch(r"-?\d{1,3}", text) else None


def ask_to_stop(launch: Launch) -> None:
    """Have every trial of the launch end after a checkpoint, and those that have not begun not begin."""
    (launch.place / STOP).touch()


def _asked_to_stop(launch: Launch) -> bool:
    return (launch.place / STOP).exists()


def _note(launch: Launch, number: int, status: int) -> None:
    try:
        replace(launch.place / str(number), str(status).encode())
    except FileNotFoundError:
        return  # the launching process is gone, and has taken the directory with it


def _is_first_process() -> bool:
    """Whether this is the process that speaks for all those that run the trial together."""
    try:
        cluster = discover(os.environ)
    except UsageError:  # the trial has said so, in each of them
        return True
    return cluster is None or cluster.rank == 0
