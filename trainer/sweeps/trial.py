"""One trial of a sweep: its state, and running it in this process.

Only its run can decide whether a trial is finished, and that needs the data and TensorFlow. So the run's answer is kept
in ``finished.json`` in its directory, with the step of its last checkpoint. A trial that still has that checkpoint is
left alone. Without the note (after a crash between the last commit and the note) the run starts again and ends at once.

A trial whose training failed (the loss is not finite) would fail again at the same step, because a resume is exact. So
that is kept as well, in ``failed.json``, and the trial is left alone until its directory is moved away, or its run is
continued by itself in another way. So is a trial that a search gave up (``pruned.json``).
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path, PurePosixPath

from trainer.checkpoint import directory
from trainer.checkpoint.verification import newest_valid
from trainer.command_line import argument, command_line, move_command, place_beside
from trainer.config import override, stored
from trainer.config.schema import Invocation
from trainer.errors import NoValidCheckpoint, RestoreRefused, TrainingFailed, UsageError, warn
from trainer.run_directory.layout import CHECKPOINTS, FAILED, FINISHED, PRUNED
from trainer.run_directory.metrics import best_step, read_validations
from trainer.runtime.importing import importing_tensorflow
from trainer.runtime.signals import StopRequest
from trainer.storage.documents import parse_json
from trainer.storage.durable import replace
from trainer.storage.guarded import read_text, refuse_unless_directory
from trainer.storage.typed import build
from trainer.storage.unacceptable import Unacceptable
from trainer.storage.unreadable import Unreadable
from trainer.sweeps.plan import Trial, config_of

SIZE_LIMIT = 1 << 12  # bytes
REASON_KEPT = 300  # characters


@dataclasses.dataclass(frozen=True)
class Finished:
    """The contents of ``finished.json``: the last step, and the best validation by ``checkpoint.best_metric``; None
    without a validation that has a finite loss.
    """

    step: int
    metric: str
    best: float | None


@dataclasses.dataclass(frozen=True)
class Failed:
    """The contents of ``failed.json``: the step of the newest checkpoint, None without one, and why training failed."""

    step: int | None
    reason: str


@dataclasses.dataclass(frozen=True)
class Pruned:
    """The contents of ``pruned.json``: the step of the newest checkpoint, and why the search gave the trial up."""

    step: int
    reason: str


def run_dir_of(sweep_dir: Path, trial: Trial) -> Path:
    """The run directory of a trial.

    Raises:
        UsageError: a name on the path from the sweep's directory is a link, or something else than a directory.
    """
    path = sweep_dir
    try:
        for name in PurePosixPath(trial.directory).parts:
            path /= name
            if path.exists() or path.is_symlink():
                refuse_unless_directory(path)
    except Unacceptable as error:
        raise UsageError(f"trial {trial.number} cannot be run: {error}") from error
    return path


def run(sweep_dir: Path, trial: Trial, stop: StopRequest) -> None:
    """Start the trial, continue it, or leave it alone when it is finished.

    Raises:
        UsageError: this combination of overrides is not valid.
        RestoreRefused: the run in the trial's directory has another configuration.
    """
    run_dir, config = run_dir_of(sweep_dir, trial), config_of(trial)
    refuse_changed(sweep_dir, trial)
    if is_finished(sweep_dir, trial):
        print(f"{run_dir} is finished")
        return
    reason = why_diverged(sweep_dir, trial)
    if reason is not None:
        raise TrainingFailed(f"trial {trial.number} diverged before: {reason}\n{how_to_try_again(run_dir)}")
    reason = why_pruned(sweep_dir, trial)
    if reason is not None:
        print(left_pruned(run_dir, reason))
        return
    # The initial weights, and what was allowed for them, matter only to a run without checkpoints.
    begun = bool(directory.committed(run_dir / CHECKPOINTS))
    invocation = Invocation(
        run_dir=str(run_dir),
        on_existing="resume",
        init_from=None if begun else trial.init_from,
        allow=() if begun else trial.allow,
    )
    with importing_tensorflow():
        from trainer.run import session  # imports TensorFlow, which takes seconds

    try:
        ending = session.train(invocation, config, stop, ends_process=True)
    except TrainingFailed as error:
        note = Failed(newest_step(run_dir), re.split("[;\n]", str(error))[0][:REASON_KEPT])
        if run_dir.is_dir():
            replace(run_dir / FAILED, json.dumps(dataclasses.asdict(note)).encode())
        raise
    if ending is None:
        return  # the chief of the processes that share the trial writes the note
    step, metric = newest_step(run_dir), config.checkpoint.best_metric
    assert step is not None, "a run that ended has a checkpoint"
    validations = read_validations(run_dir)
    best = best_step(validations, metric)
    ended = Finished(step, metric, None if best is None else validations[best][metric])
    replace(run_dir / FINISHED, json.dumps(dataclasses.asdict(ended)).encode())


def left_pruned(run_dir: Path, reason: str) -> str:
    return f"{run_dir} was pruned: {reason}; to continue it: {command_line('resume', argument('run_dir', run_dir))}"


def refuse_changed(sweep_dir: Path, trial: Trial) -> None:
    """Refuse a trial that ran with another configuration than the sweep's.

    Raises:
        RestoreRefused: names the trial, the keys and both values.
    """
    run_dir = run_dir_of(sweep_dir, trial)
    path = run_dir / stored.FILE_NAME
    if not path.is_symlink() and not path.exists():
        return
    changes = override.changes(stored.read(path), config_of(trial), whole=True)
    if changes:
        listed = "\n".join(f"  {change.path} is {change.stored}, in the sweep {change.wanted}" for change in changes)
        raise RestoreRefused(
            f"trial {trial.number} in {run_dir} has another configuration than this sweep:\n{listed}\n"
            f"to continue it with its own configuration: {command_line('resume', argument('run_dir', run_dir))}\n"
            "to have the sweep run this trial again, move its directory away"
        )


def is_finished(sweep_dir: Path, trial: Trial) -> bool:
    """Whether the trial ended, as configured, with the checkpoint that is still its newest and verifies."""
    try:
        run_dir = run_dir_of(sweep_dir, trial)
        note = read_note(run_dir)
        if note is None:
            return False
        refuse_changed(sweep_dir, trial)
        last = newest_valid(run_dir / CHECKPOINTS, config_of(trial).checkpoint.verify, warn)
    except (UsageError, RestoreRefused, NoValidCheckpoint, Unreadable):
        return False  # running the trial reports the problem
    return last.manifest.step == note.step


def why_diverged(sweep_dir: Path, trial: Trial) -> str | None:
    """Why the training of a trial failed, if it did and would again; None otherwise."""
    return _why(sweep_dir, trial, FAILED, Failed)


def prune(sweep_dir: Path, trial: Trial, reason: str) -> None:
    """Note that the search gave up the trial, at its newest checkpoint."""
    run_dir = run_dir_of(sweep_dir, trial)
    step = newest_step(run_dir)
    assert step is not None, "what is pruned has a validation in a checkpoint"
    replace(run_dir / PRUNED, json.dumps(dataclasses.asdict(Pruned(step, reason))).encode())


def why_pruned(sweep_dir: Path, trial: Trial) -> str | None:
    """Why the search gave up the trial, if it did and nobody continued its run; None otherwise."""
    return _why(sweep_dir, trial, PRUNED, Pruned)


def _why(sweep_dir: Path, trial: Trial, name: str, kind: type[Failed] | type[Pruned]) -> str | None:
    """The reason in a note of a trial, if it is of this trial and of its newest checkpoint; None otherwise."""
    try:
        run_dir = run_dir_of(sweep_dir, trial)
        note = build(kind, parse_json(read_text(run_dir / name, SIZE_LIMIT)), name)
        refuse_changed(sweep_dir, trial)
    except (OSError, Unacceptable, UsageError, RestoreRefused, NoValidCheckpoint, Unreadable):
        return None
    # another checkpoint is of a run that went on, or was brought here
    return note.reason if note.step == newest_step(run_dir) else None


def how_to_try_again(run_dir: Path) -> str:
    """What to do for a trial that diverged to be run from its beginning."""
    moving = move_command(run_dir, place_beside(run_dir, "diverged"))
    return f"to run a trial that diverged again, move its directory away:\n  {moving}"


def read_note(run_dir: Path) -> Finished | None:
    """The note of a trial that ended; None when it is missing or invalid."""
    try:
        return build(Finished, parse_json(read_text(run_dir / FINISHED, SIZE_LIMIT)), FINISHED)
    except (OSError, Unacceptable):
        return None


def newest_step(run_dir: Path) -> int | None:
    """The step of a trial's newest checkpoint; None without a checkpoint."""
    paths = directory.committed(run_dir / CHECKPOINTS)
    return directory.step_of(paths[-1]) if paths else None
