"""The layout of a run directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.checkpoint import manifest
from trainer.checkpoint.directory import QUARANTINE, SUPERSEDED, remove_leftovers
from trainer.command_line import copy_command
from trainer.config import stored
from trainer.errors import NotSaved, NoValidCheckpoint, RunDirectoryLost, UsageError, warn
from trainer.run_directory import commit_mark
from trainer.storage import holding, lease
from trainer.storage.durable import make_directory
from trainer.storage.guarded import refuse_unless_directory, refuse_unless_file
from trainer.storage.holding import Held
from trainer.storage.unacceptable import Unacceptable

LOCK = ".lock"
CHECKPOINTS = manifest.CHECKPOINTS
METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
PREDICTIONS = "predictions"
LOG = "train.log"
TIME = "time.jsonl"
TRACKING = "tracking"
# what a sweep notes of the trial that a run is
FINISHED, FAILED, PRUNED = NOTES = ("finished.json", "failed.json", "pruned.json")

FILES = (LOCK, METRICS, LOG, TIME, stored.FILE_NAME, commit_mark.FILE_NAME)
DIRECTORIES = (
    CHECKPOINTS,
    f"{CHECKPOINTS}/{SUPERSEDED}",
    f"{CHECKPOINTS}/{QUARANTINE}",
    TENSORBOARD,
    f"{TENSORBOARD}/train",
    f"{TENSORBOARD}/val",
    PREDICTIONS,
    TRACKING,
)
# the names at the top of a run directory that only the run writes to
OWN = (*FILES, CHECKPOINTS, TENSORBOARD, PREDICTIONS, TRACKING)


@contextmanager
def _locked(held: Held, descriptor: int) -> Iterator[None]:
    """Hold the lease, in addition to the lock, and translate disk errors of the block."""
    try:
        with lease.leased(held.path / LOCK, descriptor, lambda text: warn(holding.named(text))) as taken_over:
            _refuse_if_lost(held)  # taking the lease may have needed seconds
            if taken_over:
                remove_leftovers(held.path / CHECKPOINTS)
            yield
    except (OSError, NotSaved, NoValidCheckpoint, UsageError) as error:
        _refuse_if_lost(held)  # a lookup by name may have found nothing, or another directory
        if isinstance(error, OSError) and isinstance(error.filename, str | Path):
            name = Path(holding.named(str(error.filename)))
            if name.is_relative_to(held.name):
                raise NotSaved(f"{name}: {error.strerror}; what was committed before is untouched") from error
        raise


def _refuse_if_lost(held: Held) -> None:
    try:
        held.refuse_if_lost()
    except RunDirectoryLost as error:
        raise RunDirectoryLost(f"{error}\nnothing was committed since; run this again where it is now") from error


def as_writer(run_dir: Path) -> Path:
    """The path where this process must write, now that it becomes the writer of ``run_dir``.

    Raises:
        RunDirectoryInUse: another process has taken the directory over.
        RunDirectoryLost: the name no longer leads to the directory that this process has locked.
    """
    place, held = holding.path_of(run_dir), holding.of(run_dir)
    assert held is not None
    lease.Fence(place / LOCK).look_now()
    _refuse_if_lost(held)
    return place


def hold_checkpoints(run_dir: Path) -> Path:
    """The path where this process, as the writer of ``run_dir``, must write checkpoints. The directory is made if
    needed. From now on it must also stay in its place.
    """
    place, held = holding.path_of(run_dir), holding.of(run_dir)
    assert held is not None
    make_directory(place / CHECKPOINTS)
    held.hold(CHECKPOINTS)
    return place / CHECKPOINTS


def refuse_links(run_dir: Path) -> None:
    """Refuse a run directory in which a name that this program writes to leads to another place.

    Such a name may be a symbolic link, a hard link to a file that has another name elsewhere, a FIFO or a device.
    ``run_dir`` itself may be a link, because the user chose it.

    Raises:
        UsageError: names the path and what it is.
    """
    try:
        for name in DIRECTORIES:
            if os.path.lexists(run_dir / name):
                refuse_unless_directory(run_dir / name)
        for name in FILES:
            if os.path.lexists(run_dir / name) and refuse_unless_file(run_dir / name).st_nlink > 1:
                raise Unacceptable(f"{run_dir / name} is a hard link: the same file has another name elsewhere")
    except Unacceptable as error:
        raise UsageError(
            f"run_dir={run_dir} cannot be used: {error}\n"
            "this program would write to another place; give the real directory, or a copy that shares no file with "
            f"it:\n  {copy_command(run_dir)}"
        ) from error
