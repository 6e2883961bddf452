"""The run directory: what lies where, and the lock that keeps it to one writer."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import RunDirectoryInUse, UsageError

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
    """
    made = not run_dir.exists()
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(run_dir / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UsageError(f"run_dir={run_dir} cannot be written: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
            raise RunDirectoryInUse(
                f"{run_dir} is in use by {holder or 'another process'}; wait for it or choose another run_dir"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        if made and [path.name for path in run_dir.iterdir()] == [LOCK]:
            (run_dir / LOCK).unlink()
            run_dir.rmdir()
        os.close(descriptor)
