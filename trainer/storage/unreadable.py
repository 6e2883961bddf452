"""Files that the system cannot read now: a permission, a failing disk, a filesystem that is not available.

That says nothing about the stored data, so it is not damage: nothing is moved, and nothing older is taken instead. A
file is damaged only if it was read and its content is wrong. A file that does not exist is missing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import BadRecord, TrainerError, UsageError
from trainer.storage.filesystems import RemoteError

# these describe what the path leads to: a later attempt would find the same
FOUND_OTHERWISE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG)
DISK = (errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.EREMOTEIO)
RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
AWAY = (errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN)
PERMISSION = (errno.EACCES, errno.EPERM)


class Unreadable(TrainerError):
    """A file of a run cannot be read now. The message names it, the reason and what to do.

    It is not a ``NoValidCheckpoint``: code that skips damaged checkpoints must not skip this one.
    """

    exit_status = 4


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Separate two kinds of ``OSError`` in the block: ``path`` cannot be read now, or the error says what it leads to.

    Raises:
        Unreadable: in place of an ``OSError`` of the first kind. One of the second kind is raised unchanged.
    """
    try:
        yield
    except OSError as error:
        refuse_unreadable(path, error)
        raise


def refuse_unreadable(path: Path, error: OSError) -> None:
    """Raise ``Unreadable`` unless ``error`` says what the path leads to. The error's own path, if any, is preferred."""
    if error.errno is None or error.errno in FOUND_OTHERWISE:
        return
    place = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes | Path) else path
    code = errno.errorcode[error.errno] if error.errno in errno.errorcode else f"error {error.errno}"
    raise Unreadable(
        f"{place} cannot be read: {os.strerror(error.errno)} ({code}); this is not damage, and nothing was moved\n"
        f"{_advice(place, error.errno)}, then run the same command again"
    ) from error


def is_directory(path: Path) -> bool:
    """Whether ``path`` is a directory, or a link to one.

    Raises:
        Unreadable: the system does not answer. In some versions of Python ``Path.is_dir`` returns False then.
    """
    try:
        with readable(path):
            return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError:
        return False


def unusable_record(place: str, error: OSError) -> UsageError:
    """The error for a data record that cannot be read. A bad record may be left out. An error that would have hit any
    record at that moment ends the run: otherwise a mount that is gone for a minute would leave out good images.
    """
    text = f"{place} cannot be read: {error.strerror}"
    if isinstance(error, RemoteError):
        return UsageError(text)
    if error.errno in (*AWAY, *RESOURCES):
        return UsageError(f"{text}; the record may be good\n{_advice(Path(), error.errno)}")
    return BadRecord(text)


def _advice(place: Path, number: int) -> str:
    if number in PERMISSION:
        return f"{_owner(place)}this process runs as user {os.geteuid()}: let it read (chmod, chown, or another user)"
    if number in DISK:
        return "the disk cannot read these bytes: look at the system log (dmesg), and repair or copy what it names"
    if number in RESOURCES:
        return "a limit of this machine was reached (ulimit -n for open files, memory): raise it"
    return "check that its filesystem is available (mount, network)"


def _owner(place: Path) -> str:
    """The owner and mode of ``place``, or of the first directory above it that this process can look at."""
    for path in (place, *place.absolute().parents):
        with contextlib.suppress(OSError):
            status = path.lstat()
            return f"{path} belongs to user {status.st_uid} with mode {stat.S_IMODE(status.st_mode):04o}, and "
    return ""
