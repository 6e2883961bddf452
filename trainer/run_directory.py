"""The run directory: what lies where, and the lock that keeps it to one writer, with the lease behind it."""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer import lease
from trainer.checkpoint.directory import QUARANTINE, SUPERSEDED, remove_leftovers
from trainer.checkpoint.files import make_directory
from trainer.config import stored
from trainer.errors import NotSaved, RunDirectoryInUse, UsageError, warn
from trainer.untrusted.errors import Unacceptable
from trainer.untrusted.files import refuse_unless_directory, refuse_unless_file

LOCK = ".lock"
CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
PREDICTIONS = "predictions"
LOG = "train.log"

FILES = (LOCK, METRICS, LOG, stored.FILE_NAME)
DIRECTORIES = (
    CHECKPOINTS,
    f"{CHECKPOINTS}/{SUPERSEDED}",
    f"{CHECKPOINTS}/{QUARANTINE}",
    TENSORBOARD,
    f"{TENSORBOARD}/train",
    f"{TENSORBOARD}/val",
    PREDICTIONS,
)


def resume_command(run_dir: Path, *arguments: str) -> str:
    """The command that continues a run, to be copied to a shell."""
    return shlex.join(["python", "-m", "trainer", "resume", f"run_dir={run_dir}", *arguments])


@contextmanager
def writing(run_dir: Path) -> Iterator[None]:
    """Hold the run directory, made if needed, for as long as the block runs.

    The kernel drops the lock with the process, so a crash leaves nothing behind. After a crash on another host the
    lease must run out first (``trainer.lease``). A directory that was made here and in which nothing was written is
    removed again.

    Raises:
        RunDirectoryInUse: another process holds it, or has taken it over meanwhile; names host and process.
        UsageError: the directory cannot be written, what is written there would end up elsewhere, or its filesystem
            has no locks.
        NotSaved: the block met an error of the disk on a file of the run.
    """
    made = not run_dir.exists()
    try:
        make_directory(run_dir)
        refuse_links(run_dir)
        descriptor = _lock(run_dir)
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise UsageError(
                f"run_dir={run_dir} is on a filesystem without locks (flock: {error.strerror}), so nothing would keep "
                "a second process from writing there\n"
                "put it on another filesystem, or mount this one with locks; checkpoint.mirror can copy it here"
            ) from error
        raise UsageError(f"run_dir={run_dir} cannot be written: {error.strerror}") from error
    try:
        with lease.leased(run_dir / LOCK, descriptor, warn) as taken_over:
            if taken_over:
                remove_leftovers(run_dir / CHECKPOINTS)
            yield
    except OSError as error:
        if isinstance(error.filename, str | Path) and Path(error.filename).is_relative_to(run_dir):
            raise NotSaved(f"{error.filename}: {error.strerror}; what was committed before is untouched") from error
        raise
    finally:
        if made and run_dir.is_dir() and [path.name for path in run_dir.iterdir()] == [LOCK]:
            (run_dir / LOCK).unlink()
            run_dir.rmdir()
        os.close(descriptor)


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
            f"shares nothing with it:\n  {_copy_command(run_dir)}"
        ) from error


def _copy_command(run_dir: Path) -> str:
    """A command that copies a run directory so that no file has a second name, within the copy or outside of it."""
    names = (run_dir.with_name(f"{run_dir.name}-copy{number or ''}") for number in range(10**6))
    new = next(name for name in names if not os.path.lexists(name))
    return shlex.join(["cp", "-a", "--no-preserve=links", "--reflink=auto", "--", str(run_dir), str(new)])
