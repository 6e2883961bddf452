"""What the system cannot read now: a permission, a disk that fails, a filesystem that is away.

That says nothing about what is stored, so it is no damage: nothing is moved, and nothing older is taken instead. Only
what was read and is wrong is damaged, and what is not there is missing.
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

# these say what is there, and no later attempt would find anything else
FOUND_OTHERWISE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG)
DISK = (errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.EREMOTEIO)
RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
AWAY = (errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN)
PERMISSION = (errno.EACCES, errno.EPERM)


class Unreadable(TrainerError):
    """Something of a run cannot be read now; the message names it, the reason and what to do.

    It is no ``NoValidCheckpoint``: who passes over what is damaged must not pass over this.
    """

    exit_status = 4


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Tell, of the errors of the block, those that keep ``path`` from being read from those that say what is there.

    Raises:
        Unreadable: in place of an ``OSError`` of the first kind; those of the second go on.
    """
    try:
        yield
    except OSError as error:
        refuse_unreadable(path, error)
        raise


def refuse_unreadable(path: Path, error: OSError) -> None:
    """Raise ``Unreadable`` unless ``error`` says what is there; its own path, where it has one, is the better one."""
    if error.errno is None or error.errno in FOUND_OTHERWISE:
        return
    place = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes | Path) else path
    code = errno.errorcode[error.errno] if error.errno in errno.errorcode else f"error {error.errno}"
    raise Unreadable(
        f"{place} cannot be read: {os.strerror(error.errno)} ({code}); this is no damage, and nothing was moved\n"
        f"{_advice(place, error.errno)}, then run the same command again"
    ) from error


def is_directory(path: Path) -> bool:
    """Whether ``path`` is a directory, or a link to one.

    Raises:
        Unreadable: the system cannot tell, where ``Path.is_dir`` of some versions of Python answers no.
    """
    try:
        with readable(path):
            return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError:
        return False


def unusable_record(place: str, error: OSError) -> UsageError:
    """The error for a record of the data that cannot be read: a bad one, which may be left out, or, where the error
    would have met any record at that moment, one that ends the run. Else a mount that is away for a minute would leave
    out good images.
    """
    text = f"{place} cannot be read: {error.strerror}"
    if error.errno in (*AWAY, *RESOURCES):
        return UsageError(f"{text}; the record may be good\n{_advice(Path(), error.errno)}")
    return BadRecord(text)


def _advice(place: Path, number: int) -> str:
    if number in PERMISSION:
        return f"{_owner(place)}this process is of user {os.geteuid()}: let it read (chmod, chown, or another user)"
    if number in DISK:
        return "the disk cannot give these bytes: look at the system's log (dmesg) and mend or copy what it names"
    if number in RESOURCES:
        return "a limit of this machine was reached (ulimit -n for open files, memory): raise it"
    return "see that its filesystem is there (mount, network)"


def _owner(place: Path) -> str:
    """Whom the first thing on the way that this process may look at, but not read, belongs to."""
    for path in (place, *place.absolute().parents):
        with contextlib.suppress(OSError):
            status = path.lstat()
            return f"{path} is of user {status.st_uid} with mode {stat.S_IMODE(status.st_mode):04o}, and "
    return ""
