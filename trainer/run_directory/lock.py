"""One writer for each run directory: a kernel lock, and a lease in addition for other hosts."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import RunDirectoryInUse, UsageError
from trainer.run_directory import places
from trainer.run_directory.layout import LOCK, _locked, refuse_links
from trainer.storage import holding, lease
from trainer.storage.durable import make_directory


@contextmanager
def writing(run_dir: Path) -> Iterator[None]:
    """Hold the run directory while the block runs. It is made if needed.

    The kernel drops the lock with the process, so a crash leaves nothing behind. After a crash on another host the
    lease must expire first (``trainer.storage.lease``). If the block wrote nothing, what this function made is removed
    again: the lock file, and the directory.

    Callers must write to it below ``holding.path_of(run_dir)``. Otherwise they could write to another directory that
    has taken the name meanwhile.

    Raises:
        RunDirectoryInUse: another process holds it, or has taken it over meanwhile. The message names host and process.
        RunDirectoryLost: it is no longer where its name says, and the block did not notice this itself.
        UsageError: the directory cannot be written, it is or lies in a checkpoint, a name in it leads to another place,
            or its filesystem has no locks.
        NotSaved: the block met a disk error on a file of the run.
    """
    places.refuse_in_checkpoint(run_dir, f"run_dir={run_dir}")
    made = not os.path.exists(run_dir)  # also when it cannot be read: make_directory reports that
    with contextlib.ExitStack() as stack:
        try:
            make_directory(run_dir)
            refuse_links(run_dir)
            held = stack.enter_context(holding.held(run_dir))
            before = os.listdir(run_dir)
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
            if LOCK not in before and held.lost() is None and set(os.listdir(run_dir)) == {*before, LOCK}:
                (run_dir / LOCK).unlink()
                if made:
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
        os.close(descriptor)  # its holder has just removed it, with an empty run directory
