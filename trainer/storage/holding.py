"""Directories that this process holds by a descriptor, not by their names.

A run goes on for days, and meanwhile its directory may be renamed, deleted, replaced by a copy, or hidden by a mount.
Who writes by name then writes somewhere else, or makes half a directory again at a place that was cleared. So a run
directory is opened once and everything is written below ``Held.path``, ``/proc/self/fd/N``, which leads to that
directory wherever it is (Linux, proc(5)). Without that, on another system, the name has to do, and what is left is the
comparison of name and descriptor, which ends a run before its next write.

What is held belongs to the process, as descriptors do, and so is the list of it. Messages have the name that the user
gave: see ``named``.
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
NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE)  # any other error says nothing about what is there


class Held:
    """One directory, open. ``name`` is what its user calls it, ``path`` is where to read and write it."""

    def __init__(self, name: Path, found_at: Path) -> None:
        self.name = name
        self.descriptor = os.open(found_at, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        own = DESCRIPTORS / str(self.descriptor)
        self.path = own if self._is(own) else name
        self._inside: list[Held] = []
        self._followed = False

    def hold(self, name: str) -> None:
        """Hold a directory in this one, too: it must stay where it is as well."""
        self._inside.append(Held(self.name / name, self.path / name))

    def refuse_if_lost(self) -> None:
        """Costs a few microseconds. A filesystem that does not answer does not stop anything.

        Raises:
            RunDirectoryLost: the name no longer leads to this directory, or that of one inside it does not.
        """
        if not self._followed and (lost := self.lost()) is not None:
            raise RunDirectoryLost(lost.what_happened())

    def follow(self) -> None:
        """From now on the directory may be anywhere: what is written below ``path`` is written there."""
        self._followed = True

    def lost(self) -> Held | None:
        """What is not where its name says: this directory, or one that is held inside it; None when all are."""
        return next((held for held in (self, *self._inside) if not held._is(held.name, in_doubt=True)), None)

    def whereabouts(self) -> Path | None:
        """The present path of this directory; None when it has none."""
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
            return error.errno == errno.ESTALE  # what NFS says of it

    def what_happened(self) -> str:
        place = self.whereabouts()
        if place is not None:
            what = f"was moved to {place}"
        elif self.is_deleted:
            what = "was deleted, or moved to another filesystem,"
        else:
            what = "can no longer be reached under its name, because its filesystem was unmounted or another hides it,"
        another = "; there is something else under its name now" if os.path.lexists(self.name) else ""
        return f"{self.name} {what} while this process was using it{another}"

    def close(self) -> None:
        for held in (*self._inside, self):
            os.close(held.descriptor)


_held: list[Held] = []


@contextmanager
def held(name: Path) -> Iterator[Held]:
    """Hold a directory for as long as the block runs; errors of the block name it as its user does.

    Raises:
        OSError: there is no such directory, or it cannot be read.
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
    """The directory that is held and has this name or path; None when there is none."""
    return next((directory for directory in _held if path in (directory.name, directory.path)), None)


def path_of(path: Path) -> Path:
    """Where to write to what has a path in a directory that is held; the path itself when it is in none."""
    for directory in _held:
        if path.is_relative_to(directory.name):
            return directory.path / path.relative_to(directory.name)
    return path


def named(text: str) -> str:
    """A message in which the directories that are held have the names that their users know."""
    for directory in _held:
        if directory.path != directory.name:
            name = str(directory.name)
            text = name.join(re.split(rf"{re.escape(str(directory.path))}(?!\d)", text))
    return text
