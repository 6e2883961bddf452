"""Run the trials of a sweep one after another."""

from __future__ import annotations

from pathlib import Path

from trainer.runtime.signals import StopRequest
from trainer.sweeps.outcomes import Outcomes, announce
from trainer.sweeps.plan import Sweep
from trainer.sweeps.process import run_in_process
from trainer.sweeps.trial import is_finished, why_diverged, why_pruned


def run(sweep_dir: Path, sweep: Sweep, stop: StopRequest) -> int:
    """Finish every unfinished trial and print a table of all trials; returns the exit status.

    After a failed trial the others still run. One that diverged is left alone, because it would do so again, and
    so is one that a search has pruned.

    Raises:
        Stopped: a signal ended the sweep, after a checkpoint of the running trial.
    """
    outcomes = Outcomes(stop)
    for trial in sweep.trials:
        if stop.signal is not None:
            break
        if sweep.search is not None and trial.number in sweep.search.failed:
            outcomes.failed_before(trial)
        elif (reason := why_pruned(sweep_dir, trial)) is not None:
            outcomes.pruned(trial, reason, before=True)
        elif is_finished(sweep_dir, trial):
            outcomes.finished_before(trial)
        elif (reason := why_diverged(sweep_dir, trial)) is not None:
            outcomes.diverged(trial, reason, before=True)
        else:
            announce(sweep, trial)
            outcomes.ended(trial, run_in_process(sweep_dir, trial.number, lambda: stop.signal is not None))
            if (reason := why_diverged(sweep_dir, trial)) is not None:
                outcomes.diverged(trial, reason)
    return outcomes.conclude(sweep_dir, sweep)
