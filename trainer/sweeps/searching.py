"""Running a search: a sweeper plug-in of Hydra chooses each trial by the results of those before.

What was chosen is written down before it begins. A search that was stopped goes on with the command that it was begun
with: the sweeper, whose random numbers are seeded, is told the results of the finished trials and has to choose what it
chose before.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer.config.multirun import Job, Suspended, search_with_hydra
from trainer.errors import NoValidCheckpoint, RestoreRefused, RunDirectoryInUse, UsageError
from trainer.runtime.signals import StopRequest
from trainer.sweeps import plan
from trainer.sweeps.outcomes import Outcomes, announce
from trainer.sweeps.plan import Sweep, Trial
from trainer.sweeps.process import run_in_process
from trainer.sweeps.trial import is_finished, read_note, run_dir_of

# these say something of the directory and not of the trial: no sweeper is told of them
NO_RESULTS = (RestoreRefused.exit_status, NoValidCheckpoint.exit_status, RunDirectoryInUse.exit_status)


def run(arguments: Sequence[str], stop: StopRequest) -> int:
    """Run trials for as long as the sweeper wants more, and print a table of all; returns the exit status.

    Raises:
        UsageError: the settings of the sweeper do not fit the trials, or the search is not the one that is there.
        Stopped: a signal ended the search, the running trial after a checkpoint.
    """
    search = _Search(arguments, stop)
    return search.conclude(search_with_hydra(arguments, search.result_of))


class _Search:
    """The search as far as this process has come."""

    def __init__(self, arguments: Sequence[str], stop: StopRequest) -> None:
        self._arguments = tuple(
            each for each in arguments if each.split("=")[0] not in ("hydra.sweep.dir", "on_existing")
        )
        # as text, because the first trial may be one that has no valid configuration
        self._on_existing = "resume" if "on_existing=resume" in arguments else "fail"
        self._stop = stop
        self._outcomes = Outcomes(stop)
        self._failed: tuple[int, ...] = ()
        self._at: tuple[Path, Sweep] | None = None

    def result_of(self, job: Job) -> float | None:
        """The best validation of the trial that was chosen, which is run unless it is finished; None when it failed.

        Raises:
            Suspended: there is no result yet, and the sweeper cannot go on without.
            UsageError: this is not the trial that the search had at this place, or it has no validation.
        """
        if self._stop.signal is not None:
            raise Suspended
        sweep = plan.propose(job.sweep_dir, job, self._arguments, self._failed, self._on_existing)
        self._at = job.sweep_dir, sweep
        trial = sweep.trials[job.number]
        assert sweep.search is not None
        if trial.number in sweep.search.failed:
            self._outcomes.failed_before(trial)
            self._failed += (trial.number,)
            return None
        if is_finished(job.sweep_dir, trial):
            self._outcomes.finished_before(trial)
        else:
            announce(sweep, trial)
            status = run_in_process(job.sweep_dir, trial.number, lambda: self._stop.signal is not None)
            self._outcomes.ended(trial, status)
            if (self._stop.signal is not None and status != 0) or status in NO_RESULTS:
                raise Suspended
            if status != 0:
                self._failed += (trial.number,)
                return None
        return _best(job.sweep_dir, trial)

    def conclude(self, ended: bool) -> int:
        """Print the table; ``ended`` says that the sweeper wants no more trials."""
        if self._at is None:
            return 0
        sweep_dir, sweep = self._at
        if ended:
            sweep = plan.end_search(sweep_dir, self._failed)
        return self._outcomes.conclude(sweep_dir, sweep)


def _best(sweep_dir: Path, trial: Trial) -> float:
    note = read_note(run_dir_of(sweep_dir, trial))
    assert note is not None, "a trial that is finished says so"
    if note.best is None:
        raise UsageError(
            f"trial {trial.number} ended without a validation, and a search goes by the best one\n"
            "evaluation.every_epochs or evaluation.every_steps sets when there is one"
        )
    return note.best
