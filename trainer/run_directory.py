"""The run directory: what lies where, and the lock that keeps it to one writer."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import NotSaved, RunDirectoryInUse, UsageError

LOCK = ".lock"
CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
LOG = "train.log"


@contextmanager
def writing(run_dir: Path) -> Iterator[None]:
    """Hold the run directory, made if needed, for as long as the block runs.

    The kernel drops the lock with the process, so a crash leaves nothing behind. A directory that was made here and in
    which nothing was written is removed again.

    Raises:
        RunDirectoryInUse: another process holds it; names host and process.
        UsageError: the directory cannot be written, or its filesystem has no locks.
        NotSaved: the block met an error of the disk on a file of the run.
    """
    made = not run_dir.exists()
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
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
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    except OSError as error:
        if isinstance(error.filename, str | Path) and Path(error.filename).is_relative_to(run_dir):
            raise NotSaved(f"{error.filename}: {error.strerror}; what was committed before is untouched") from error
        raise
    finally:
        if made and run_dir.is_dir() and [path.name for path in run_dir.iterdir()] == [LOCK]:
            (run_dir / LOCK).unlink()
            run_dir.rmdir()
        with contextlib.suppress(OSError):  # a full disk; whoever holds it next writes a name of its own
            os.ftruncate(descriptor, 0)
        os.close(descriptor)


def _lock(run_dir: Path) -> int:
    """The descriptor of the locked lock file."""
    path = run_dir / LOCK
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise RunDirectoryInUse(
                f"{run_dir} is in use by {holder or 'another process'}; wait for it or choose another run_dir"
            ) from None
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder has just removed it, with the directory in which nothing was written
