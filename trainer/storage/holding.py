"""Directories that this process holds by a descriptor, not by their names.

A run takes days. In that time its directory may be renamed, deleted, replaced by a copy, or hidden by a mount. A
process that then writes by name writes to another place, or makes half a directory again where somebody cleared it. So
the run directory is opened once, and everything is written below ``Held.path``. That is ``/proc/self/fd/N``, which
leads to the directory wherever it is (Linux, proc(5)). A system without it uses the name. There, only the comparison of
name and descriptor protects a run: it ends the run before its next write.

Held directories belong to the process, as descriptors do, and so does the list of them. Messages use the name that the
user gave: see ``named``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import RunDirectoryLost, TrainerError

DESCRIPTORS = Path("/proc/self/fd")
NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE)  # no other error says what the name leads to


class Held:
    """One open directory. ``name`` is the user's name for it. ``path`` is the path for reading and writing."""

    def __init__(self, name: Path, found_at: Path) -> None:
        self.name = name
        self.descriptor = os.open(found_at, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        own = DESCRIPTORS / str(self.descriptor)
        self.path = own if self._is(own) else name
        self._inside: list[Held] = []
        self._followed = False

    def hold(self, name: str) -> None:
        """Hold a directory inside this one, too. It must also stay in its place."""
        self._inside.append(Held(self.name / name, self.path / name))

    def refuse_if_lost(self) -> None:
        """Takes a few microseconds. A filesystem that does not answer stops nothing.

        Raises:
            RunDirectoryLost: the name of this directory, or of one held inside it, no longer leads to it.
        """
        if not self._followed and (lost := self.lost()) is not None:
            raise RunDirectoryLost(lost.what_happened())

    def follow(self) -> None:
        """From now on the directory may be anywhere. Writes below ``path`` follow it."""
        self._followed = True

    def lost(self) -> Held | None:
        """The first directory that is not where its name says: this one or one held inside it. None if all are."""
        return next((held for held in (self, *self._inside) if not held._is(held.name, in_doubt=True)), None)

    def whereabouts(self) -> Path | None:
        """The current path of this directory; None when it has none."""
        with contextlib.suppress(OSError):
            path = Path(os.readlink(DESCRIPTORS / str(self.descriptor)))
            return path if self._is(path) else None
        return None

    def _is(self, path: Path, *, in_doubt: bool = False) -> bool:
        """Whether a path leads to this directory."""
        try:
            return os.path.samestat(os.stat(path), os.fstat(self.descriptor))
        except OSError as error:
            return in_doubt and error.errno not in NOT_THERE

    @property
    def is_deleted(self) -> bool:
        try:
            return os.fstat(self.descriptor).st_nlink == 0
        except OSError as error:
            return error.errno == errno.ESTALE  # NFS reports a deleted directory this way

    def what_happened(self) -> str:
        place = self.whereabouts()
        if place is not None:
            what = f"was moved to {place}"
        elif self.is_deleted:
            what = "was deleted, or moved to another filesystem,"
        else:
            what = "can no longer be reached under its name, because its filesystem was unmounted or another hides it,"
        another = "; something else now has its name" if os.path.lexists(self.name) else ""
        return f"{self.name} {what} while this process was using it{another}"

    def close(self) -> None:
        for held in (*self._inside, self):
            os.close(held.descriptor)


_held: list[Held] = []


@contextmanager
def held(name: Path) -> Iterator[Held]:
    """Hold a directory while the block runs. Errors of the block give it the user's name.

    Raises:
        OSError: the directory does not exist or cannot be read.
    """
    directory = Held(name, name)
    _held.append(directory)
    try:
        yield directory
    except TrainerError as error:
        error.args = (named(str(error)), *error.args[1:])
        raise
    finally:
        _held.remove(directory)
        directory.close()


def of(path: Path) -> Held | None:
    """The held directory with this name or path; None when there is none."""
    return next((directory for directory in _held if path in (directory.name, directory.path)), None)


def path_of(path: Path) -> Path:
    """The path for writing to something in a held directory; ``path`` itself when it lies in none."""
    for directory in _held:
        if path.is_relative_to(directory.name):
            return directory.path / path.relative_to(directory.name)
    return path


def named(text: str) -> str:
    """A message in which held directories have the names that their users know."""
    for directory in _held:
        if directory.path != directory.name:
            name = str(directory.name)
            text = name.join(re.split(rf"{re.escape(str(directory.path))}(?!\d)", text))
    return text
