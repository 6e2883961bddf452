"""Run a search: each trial is chosen by the results of trials before.

Each chosen trial is recorded before it begins, in the study and in ``sweep.yaml``. A stopped search continues with the
command that began it. It runs what was begun, with the values that were chosen, and then chooses what it would have
chosen had nothing stopped it. Several processes with the same command share the trials.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from trainer.config.search import Proposer, assignments, search_with_hydra, values_in
from trainer.errors import (
    NoValidCheckpoint,
    RestoreRefused,
    RunDirectoryInUse,
    TrainerError,
    UsageError,
    measure,
    printable,
    warn,
)
from trainer.run_directory.metrics import read_validations
from trainer.runtime.signals import StopRequest
from trainer.storage.durable import replace
from trainer.sweeps import claims, plan
from trainer.sweeps.claims import Claim
from trainer.sweeps.outcomes import STOPPED_STATUSES, Outcomes, announce
from trainer.sweeps.plan import Sweep, Trial, config_of
from trainer.sweeps.process import run_in_process
from trainer.sweeps.trial import is_finished, newest_step, prune, read_note, run_dir_of, why_diverged, why_pruned

if TYPE_CHECKING:
    from optuna.trial import TrialState

    from trainer.sweeps.chooser import Chooser, Seen
    from trainer.sweeps.study import Study

# these statuses are about the directory, not about the trial, so the search does not learn of them
NO_RESULTS = (RestoreRefused.exit_status, NoValidCheckpoint.exit_status, RunDirectoryInUse.exit_status)
BEST = "optimization_results.yaml"  # as hydra-optuna-sweeper wrote it


def run(arguments: Sequence[str], stop: StopRequest) -> int:
    """Run trials until there are enough, and print a table of all; returns the exit status.

    Raises:
        UsageError: the settings of the search do not fit the trials, or the directory has another search.
        Stopped: a signal ended the search, after a checkpoint of the running trial.
    """
    status: list[int] = []

    def search(proposer: Proposer) -> None:
        status.append(_search(proposer, arguments, stop))

    search_with_hydra(arguments, search)
    return status[0]


def _search(proposer: Proposer, arguments: Sequence[str], stop: StopRequest) -> int:
    from trainer.sweeps import study as studies  # Optuna is an extra, and SQLAlchemy takes a while
    from trainer.sweeps.chooser import Chooser

    sweep_dir = proposer.sweep_dir
    try:
        chooser = Chooser(proposer.settings, proposer.space)
        first = chooser.draw(())
    except (ValueError, ImportError) as error:
        raise UsageError(f"Optuna refuses these settings: {error}") from error
    # compared as text, because the first trial may have no valid configuration
    on_existing = "resume" if "on_existing=resume" in arguments else "fail"
    plan.refuse_place(sweep_dir)
    known = _identity(sweep_dir)
    there = plan.existing_search(sweep_dir, on_existing)
    proposer.compose(0, first.params)  # what is wrong with every trial is refused before anything is written
    with claims.choosing(sweep_dir):
        if _identity(sweep_dir) != known:
            there = plan.existing_search(sweep_dir, on_existing)
        worker = _Worker(proposer, chooser, studies.opened(sweep_dir, chooser), arguments, stop)
        worker.take_up(there)
    return worker.work()


class _Worker:
    """One of the processes of a search."""

    def __init__(
        self, proposer: Proposer, chooser: Chooser, study: Study, arguments: Sequence[str], stop: StopRequest
    ) -> None:
        from trainer.sweeps.study import hidden

        self._proposer = proposer
        self._chooser = chooser
        self._study = study
        self._sweep_dir = proposer.sweep_dir
        self._stop = stop
        self._outcomes = Outcomes(stop)
        self._read: tuple[object, Sweep | None] | None = None  # the identity of sweep.yaml, and its contents
        self._done: set[int] = set()  # trials that this process has looked at, or has run
        self._seen: tuple[int, int, Seen] | None = None  # a trial, the newest checkpoint then, and what the pruner said
        self._looked: tuple[int, int | None] | None = None  # as ``_seen``, by ``_gives_up_now``
        self._wanted = False
        self._arguments = tuple(
            hidden(each) for each in arguments if each.split("=")[0] not in ("hydra.sweep.dir", "on_existing")
        )

    # the trials: in the study and in sweep.yaml

    def take_up(self, there: Sweep | None) -> None:
        """Make study and ``sweep.yaml`` agree. A trial is entered in the study first.

        Raises:
            UsageError: they are of different searches, or this command makes another one.
        """
        from trainer.sweeps.study import planned

        trials, entered = () if there is None else there.trials, self._study.trials()
        for trial in trials[len(entered) :]:
            values = values_in(trial.overrides, self._proposer.space)
            if values is None:
                raise UsageError(
                    f"{self._sweep_dir} has another search: trial {trial.number} is not among what this command "
                    f"varies: {' '.join(trial.overrides)}\nchoose another hydra.sweep.dir"
                )
            self._study.enter(planned(values, self._chooser))
        if len(entered) < len(trials):
            warn(
                f"the study of {self._sweep_dir} lacks the trials {len(entered)} to {len(trials) - 1}, because another "
                "program chose them, or the study was lost; they are entered as they are, with their results"
            )
        entered = self._study.trials()
        for trial, known in zip(trials, entered, strict=False):
            missing = {*assignments(known.params)} - {*trial.overrides}
            if missing:
                raise UsageError(
                    f"trial {trial.number} of {self._sweep_dir} has {' '.join(trial.overrides)}, and that of its study "
                    f"{' '.join(sorted(missing))}\nchoose another hydra.sweep.dir"
                )
        first = next((trial.number for trial in trials if trial.config is not None), 0)
        wanted = [first] if trials else []
        for number in [*wanted, *range(len(trials), len(entered))]:
            job = self._proposer.compose(number, entered[number].params)
            there = plan.propose(self._sweep_dir, there, job, self._arguments, self._failed())
        self._remember(there)

    def _next(self) -> tuple[Trial, Claim] | None:
        """A trial for this process: the first that no other process has, or a new one. None where there is none."""
        with claims.choosing(self._sweep_dir):
            there = self._plan()
            trials = () if there is None else there.trials
            for trial in trials:
                if trial.number in self._done:
                    continue
                claimed = claims.claim(self._sweep_dir, trial.number)
                if claimed is not None:
                    return trial, claimed
            number = len(trials)
            if number >= self._proposer.settings.n_trials:
                return None
            history = self._study.trials()
            if len(history) != number:  # a filesystem that shows what was; the next one would overwrite a trial
                raise UsageError(
                    f"{self._sweep_dir / plan.FILE_NAME} has {number} trials, and the study {len(history)}\n"
                    "another process may have written one that this filesystem does not show yet; run the command again"
                )
            drawn = self._chooser.draw(history)
            job = self._proposer.compose(number, drawn.params)
            self._study.enter(drawn)
            sweep = plan.propose(self._sweep_dir, there, job, self._arguments, self._failed())
            self._remember(sweep)
            claimed = claims.claim(self._sweep_dir, number)
            assert claimed is not None, "nobody else knows of it yet"
            return sweep.trials[number], claimed

    def _plan(self) -> Sweep | None:
        """``sweep.yaml`` as it is now. Reading it takes a tenth of a second for each three trials or so."""
        if self._read is None or self._read[0] != _identity(self._sweep_dir):
            self._remember(plan.existing_search(self._sweep_dir, "resume"))
        assert self._read is not None
        return self._read[1]

    def _remember(self, sweep: Sweep | None) -> None:
        self._read = _identity(self._sweep_dir), sweep

    def _failed(self) -> tuple[int, ...]:
        from optuna.trial import TrialState

        from trainer.sweeps.study import states

        return states(self._study.trials(), TrialState.FAIL)

    # running them

    def work(self) -> int:
        """Run trials until there are enough, or one has no result, and print the table."""
        enough = False
        while self._stop.signal is None:
            following = self._next()
            if following is None:
                enough = True
                break
            trial, claimed = following
            try:
                self._done.add(trial.number)
                result = self._result(trial)
                if result is None:
                    break
                self._tell(trial, result)
            finally:
                claimed.release()
        return self._conclude(enough)

    def _result(self, trial: Trial) -> float | TrialState | None:
        """How a trial ended, after running it unless it had; None when there is no result yet, and the search cannot
        go on without one.
        """
        from optuna.trial import TrialState

        with claims.choosing(self._sweep_dir):
            told = self._study.trials()[trial.number].state
        known = self._known(trial, told)
        if known is not None:
            return known
        if is_finished(self._sweep_dir, trial):
            self._outcomes.finished_before(trial)
        elif not self._gives_up(trial, told):
            sweep = self._plan()
            assert sweep is not None
            announce(sweep, trial)
            self._looked, self._wanted = None, False
            status = run_in_process(
                self._sweep_dir,
                trial.number,
                lambda: self._stop.signal is not None or self._gives_up_now(trial, told),
            )
            if status != 0 and not (status in STOPPED_STATUSES and self._gives_up(trial, told)):
                return self._without_result(trial, status)
            self._outcomes.ended(trial, 0)
        if self._gives_up(trial, told):
            reason = self._why_hopeless(trial)
            prune(self._sweep_dir, trial, reason)
            print(printable(f"trial {trial.number} is pruned: {reason}"), flush=True)
            self._outcomes.pruned(trial, reason)
            return TrialState.PRUNED
        best = best_validation(self._sweep_dir, trial)
        if best is None:
            self._outcomes.diverged(trial, "no validation has a finite loss")
        return TrialState.FAIL if best is None else best

    def _known(self, trial: Trial, told: TrialState) -> TrialState | None:
        """How a trial ended that has no value, by what an earlier process left; None for any other."""
        from optuna.trial import TrialState

        sweep = self._plan()
        assert sweep is not None
        assert sweep.search is not None
        if (reason := why_diverged(self._sweep_dir, trial)) is not None:
            self._outcomes.diverged(trial, reason, before=True)
            return TrialState.FAIL
        if told == TrialState.FAIL or trial.number in sweep.search.failed:
            self._outcomes.failed_before(trial)  # the next ones were chosen with that knowledge
            return TrialState.FAIL
        reason = why_pruned(self._sweep_dir, trial)
        if reason is None and told != TrialState.PRUNED:
            return None
        self._gives_up(trial, told)  # so that the study has the validations that the pruner saw
        self._outcomes.pruned(trial, reason or "its run went on by itself", before=True)
        return TrialState.PRUNED

    def _without_result(self, trial: Trial, status: int) -> TrialState | None:
        """What the study learns of a trial whose process ended with this status; None when it does not learn of it."""
        from optuna.trial import TrialState

        self._outcomes.ended(trial, status)
        if self._stop.signal is not None or status in NO_RESULTS:
            return None
        if (reason := why_diverged(self._sweep_dir, trial)) is not None:
            self._outcomes.diverged(trial, reason)
            return TrialState.FAIL
        final = trial.config is None or self._proposer.settings.accepts_failures
        return TrialState.FAIL if final else None

    def _tell(self, trial: Trial, result: float | TrialState) -> None:
        with claims.choosing(self._sweep_dir):
            if not self._study.trials()[trial.number].state.is_finished():
                self._study.tell(trial.number, result)

    # giving up

    def _gives_up(self, trial: Trial, told: TrialState) -> bool:
        """Whether the pruner gives up the trial. It sees the validations that are in a checkpoint, each in its turn, so
        neither the time of this look nor a kill changes the answer.
        """
        if told.is_finished() or trial.config is None:
            return False
        run_dir = run_dir_of(self._sweep_dir, trial)
        newest = newest_step(run_dir)
        if newest is None:
            return False
        if self._seen is None or self._seen[:2] != (trial.number, newest):
            metric = config_of(trial).checkpoint.best_metric
            found = read_validations(run_dir, noted=True)
            committed = {step: values[metric] for step, values in found.items() if step <= newest and metric in values}
            with claims.choosing(self._sweep_dir):
                seen = self._chooser.watch(self._study.trials(), trial.number, committed)
                self._study.report(trial.number, seen)
            self._seen = trial.number, newest, seen
        return self._seen[2].pruned_at is not None

    def _gives_up_now(self, trial: Trial, told: TrialState) -> bool:
        """As ``_gives_up``, while the trial runs, once for each checkpoint. A database that does not answer ends no
        trial: what it was not told, it is told in the end.
        """
        looked = trial.number, newest_step(run_dir_of(self._sweep_dir, trial))
        if looked != self._looked:
            self._looked = looked
            try:
                self._wanted = self._gives_up(trial, told)
            except TrainerError as error:
                warn(f"the pruner has not seen the newest validation of trial {trial.number}: {error}")
        return self._wanted

    def _why_hopeless(self, trial: Trial) -> str:
        assert self._seen is not None
        seen = self._seen[2]
        assert seen.pruned_at is not None
        metric, value = config_of(trial).checkpoint.best_metric, seen.reports[seen.pruned_at]
        return f"{self._chooser.pruner}: {metric} {measure(value)} at step {seen.pruned_at}"

    # the end

    def _conclude(self, enough: bool) -> int:
        """Print the table. ``enough``: this process has found no trial more to run."""
        with claims.choosing(self._sweep_dir):
            sweep, trials = self._plan(), self._study.trials()
            if sweep is None:  # a signal came before the first trial
                return 0
            if enough and all(trial.state.is_finished() for trial in trials):
                sweep = plan.end_search(self._sweep_dir, sweep, self._failed())
            best = self._study.best()
            if best is not None:
                summary = {"name": "optuna", "best_params": best.params, "best_value": best.value}
                replace(self._sweep_dir / BEST, yaml.safe_dump(summary, sort_keys=False).encode())
        if enough:
            for trial in sweep.trials:
                if trial.number not in self._done:  # another process has it
                    self._outcomes.ended(trial, RunDirectoryInUse.exit_status)
        return self._outcomes.conclude(self._sweep_dir, sweep)


def _identity(sweep_dir: Path) -> tuple[int, int, int] | None:
    """What changes whenever ``sweep.yaml`` is replaced."""
    try:
        status = os.stat(sweep_dir / plan.FILE_NAME)
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


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
