"""How the trials of a sweep ended, and what follows for the sweep: its table, last lines and exit status."""

from __future__ import annotations

import signal
from pathlib import Path

from trainer.errors import NoValidCheckpoint, RestoreRefused, RunDirectoryInUse, Stopped, UsageError, printable
from trainer.runtime.signals import EXIT_INTERRUPTED, EXIT_STOPPED, StopRequest, exit_status
from trainer.sweeps.plan import Sweep, Trial, label, report_command, resume_command, search_command
from trainer.sweeps.summary import print_summary
from trainer.sweeps.trial import how_to_try_again, is_finished, run_dir_of

FINISHED, FINISHED_BEFORE, IN_USE, FAILED = "finished", "finished before", "in use", "failed"
DIVERGED, DIVERGED_BEFORE = "diverged", "diverged before"
PRUNED, PRUNED_BEFORE = "pruned", "pruned before"
OUTCOMES = {  # exit status of a trial's process -> text in the table
    0: FINISHED,
    UsageError.exit_status: "invalid",
    RestoreRefused.exit_status: "refused",
    NoValidCheckpoint.exit_status: "no checkpoint",
    RunDirectoryInUse.exit_status: IN_USE,
    EXIT_STOPPED: "stopped",
    EXIT_INTERRUPTED: "stopped",
}
STOPPED_STATUSES = (EXIT_STOPPED, EXIT_INTERRUPTED)
# the sweep's own exit status when every failed trial ended with the same one of these; otherwise 1
SHARED_STATUSES = (RestoreRefused.exit_status, NoValidCheckpoint.exit_status, RunDirectoryInUse.exit_status)


class Outcomes:
    """The outcomes of the trials that were looked at, by number."""

    def __init__(self, stop: StopRequest) -> None:
        self._stop = stop
        self._outcomes: dict[int, str] = {}
        self._statuses: dict[int, int] = {}  # of trials that are neither finished nor stopped
        self._reasons: dict[int, str] = {}  # of trials that diverged
        self._pruned: dict[int, str] = {}  # reasons, too

    def finished_before(self, trial: Trial) -> None:
        self._outcomes[trial.number] = FINISHED_BEFORE

    def failed_before(self, trial: Trial) -> None:
        """The trial failed before, and the sweeper chose the later trials with that knowledge."""
        self._outcomes[trial.number] = FAILED if trial.config is not None else OUTCOMES[UsageError.exit_status]
        self._statuses[trial.number] = 1

    def diverged(self, trial: Trial, reason: str, *, before: bool = False) -> None:
        """The trial has no result and would have none again: its training failed, or it ran to its end and the loss of
        none of its validations is finite. With ``before``, an earlier process found that.
        """
        self._outcomes[trial.number] = DIVERGED_BEFORE if before else DIVERGED
        self._reasons[trial.number] = reason
        self._statuses[trial.number] = 1

    def pruned(self, trial: Trial, reason: str, *, before: bool = False) -> None:
        """The search gave up the trial. That is a result as good as another. ``before`` as in ``diverged``."""
        self._outcomes[trial.number] = PRUNED_BEFORE if before else PRUNED
        self._pruned[trial.number] = reason
        self._statuses.pop(trial.number, None)

    def ended(self, trial: Trial, status: int) -> None:
        """The process of the trial ended with this exit status."""
        self._outcomes[trial.number] = _outcome(status)
        if status in STOPPED_STATUSES:
            self._stop.signal = self._stop.signal or signal.SIGTERM  # only the trial's process got the signal
        elif status != 0:
            self._statuses[trial.number] = status

    def nothing_known(self, trial: Trial) -> None:
        """No note says how the trial's process ended, or that it started."""
        self._statuses[trial.number] = 1

    def conclude(self, sweep_dir: Path, sweep: Sweep) -> int:
        """Print the table and what to do next; returns the exit status of the sweep.

        Raises:
            Stopped: a signal ended the sweep, or a trial of it.
        """
        for trial in sweep.trials:  # another process may have finished its trials by now
            if self._outcome_of(trial) == IN_USE and is_finished(sweep_dir, trial):
                self.ended(trial, 0)
                del self._statuses[trial.number]
        print_summary(sweep_dir, sweep, self._outcomes, self._reasons | self._pruned)
        finished = sum(self._outcome_of(trial) in (FINISHED, FINISHED_BEFORE) for trial in sweep.trials)
        invalid = sum(trial.config is None for trial in sweep.trials)
        others = len(sweep.trials) - finished - len(self._reasons) - len(self._pruned) - invalid
        counted = f"{finished} of {len(sweep.trials)} trials are finished"
        counted += f", {len(self._pruned)} pruned" if self._pruned else ""
        counted += f", {len(self._reasons)} diverged" if self._reasons else ""
        counted += f", {invalid} invalid" if invalid else ""
        goes_on = sweep.search is not None and not sweep.search.ended
        if sweep.search is not None and goes_on:
            next_step = f"; to continue the search:\n  {printable(search_command(sweep_dir, sweep.search))}"
        else:
            verb = "for the others" if self._stop.signal is not None else "to try the others again"
            next_step = f"; {verb}:\n  {resume_command(sweep_dir)}"
        if self._stop.signal is not None and (goes_on or others):
            raise Stopped(f"{self._stop.signal.name}; {counted}{next_step}", exit_status(self._stop.signal))
        print(counted + (next_step if goes_on or others else ""))
        if finished:
            print(f"to compare the trials on one page:\n  {report_command(sweep_dir)}")
        if self._reasons and sweep.search is None:
            diverged = next(trial for trial in sweep.trials if trial.number in self._reasons)
            print(how_to_try_again(run_dir_of(sweep_dir, diverged)))
        if not self._statuses:
            return 0
        shared, *more = set(self._statuses.values())
        return shared if not more and shared in SHARED_STATUSES else 1

    def _outcome_of(self, trial: Trial) -> str | None:
        return self._outcomes[trial.number] if trial.number in self._outcomes else None


def announce(sweep: Sweep, trial: Trial) -> None:
    """Say which trial begins. The number of a search's trials is not known."""
    counted = "" if sweep.search is not None else f" ({trial.number + 1} of {len(sweep.trials)})"
    print(f"trial {trial.number}{counted}  {printable(label(sweep, trial))}", flush=True)


def _outcome(status: int) -> str:
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return OUTCOMES[status] if status in OUTCOMES else FAILED
