"""What a commit does to single files: written, digested, flushed, replaced whole."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path

from trainer.storage.guarded import open_regular
from trainer.storage.unreadable import readable


def sync(path: Path) -> None:
    """Flush a file or a directory to disk.

    Raises:
        OSError: with the path, which the system call itself does not know.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Make a directory, and those above it that are missing, so that their names outlive a power failure.

    Raises:
        OSError: one cannot be made.
    """
    if not path.is_dir():
        make_directory(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


def digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal; raises ``Unacceptable`` for anything that is not a regular file."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stored_digest(path: Path) -> str:
    """``digest`` of a file that is to be judged, and not of one that was just written.

    Raises:
        Unacceptable: as ``digest``.
        Unreadable: the system cannot read it now.
        FileNotFoundError: it is missing.
    """
    with readable(path):
        return digest(path)


def replace(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Give a file its new content, whole or in pieces, so that a crash leaves it whole, with the old content or the
    new.

    What else the old file was called elsewhere keeps the old content.
    """
    temporary = path.with_name(f".{path.name}")
    temporary.unlink(missing_ok=True)  # a crash may have left it, or a foreign directory have it lead elsewhere
    with temporary.open("xb") as file:
        file.writelines([content] if isinstance(content, bytes) else content)
    sync(temporary)
    temporary.rename(path)
    sync(path.parent)


def cut(path: Path, size: int) -> None:
    """Shorten a file to ``size`` bytes, durably before anything is appended to it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    try:
        os.ftruncate(descriptor, size)
    finally:
        os.close(descriptor)
    sync(path)


def copy_tree(source: Path, target: Path) -> None:
    """Copy a directory with all that is in it, and bring the copy to disk. ``target`` must not exist.

    A link stays a link. What is no file, directory or link is made anew: a damaged directory may hold anything.

    Raises:
        OSError: something cannot be read or written; names it.
    """
    target.mkdir()
    for path in sorted(source.iterdir()):
        copy, mode = target / path.name, path.lstat().st_mode
        if stat.S_ISDIR(mode):
            copy_tree(path, copy)
        elif stat.S_ISLNK(mode):
            copy.symlink_to(os.readlink(path))
        elif stat.S_ISREG(mode):
            _copy_file(path, copy)
        else:
            os.mknod(copy, mode, path.lstat().st_rdev)
    shutil.copystat(source, target)
    sync(target)


def _copy_file(source: Path, target: Path) -> None:
    try:
        with open_regular(source) as there, target.open("xb") as here:
            shutil.copyfileobj(there, here)
    except OSError as error:
        error.filename = error.filename or str(source)  # a read or write knows its file by descriptor only
        raise
    shutil.copystat(source, target)
    sync(target)
