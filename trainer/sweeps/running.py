"""Running the trials of a sweep, one after another, each in a process of its own.

TensorFlow takes its threads and its determinism once in a process, so a second trial in the same one could not have
its own. And whatever ends a trial, an operating system short of memory included, does not end the others.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString

from trainer.errors import NoValidCheckpoint, RestoreRefused, RunDirectoryInUse, Stopped, UsageError
from trainer.signals import EXIT_INTERRUPTED, EXIT_STOPPED, StopRequest, exit_status
from trainer.sweeps.plan import Sweep, Trial, label, resume_command
from trainer.sweeps.summary import print_summary
from trainer.sweeps.trial import is_finished

POLL_SECONDS = 0.2
FINISHED, FINISHED_BEFORE, IN_USE = "finished", "finished before", "in use"
OUTCOMES = {  # exit status of a trial's process -> what the table says
    0: FINISHED,
    UsageError.exit_status: "invalid",
    RestoreRefused.exit_status: "refused",
    NoValidCheckpoint.exit_status: "no checkpoint",
    RunDirectoryInUse.exit_status: IN_USE,
    EXIT_STOPPED: "stopped",
    EXIT_INTERRUPTED: "stopped",
}
# what a sweep exits with when it is all that is wrong with its trials; with anything else it is 1
SHARED_STATUSES = (RestoreRefused.exit_status, NoValidCheckpoint.exit_status, RunDirectoryInUse.exit_status)


def run(sweep_dir: Path, sweep: Sweep, stop: StopRequest) -> int:
    """Finish every trial that is not, and print a table of all; returns the exit status.

    A trial that fails does not keep the others from running.

    Raises:
        Stopped: a signal ended the sweep, the running trial after a checkpoint.
    """
    outcomes: dict[int, str] = {}
    statuses: dict[int, int] = {}
    for position, trial in enumerate(sweep.trials, start=1):
        if stop.signal is not None:
            break
        if is_finished(sweep_dir, trial):
            outcomes[trial.number] = FINISHED_BEFORE
            continue
        print(f"trial {trial.number} ({position} of {len(sweep.trials)})  {label(sweep, trial)}", flush=True)
        status = _run_in_process(sweep_dir, trial, stop)
        outcomes[trial.number] = _outcome(status)
        if status in (EXIT_STOPPED, EXIT_INTERRUPTED):
            stop.signal = stop.signal or signal.SIGTERM  # only the trial's process was told
        elif status != 0:
            statuses[trial.number] = status
    for trial in sweep.trials:  # those that another process had may be finished by now
        if trial.number in outcomes and outcomes[trial.number] == IN_USE and is_finished(sweep_dir, trial):
            outcomes[trial.number] = FINISHED
            del statuses[trial.number]
    print_summary(sweep_dir, sweep, outcomes)
    command = resume_command(sweep_dir)
    finished = sum(outcome in (FINISHED, FINISHED_BEFORE) for outcome in outcomes.values())
    counted = f"{finished} of {len(sweep.trials)} trials are finished"
    if stop.signal is not None and finished < len(sweep.trials):
        raise Stopped(f"{stop.signal.name}; {counted}; for the others:\n  {command}", exit_status(stop.signal))
    print(counted if finished == len(sweep.trials) else f"{counted}; to try the others again:\n  {command}")
    if not statuses:
        return 0
    shared, *others = set(statuses.values())
    return shared if not others and shared in SHARED_STATUSES else 1


def _run_in_process(sweep_dir: Path, trial: Trial, stop: StopRequest) -> int:
    """Run one trial as ``resume sweep_dir=… trial=…``, passing on a request to stop; returns its exit status.

    The process belongs to the group of this one, so what ends the group ends both. A Ctrl-C reaches both as well, and
    a second one would end the trial at once: the request is therefore passed on as SIGTERM, which may come twice.
    """
    place = QuotedString(str(sweep_dir), Quote.single).with_quotes()
    arguments = ["resume", f"sweep_dir={place}", f"trial={trial.number}"]
    process = subprocess.Popen([sys.executable, "-m", "trainer", *arguments])
    passed_on = False
    while True:
        try:
            return process.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            if stop.signal is not None and not passed_on:
                process.terminate()
                passed_on = True


def _outcome(status: int) -> str:
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return OUTCOMES[status] if status in OUTCOMES else "failed"
