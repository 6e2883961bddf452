"""One trial of a sweep in a process that a launcher has started, on this machine or on another.

Such a process receives a ``Launch`` and nothing else. It leaves notes in a directory that the launching process made in
the directory of the sweep.
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
from trainer.runtime.streams import spelling
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
    """The information that every process of a launch receives.

    ``overrides`` are those of each trial, as this command makes them. ``place`` is the directory for notes. With
    ``local``, the processes belong to the launching process and end with it; otherwise they continue without it.
    """

    sweep_dir: Path
    place: Path
    overrides: tuple[tuple[str, ...], ...]
    local: bool


def run(launch: Launch, number: int, overrides: tuple[str, ...]) -> None:
    """Run a trial to its end and note its exit status. A signal to this process ends the trial after a checkpoint.
    Then the process answers the signal in the launcher's way: submitit requeues its job on SIGUSR2.

    Raises:
        UsageError: the launcher's overrides are not those of the sweep's trial.
        SystemExit: a signal ended the trial and this process, and no launching process waits for it.
    """
    if overrides != launch.overrides[number]:
        raise UsageError(f"the launcher's trial {number} is {overrides}, and the sweep's {launch.overrides[number]}")
    if _asked_to_stop(launch):
        return
    sweep = plan.read(launch.sweep_dir)
    with spelling():
        announce(sweep, sweep.trials[number])
    request = StopRequest()
    with request.installed():
        status = run_in_process(launch.sweep_dir, number, lambda: request.signal is not None or _asked_to_stop(launch))
    # a signal to all processes of a job may come before the trial's process can answer it
    if request.signal is not None and -status in STOP_SIGNALS:
        status = STOPPED_STATUSES[0]
    if _is_first_process():
        _note(launch, number, status)
    if request.signal is None or status not in STOPPED_STATUSES:
        return
    answer = signal.getsignal(request.signal)
    if callable(answer) and answer is not signal.default_int_handler:
        answer(request.signal, None)
    if not launch.local:  # a return would be a result, and nobody waits for a requeued job that has a result
        raise SystemExit(status)


def read_status(launch: Launch, number: int) -> int | None:
    """The exit status in the note of a trial's process; None when there is no valid note."""
    try:
        text = read_text(launch.place / str(number), SIZE_LIMIT)
    except (OSError, Unacceptable):
        return None
    return int(text) if re.fullmatch(r"-?\d{1,3}", text) else None


def ask_to_stop(launch: Launch) -> None:
    """Ask every trial of the launch to end after a checkpoint, and those that have not begun not to begin."""
    (launch.place / STOP).touch()


def _asked_to_stop(launch: Launch) -> bool:
    return (launch.place / STOP).exists()


def _note(launch: Launch, number: int, status: int) -> None:
    try:
        replace(launch.place / str(number), str(status).encode())
    except FileNotFoundError:
        return  # the launching process has ended, and has removed the directory


def _is_first_process() -> bool:
    """Whether this process writes the note for all processes that share the trial."""
    try:
        cluster = discover(os.environ)
    except UsageError:  # the trial has reported it in each process
        return True
    return cluster is None or cluster.rank == 0
