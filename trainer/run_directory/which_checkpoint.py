"""Which checkpoint of a run ``latest``, ``best``, ``step-N`` or a path means."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from trainer.checkpoint import directory
from trainer.checkpoint.manifest import FILE_NAME
from trainer.checkpoint.retention import described, ranked
from trainer.checkpoint.verification import Depth, Found, foreign_note, newest_valid, verify
from trainer.command_line import argument
from trainer.config import stored
from trainer.errors import NoValidCheckpoint, UsageError
from trainer.run_directory import foreign, layout, places
from trainer.run_directory.metrics import read_validations
from trainer.storage.unreadable import is_directory


def find(run_dir: Path, checkpoint: str, depth: Depth, warn: Callable[[str], None]) -> Found:
    """The verified checkpoint of the run that ``checkpoint`` names. ``warn`` gets a line for each damaged one that is
    skipped.

    Raises:
        NoValidCheckpoint: it does not exist or is damaged.
        Unreadable: it, or another that ``checkpoint`` may mean, cannot be read now.
    """
    if checkpoint == "latest":
        refuse_foreign_run(run_dir)
        return newest_valid(run_dir / layout.CHECKPOINTS, depth, warn)
    return _verified(named(run_dir, checkpoint, depth, warn), depth, warn)


def named(run_dir: Path, checkpoint: str, depth: Depth, warn: Callable[[str], None]) -> Path:
    """Where that checkpoint is, whole or not. ``latest`` is the newest; ``best`` is by the metric in the newest that is
    valid at ``depth``.

    Raises:
        NoValidCheckpoint, Unreadable: as ``find``; damage of the checkpoint itself is not looked for.
    """
    parent = run_dir / layout.CHECKPOINTS
    if checkpoint in ("latest", "best"):
        refuse_foreign_run(run_dir)
    if checkpoint == "latest":
        there = directory.committed(parent)
        if not there:
            raise NoValidCheckpoint(f"{parent} holds no checkpoint")
        return there[-1]
    if checkpoint == "best":
        newest = newest_valid(parent, depth, warn)
        metric = stored.read(newest.path / stored.FILE_NAME).checkpoint.best_metric
        described_here, validations = described(parent, warn), read_validations(run_dir)
        best = ranked(described_here, validations, metric)
        if not best:
            evaluated = any(manifest.validation or manifest.step in validations for _, manifest in described_here)
            reason = "has a validation with a finite loss" if evaluated else "was evaluated"
            raise NoValidCheckpoint(f"no checkpoint in {parent} {reason}, so none is the best")
        return best[0]
    step = checkpoint.removeprefix("step-")
    # a path is the user's own, so it may lead through links; what lies in a run directory may not
    path = parent / directory.name_of(int(step)) if step.isdecimal() else Path(checkpoint).resolve()
    if not is_directory(path):
        refuse_foreign(path, f"checkpoint={checkpoint}")
        if path.is_file() and is_directory(path.parent) and (path.parent / FILE_NAME).is_file():
            raise NoValidCheckpoint(
                f"checkpoint={checkpoint} is one file of a checkpoint; name its directory: "
                f"{shlex.quote(argument('checkpoint', path.parent))}"
            )
        names = ", ".join(found.name for found in directory.committed(parent))
        raise NoValidCheckpoint(f"checkpoint={checkpoint} does not exist; in {parent}: {names or 'none'}")
    return path


def refuse_foreign_run(run_dir: Path) -> None:
    """Refuse a directory of another program, a checkpoint and a directory of runs that are given as a run.

    Raises:
        NoValidCheckpoint: as ``refuse_foreign``.
        UsageError: it is a checkpoint of a run, the directory of its checkpoints, or a directory of runs.
    """
    if not directory.committed(run_dir / layout.CHECKPOINTS) and not places.is_run(run_dir):
        places.refuse_as_run(run_dir, f"run_dir={run_dir}")
        refuse_foreign(run_dir, f"run_dir={run_dir}")


def refuse_foreign(place: Path, given: str) -> None:
    """Refuse a directory of another program, where a run or a checkpoint of this one is needed. ``given`` is what the
    user wrote.

    Raises:
        NoValidCheckpoint: says what the directory is, and what can be done with it.
    """
    found = foreign.of(place)
    if found is not None:
        raise NoValidCheckpoint("\n".join([f"{given} is no run or checkpoint of this program", *found.lines()]))


def refuse_missing(run_dir: Path) -> None:
    """Refuse a run directory that does not exist.

    Raises:
        NoValidCheckpoint: as ``refuse_foreign``: it is a file of another program.
        UsageError: it is not there, or another file.
    """
    if is_directory(run_dir):
        return
    refuse_foreign(run_dir, f"run_dir={run_dir}")
    if run_dir.is_file():
        raise UsageError(
            f"run_dir={run_dir} is a file; name the directory of a run, which has {stored.FILE_NAME} and "
            f"{layout.CHECKPOINTS}/"
        )
    raise UsageError(f"run_dir={run_dir} does not exist")


def _verified(path: Path, depth: Depth, warn: Callable[[str], None]) -> Found:
    refuse_foreign(path, str(path))
    manifest = verify(path, depth)
    for note in foreign_note(path, manifest):
        warn(note)
    return Found(path, manifest, ())
