"""The run directory: what lies where, and the lock that keeps it to one writer, with the lease behind it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer import commit_mark, holding, lease, places
from trainer.checkpoint import layout
from trainer.checkpoint.directory import QUARANTINE, SUPERSEDED, remove_leftovers
from trainer.checkpoint.files import make_directory
from trainer.command_line import copy_command
from trainer.config import stored
from trainer.errors import NotSaved, NoValidCheckpoint, RunDirectoryInUse, RunDirectoryLost, UsageError, warn
from trainer.holding import Held
from trainer.untrusted.errors import Unacceptable
from trainer.untrusted.files import refuse_unless_directory, refuse_unless_file

LOCK = ".lock"
CHECKPOINTS = layout.CHECKPOINTS
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
def writing(run_dir: Path) -> Iterator[None]:
    """Hold the run directory, made if needed, for as long as the block runs.

    The kernel drops the lock with the process, so a crash leaves nothing behind. After a crash on another host the
    lease must run out first (``trainer.lease``). A directory that was made here and in which nothing was written is
    removed again.

    Everything in it is to be written below ``holding.path_of(run_dir)``, so that it never comes to lie in another
    directory that has the name meanwhile.

    Raises:
        RunDirectoryInUse: another process holds it, or has taken it over meanwhile; names host and process.
        RunDirectoryLost: it is no longer where its name says, and the block did not notice by itself.
        UsageError: the directory cannot be written, it is or lies in a checkpoint, what is written there would end up
            elsewhere, or its filesystem has no locks.
        NotSaved: the block met an error of the disk on a file of the run.
    """
    places.refuse_in_checkpoint(run_dir, f"run_dir={run_dir}")
    made = not os.path.exists(run_dir)  # also where this may not be known; make_directory says so
    with contextlib.ExitStack() as stack:
        try:
            make_directory(run_dir)
            refuse_links(run_dir)
            held = stack.enter_context(holding.held(run_dir))
            descriptor = _lock(run_dir)
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                raise UsageError(
                    f"run_dir={run_dir} is on a filesystem without locks (flock: {error.strerror}), so nothing would "
                    "keep a second process from writing there\n"
                    "put it on another filesystem, or mount this one with locks; checkpoint.mirror can copy it here"
                ) from error
            raise UsageError(f"run_dir={run_dir} cannot be written: {error.strerror}") from error
        try:
            with _locked(held, descriptor):
                yield
        finally:
            if made and held.lost() is None and [path.name for path in run_dir.iterdir()] == [LOCK]:
                (run_dir / LOCK).unlink()
                run_dir.rmdir()
            os.close(descriptor)


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


def _lock(run_dir: Path) -> int:
    """The descriptor of the locked lock file."""
    path = run_dir / LOCK
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BlockingIOError:
            holder = lease.parse(lease.read(path))
            os.close(descriptor)
            raise RunDirectoryInUse(
                f"{run_dir} is in use by {holder or 'another process'}; wait for it or choose another run_dir"
            ) from None
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder has just removed it, with the directory in which nothing was written


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
