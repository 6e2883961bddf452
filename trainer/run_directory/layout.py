"""What lies where in a run directory."""

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

FILES = (LOCK, METRICS, LOG, stored.FILE_NAME, commit_mark.FILE_NAME)
DIRECTORIES = (
    CHECKPOINTS,
    f"{CHECKPOINTS}/{SUPERSEDED}",
    f"{CHECKPOINTS}/{QUARANTINE}",
    TENSORBOARD,
    f"{TENSORBOARD}/train",
    f"{TENSORBOARD}/val",
    PREDICTIONS,
)
# at the top of a run directory, what the run alone writes to
OWN = (*FILES, CHECKPOINTS, TENSORBOARD, PREDICTIONS)


@contextmanager
def _locked(held: Held, descriptor: int) -> Iterator[None]:
    """The lease, behind the lock; and what an error of the disk in the block is."""
    try:
        with lease.leased(held.path / LOCK, descriptor, lambda text: warn(holding.named(text))) as taken_over:
            _refuse_if_lost(held)  # it took its time
            if taken_over:
                remove_leftovers(held.path / CHECKPOINTS)
            yield
    except (OSError, NotSaved, NoValidCheckpoint, UsageError) as error:
        _refuse_if_lost(held)  # what was looked for by its name was not there, or was another's
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
    """Where this process, as the writer of ``run_dir`` that it now becomes, has to write.

    Raises:
        RunDirectoryInUse, RunDirectoryLost: it is not, or no longer, the one that this process was about to write to.
    """
    place, held = holding.path_of(run_dir), holding.of(run_dir)
    assert held is not None
    lease.Fence(place / LOCK).look_now()
    _refuse_if_lost(held)
    return place


def hold_checkpoints(run_dir: Path) -> Path:
    """Where this process, as the writer of ``run_dir``, has to write checkpoints; the directory is made if needed, and
    from now on it must stay where it is as well.
    """
    place, held = holding.path_of(run_dir), holding.of(run_dir)
    assert held is not None
    make_directory(place / CHECKPOINTS)
    held.hold(CHECKPOINTS)
    return place / CHECKPOINTS


def refuse_links(run_dir: Path) -> None:
    """Refuse a run directory in which a name that this program writes to leads to another place.

    Such a name may be a symbolic link, a hard link to a file that has another name elsewhere, a FIFO or a device.
    ``run_dir`` itself may be a link: its user gave it.

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
            "what this program writes there would end up in another place; give the real directory, or a copy that "
            f"shares nothing with it:\n  {copy_command(run_dir)}"
        ) from error
