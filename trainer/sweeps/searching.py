"""Run a search: one of Hydra's sweeper plug-ins chooses each trial by the results of the trials before.

Each chosen trial is recorded before it begins. A stopped search continues with the command that began it. The sweeper,
whose random numbers are seeded, then gets the results of the finished trials and must choose the same trials as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer.config.multirun import Job, NoResult, Suspended, search_with_hydra
from trainer.errors import NoValidCheckpoint, RestoreRefused, RunDirectoryInUse, UsageError
from trainer.run_directory.metrics import read_validations
from trainer.runtime.signals import StopRequest
from trainer.sweeps import plan
from trainer.sweeps.outcomes import Outcomes, announce
from trainer.sweeps.plan import Sweep, Trial
from trainer.sweeps.process import run_in_process
from trainer.sweeps.trial import is_finished, read_note, run_dir_of, why_diverged

# these statuses are about the directory, not about the trial, so the sweeper does not learn of them
NO_RESULTS = (RestoreRefused.exit_status, NoValidCheckpoint.exit_status, RunDirectoryInUse.exit_status)


def run(arguments: Sequence[str], stop: StopRequest) -> int:
    """Run trials for as long as the sweeper wants more, and print a table of all; returns the exit status.

    Raises:
        UsageError: the settings of the sweeper do not fit the trials, or the directory has another search.
        Stopped: a signal ended the search, after a checkpoint of the running trial.
    """
    search = _Search(arguments, stop)
    return search.conclude(search_with_hydra(arguments, search.result_of))


class _Search:
    """The progress of the search in this process."""

    def __init__(self, arguments: Sequence[str], stop: StopRequest) -> None:
        self._arguments = tuple(
            each for each in arguments if each.split("=")[0] not in ("hydra.sweep.dir", "on_existing")
        )
        # compared as text, because the first trial may have no valid configuration
        self._on_existing = "resume" if "on_existing=resume" in arguments else "fail"
        self._stop = stop
        self._outcomes = Outcomes(stop)
        self._failed: tuple[int, ...] = ()
        self._at: tuple[Path, Sweep] | None = None

    def result_of(self, job: Job) -> float | NoResult:
        """The best validation of the chosen trial, after running it unless it has ended; why it has none otherwise.

        Raises:
            Suspended: there is no result yet, and the sweeper cannot continue without one.
            UsageError: the search had another trial at this place, or the trial has no validation.
        """
        if self._stop.signal is not None:
            raise Suspended
        sweep = plan.propose(job.sweep_dir, job, self._arguments, self._failed, self._on_existing)
        self._at = job.sweep_dir, sweep
        trial = sweep.trials[job.number]
        assert sweep.search is not None
        reason = why_diverged(job.sweep_dir, trial)
        if reason is not None:
            return self._diverged(trial, reason, before=True)
        if trial.number in sweep.search.failed:
            self._outcomes.failed_before(trial)
            self._failed += (trial.number,)
            return NoResult.FINAL  # the sweeper has chosen the next ones with that knowledge
        if is_finished(job.sweep_dir, trial):
            self._outcomes.finished_before(trial)
        else:
            announce(sweep, trial)
            status = run_in_process(job.sweep_dir, trial.number, lambda: self._stop.signal is not None)
            self._outcomes.ended(trial, status)
            if (self._stop.signal is not None and status != 0) or status in NO_RESULTS:
                raise Suspended
            reason = why_diverged(job.sweep_dir, trial)
            if reason is not None:
                return self._diverged(trial, reason)
            if status != 0:
                self._failed += (trial.number,)
                return NoResult.FINAL if trial.config is None else NoResult.FAILED
        best = best_validation(job.sweep_dir, trial)
        return self._diverged(trial, "no validation has a finite loss") if best is None else best

    def _diverged(self, trial: Trial, reason: str, *, before: bool = False) -> NoResult:
        self._outcomes.diverged(trial, reason, before=before)
        self._failed += (trial.number,)
        return NoResult.FINAL

    def conclude(self, ended: bool) -> int:
        """Print the table; ``ended`` means that the sweeper wants no more trials."""
        if self._at is None:
            return 0
        sweep_dir, sweep = self._at
        if ended:
            sweep = plan.end_search(sweep_dir, self._failed)
        return self._outcomes.conclude(sweep_dir, sweep)


def best_validation(sweep_dir: Path, trial: Trial) -> float | None:
    """The best validation of a finished trial; None when it has some, and the loss of none of them is finite."""
    run_dir = run_dir_of(sweep_dir, trial)
    note = read_note(run_dir)
    assert note is not None, "a finished trial has a note"
    if note.best is None and not read_validations(run_dir):
        raise UsageError(
            f"trial {trial.number} ended without a validation, and a search needs the result of the best one\n"
            "set evaluation.every_epochs or evaluation.every_steps so that each trial has one"
        )
    return note.best
