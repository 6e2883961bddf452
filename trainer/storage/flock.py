"""A lock of the kernel on a file of its own: it ends with the process that holds it, which leaves nothing behind."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def locked(path: Path, *, wait: bool) -> int | None:
    """The descriptor of a locked file, made if needed; to close it ends the lock. None when another process holds the
    lock, and this one does not ``wait`` for it.

    Raises:
        OSError: the file cannot be written (it has its name as ``filename``), or its filesystem has no locks.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
