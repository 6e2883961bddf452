"""What a commit does with single files: write, digest, flush, replace as a whole."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path

from trainer.storage.going_on import WRITES
from trainer.storage.guarded import open_regular
from trainer.storage.unreadable import readable


def sync(path: Path) -> None:
    """Flush a file or a directory to disk.

    Raises:
        OSError: carries the path, which the system call itself does not know.
    """
    with WRITES.doing(lambda: f"flushing {path} to the disk"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            error.filename = str(path)
            raise
        finally:
            os.close(descriptor)


def make_directory(path: Path) -> None:
    """Make a directory and its missing parents, so that their names survive a power failure.

    Raises:
        OSError: one of them cannot be made.
    """
    if not path.is_dir():
        make_directory(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


def digest(path: Path) -> str:
    """The SHA-256 of a file, hexadecimal. Raises ``Unacceptable`` for anything that is not a regular file."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stored_digest(path: Path) -> str:
    """``digest`` of a stored file that the caller verifies. A file that was just written goes through ``digest``.

    Raises:
        Unacceptable: as ``digest``.
        Unreadable: the system cannot read it now.
        FileNotFoundError: it is missing.
    """
    with readable(path):
        return digest(path)


def replace(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Replace the content of a file. A crash leaves the whole old content or the whole new content.

    ``content`` is one piece or several. Other hard links to the old file keep the old content.
    """
    temporary = path.with_name(f".{path.name}")
    temporary.unlink(missing_ok=True)  # a crash may have left it, or in a foreign directory it may lead elsewhere
    with temporary.open("xb") as file:
        file.writelines([content] if isinstance(content, bytes) else content)
    sync(temporary)
    temporary.rename(path)
    sync(path.parent)


def cut(path: Path, size: int) -> None:
    """Shorten a file to ``size`` bytes. The new size is durable before anything is appended."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    try:
        os.ftruncate(descriptor, size)
    finally:
        os.close(descriptor)
    sync(path)


def copy_tree(source: Path, target: Path) -> None:
    """Copy a directory with all its content, and flush the copy to disk. ``target`` must not exist.

    A link stays a link. FIFOs, sockets and devices are made again, because a damaged directory may hold anything.

    Raises:
        OSError: a file cannot be read or written. The error names it.
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
        error.filename = error.filename or str(source)  # a read or write knows only the descriptor
        raise
    shutil.copystat(source, target)
    sync(target)
