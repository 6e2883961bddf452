"""Opening files without following a link out of their directory and without waiting for another process."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

from trainer.storage.unacceptable import Unacceptable

KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def refuse_unless_file(path: Path) -> os.stat_result:
    """The status of a regular file.

    Raises:
        Unacceptable: ``path`` is something else. A link to a file is also refused.
        OSError: it does not exist or cannot be reached.
    """
    return _refuse_unless(path, stat.S_IFREG, "a file")


def refuse_unless_directory(path: Path) -> os.stat_result:
    """As ``refuse_unless_file``, for a directory."""
    return _refuse_unless(path, stat.S_IFDIR, "a directory")


def _refuse_unless(path: Path, wanted: int, words: str) -> os.stat_result:
    status = path.lstat()
    kind = stat.S_IFMT(status.st_mode)
    if kind != wanted:
        target = f" to {os.readlink(path)}" if kind == stat.S_IFLNK else ""
        found = KINDS[kind] if kind in KINDS else "a file"
        raise Unacceptable(f"{path} is {found}{target}, but must be {words}")
    return status


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file for reading.

    The kind of file is checked before it is opened, because opening alone can act on a device, and again afterwards.

    Raises:
        Unacceptable: it is a link, directory, FIFO, socket or device.
        OSError: it does not exist or cannot be read.
    """
    refuse_unless_file(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Unacceptable(f"{path} changed while it was opened")
    return os.fdopen(descriptor, "rb")


def read_text(path: Path, limit: int) -> str:
    """The text of a file of at most ``limit`` bytes.

    Raises:
        Unacceptable: it is not a regular file, it is larger than ``limit``, or it is not UTF-8.
        OSError: it does not exist or cannot be read.
    """
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise Unacceptable(f"{path} has {path.stat().st_size:,} bytes; a file of this program has at most {limit:,}")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unacceptable(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from error
